"""Traces made by hand."""

import dataclasses

import numpy as np

from mhmoe_jax.analysis.traces.trace import Pictures, Trace, TraceMeta
from mhmoe_jax.data.documents import Document


def make_trace(expert_TNHK, num_experts, documents=None, **fields):
  """A trace of tokens of one byte with given experts; other fields by their names."""
  expert_TNHK = np.array(expert_TNHK, np.int16)
  T, N, H, K = expert_TNHK.shape
  if documents is None:
    documents = [Document("en", "abcdefghijklmnop"[:T])]
  content = [document.text.encode() for document in documents]
  position_T = np.concatenate([np.arange(len(c)) for c in content])[:T]
  meta = TraceMeta(
    name=fields.pop("name", "made"),
    step=fields.pop("step", 0),
    config=fields.pop("config", {}),
    layers=tuple(range(1, 2 * N, 2)),
    num_heads=H,
    num_experts=num_experts,
    top_k=K,
    vocabulary="bytes",
    window=fields.pop("window", 4),
    data_files=(),
    num_tokens=T,
    num_documents=len(documents),
  )
  arrays = {
    "document_T": np.repeat(np.arange(len(content)), list(map(len, content)))[:T],
    "position_T": position_T,
    "start_T": position_T,
    "stop_T": position_T + 1,
    "text_T": np.array([chr(b) for c in content for b in c][:T], object),
    "row_T": np.full(T, -1, np.int16),
    "column_T": np.full(T, -1, np.int16),
    "loss_T": np.ones(T, np.float32),
    "expert_TNHK": expert_TNHK,
    "weight_TNHK": np.full(expert_TNHK.shape, 0.5, np.float32),
    "dropped_TNHK": np.zeros(expert_TNHK.shape, bool),
    "entropy_TNH": np.zeros((T, N, H), np.float32),
  }
  return Trace(meta, documents, **(arrays | fields))


def make_pictures(patches_TNHK, num_experts, side, words="", pools=("shared",)):
  """A trace of pictures of `side` x `side` patches of 4 pixels, each with the words.

  Args:
    patches_TNHK: experts of all patches, then of the words, picture by picture.
    num_experts: E of a pool.
    side: patches in a row.
    words: text of each picture.
    pools: names of the pools.
  """
  expert_TNHK = np.array(patches_TNHK, np.int16)
  P, W = side * side, len(words)
  count, rest = divmod(len(expert_TNHK), P + W)
  assert not rest
  patch_T = np.tile(np.arange(P + W), count)
  is_patch_T = patch_T < P
  rng = np.random.default_rng(0)
  trace = make_trace(
    expert_TNHK,
    num_experts,
    [Document("shapes", "." * P + words)] * count,
    row_T=np.where(is_patch_T, patch_T // side, -1).astype(np.int16),
    column_T=np.where(is_patch_T, patch_T % side, -1).astype(np.int16),
    loss_T=np.full(len(expert_TNHK), np.nan, np.float32),
    pictures=Pictures(
      [f"x/{i}.png" for i in range(count)],
      rng.integers(0, 256, (count, 4 * side, 4 * side, 3)).astype(np.uint8),
      np.full((count, side, side), np.nan, np.float32),
    ),
  )
  codes = np.array([f"code {i % 3}" for i in range(len(expert_TNHK))], object)
  byte_T = np.where(is_patch_T, 0, patch_T - P)
  return dataclasses.replace(
    trace,
    meta=dataclasses.replace(
      trace.meta, pools=pools, picture_size=4 * side, patch_size=4, window=P + W
    ),
    documents=[Document("shapes", words)] * count,
    text_T=np.where(is_patch_T, codes, trace.text_T),
    start_T=byte_T,
    stop_T=byte_T + ~is_patch_T,
  )
