"""Traces made by hand."""

import numpy as np

from mhmoe_jax.analysis.trace import Trace, TraceMeta
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
