"""A trace as a page can carry it: text once, numbers as bytes.

Arrays are gzipped and in base64. Weights, entropies and losses are rounded to 256
levels, which is finer than what a page shows. A character belongs to the token that
holds its first byte, so a text is the tokens' texts one behind the other; a token that
holds no first byte has no text.

T tokens, N MoE layers, H heads, K experts per sub-token.
"""

import base64
import gzip
import json
from typing import Any

import numpy as np

from mhmoe_jax.analysis.traces.trace import Trace

LEVELS = 255


def pack_array(values: np.ndarray) -> dict[str, Any]:
  """Whole numbers from 0 on, in one byte each or two."""
  kind = "u1" if values.size == 0 or values.max() < 2**8 else "u2"
  content = np.ascontiguousarray(values, f"<{kind}").tobytes()
  data = base64.b64encode(gzip.compress(content, mtime=0)).decode()
  return {"kind": kind, "data": data}


def pack_levels(values: np.ndarray, top: float) -> dict[str, Any]:
  """Numbers in [0, top] as levels; `unit` is what a level is worth."""
  top = max(float(top), 1e-12)
  return pack_array(np.round(values / top * LEVELS)) | {"unit": top / LEVELS}


def pack_text(trace: Trace) -> dict[str, Any]:
  """The text and where its tokens are.

  Returns:
    documents: label, text and number of tokens of each. units: UTF-16 code units of
    each token's text. bytes: of each token.
  """
  units_T = np.empty(len(trace.stop_T), np.int64)
  documents = []
  first_U = np.searchsorted(trace.document_T, np.arange(len(trace.documents) + 1))
  for i, document in enumerate(trace.documents):
    tokens = slice(first_U[i], first_U[i + 1])
    content = np.frombuffer(document.text.encode(), np.uint8)
    # A character beyond the first 65,536 has four bytes and two code units.
    units_B = ((content & 0xC0) != 0x80) * (1 + (content >= 0xF0))
    before = np.concatenate([[0], np.cumsum(units_B)])
    units_T[tokens] = before[trace.stop_T[tokens]] - before[trace.start_T[tokens]]
    stop = int(trace.stop_T[tokens][-1]) if tokens.stop > tokens.start else 0
    while stop < len(content) and units_B[stop] == 0:
      stop += 1  # The last character, though some of its tokens are not here.
    text = content[:stop].tobytes().decode()
    count = int(tokens.stop - tokens.start)
    documents.append({"label": document.label, "text": text, "tokens": count})
  size_T = trace.stop_T - trace.start_T
  return {
    "documents": documents,
    "units": pack_array(units_T),
    "bytes": pack_array(size_T),
  }


def pack_routing(trace: Trace) -> dict[str, Any]:
  """What became of the tokens: the loss, and for each MoE layer the choices."""
  any_dropped_N = trace.dropped_TNHK.any(axis=(0, 2, 3))
  top_entropy = max(np.log(trace.meta.num_experts), float(trace.entropy_TNH.max()))
  top_weight = float(trace.weight_TNHK.max())
  loss_T = np.nan_to_num(trace.loss_T)
  # Experts of a second pool are numbered behind those of the first.
  second_T = ~trace.is_patch_T & (len(trace.meta.pools) > 1)
  expert_TNHK = trace.expert_TNHK.astype(np.int32)
  expert_TNHK += trace.meta.num_experts * second_T[:, None, None, None]
  told = not np.isnan(trace.loss_T).all()
  return {
    "loss": pack_levels(loss_T, float(loss_T.max())) if told else None,
    "layers": [
      {
        "expert": pack_array(expert_TNHK[:, n]),
        "weight": pack_levels(trace.weight_TNHK[:, n], top_weight),
        "entropy": pack_levels(trace.entropy_TNH[:, n], top_entropy),
        "dropped": pack_array(trace.dropped_TNHK[:, n]) if any_dropped_N[n] else None,
      }
      for n in range(len(trace.meta.layers))
    ],
  }


def choose_tokens(trace: Trace, max_tokens: int) -> Trace:
  """The beginning of the trace, with as many tokens of each label as of the others.

  Whole documents, but for the last one of each label.
  """
  if len(trace.document_T) <= max_tokens:
    return trace
  labels, label_U = np.unique([d.label for d in trace.documents], return_inverse=True)
  label_T = label_U[trace.document_T]
  keep_T = np.zeros(len(label_T), bool)
  # The rarest first: what they leave is for the others.
  counts = np.bincount(label_T, minlength=len(labels))
  left = max_tokens
  for i, label in enumerate(np.argsort(counts, kind="stable")):
    share = min(counts[label], left // (len(labels) - i))
    keep_T[np.flatnonzero(label_T == label)[:share]] = True
    left -= share
  return trace.select(keep_T)


def to_script(value: Any) -> str:
  """JSON that can stand in a script element: no text in it can close the element."""
  return json.dumps(
    value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
  ).replace("<", "\\u003c")
