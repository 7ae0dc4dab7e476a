"""What is worth knowing first about a router: one number a row."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.statistics import activation, diversity, drops, heads, modality
from mhmoe_jax.analysis.statistics.training import DEAD_BELOW
from mhmoe_jax.analysis.traces.trace import Trace


class Row(NamedTuple):
  """A row of the table: what is measured, and for each model what it is."""

  name: str
  means: str  # in a line, and what is healthy
  values: list[str]
  healthy: list[bool | None]  # None: neither


def at_a_glance(traces: Sequence[Trace]) -> list[Row]:
  """The table. What counts as healthy is a rule of thumb and stands in the table.

  Of a model with several pools of experts a value says what each of them has.
  """
  rows: list[tuple[str, str, Callable[[Trace], tuple[str, bool | None]]]] = [
    (
      "active experts",
      f"more than {DEAD_BELOW:g} of an even share; healthy: 95 %",
      _active,
    ),
    ("busiest expert", "its load in even shares; healthy: under 4", _busiest),
    ("distinct experts a token", "of as many as it could reach in a block", _distinct),
    ("router's entropy", "of its maximum; healthy: 5 to 95 %", _entropy),
    ("agreement of heads", "same first choice; healthy: under 50 %", _agreement),
    ("dropped choices", "that found no slot; healthy: under 5 %", _dropped),
    ("language by expert", "bits that an expert tells about a token's label", _labels),
    ("experts of both", "dead for neither patches nor words, of one pool", _both),
    ("bits per byte", "of this text", _bits),
  ]
  made = []
  for name, means, measure in rows:
    found = [_of_pools(measure, trace) for trace in traces]
    if any(value for value, _ in found):
      values, healthy = zip(*found, strict=True)
      made.append(Row(name, means, list(values), list(healthy)))
  return made


def _of_pools(measure, trace: Trace) -> tuple[str, bool | None]:
  split = trace.split_pools()
  found = {pool: measure(part) for pool, part in split.items()}
  if len(split) == 1 or not all(value for value, _ in found.values()):
    return next(iter(found.values()))
  healthy = [well for _, well in found.values()]
  values = (f"{pool} {value}" for pool, (value, _) in found.items())
  return "; ".join(values), None if None in healthy else all(healthy)


def _active(trace):
  alive_NE = activation.measure(trace).load_NE > DEAD_BELOW
  share = alive_NE.mean()
  return f"{share:.0%} ({alive_NE.sum()} of {alive_NE.size})", bool(share >= 0.95)


def _busiest(trace):
  load_NE = activation.measure(trace).load_NE
  n, e = np.unravel_index(load_NE.argmax(), load_NE.shape)
  where = f"block {trace.meta.layers[n]}, expert {e}"
  return f"{load_NE[n, e]:.2f} ({where})", bool(load_NE[n, e] < 4)


def _distinct(trace):
  most = min(trace.expert_TNHK[0, 0].size, trace.meta.num_experts)
  return f"{diversity.distinct_experts(trace).mean():.2f} of {most}", None


def _entropy(trace):
  share = heads.head_entropy(trace).mean() / max(np.log(trace.meta.num_experts), 1e-12)
  return f"{share:.0%}", bool(0.05 <= share <= 0.95)


def _agreement(trace):
  H = trace.meta.num_heads
  if H == 1:
    return "", None
  agreement_NHH = heads.head_agreement(trace)
  share = agreement_NHH[:, ~np.eye(H, dtype=bool)].mean()
  return f"{share:.1%}, by chance {1 / trace.meta.num_experts:.1%}", bool(share < 0.5)


def _dropped(trace):
  share = drops.measure(trace).choices_N.mean()
  return f"{share:.1%}", bool(share < 0.05)


def _labels(trace):
  if len({document.label for document in trace.documents}) < 2:
    return "", None
  bits_N = heads.label_load(trace).information_N
  return f"{bits_N.max():.2f} (block {trace.meta.layers[bits_N.argmax()]})", None


def _both(trace):
  made = modality.measure_sharing(trace)
  return (f"{made.both_N.mean():.0%}" if made else ""), None


def _bits(trace):
  if np.isnan(trace.loss_T).any():
    return "", None
  size = int((trace.stop_T - trace.start_T).sum())
  return f"{trace.loss_T.sum(dtype=np.float64) / np.log(2) / size:.3f}", None
