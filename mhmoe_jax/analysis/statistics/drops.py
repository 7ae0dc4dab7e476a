"""What a limited capacity drops, and what it costs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.traces.trace import Trace


class Drops(NamedTuple):
  """Shares in [0, 1]; a sub-token is dropped if all of its K choices are."""

  choices_N: np.ndarray  # of all choices
  some_N: np.ndarray  # tokens with at least one dropped sub-token
  all_N: np.ndarray  # tokens with nothing else: only the residual passes the layer


def measure(trace: Trace) -> Drops:
  """What was dropped in each MoE layer."""
  lost_TNH = trace.dropped_TNHK.all(axis=-1)
  return Drops(
    choices_N=trace.dropped_TNHK.mean(axis=(0, 2, 3)),
    some_N=lost_TNH.any(axis=-1).mean(axis=0),
    all_N=lost_TNH.all(axis=-1).mean(axis=0),
  )


class DropCost(NamedTuple):
  """Traces of one text by capacity factor, ascending; X of them."""

  factor_X: np.ndarray
  choices_XN: np.ndarray
  some_XN: np.ndarray
  all_XN: np.ndarray
  loss_X: np.ndarray  # nats per token
  extra_X: np.ndarray  # more than with the largest factor


def cost_by_capacity(traces: Sequence[Trace]) -> DropCost:
  """What each capacity factor drops and costs.

  Raises:
    ValueError: the traces are not of one text.
  """
  check_same_text(traces)
  factors = [t.meta.config["model"]["moe"]["eval_capacity_factor"] for t in traces]
  order = np.argsort(factors, kind="stable")
  drops = [measure(traces[i]) for i in order]
  loss_X = np.array([traces[i].loss_T.mean(dtype=np.float64) for i in order])
  return DropCost(
    np.array(factors)[order],
    *(np.stack(x) for x in zip(*drops, strict=True)),
    loss_X=loss_X,
    extra_X=loss_X - loss_X[-1],
  )


def check_same_text(traces: Sequence[Trace]) -> None:
  """Raises ValueError unless all traces have the same tokens of the same documents."""
  first = traces[0]
  for other in traces[1:]:
    same = other.documents == first.documents
    same = same and all(
      np.array_equal(getattr(other, name), getattr(first, name))
      for name in ("stop_T", "row_T", "column_T")
    )
    if same and first.pictures is not None:
      same = np.array_equal(first.pictures.pixels_UYXC, other.pictures.pixels_UYXC)
    if not same:
      raise ValueError(
        "traces that are compared must be of one text or the same pictures, got others "
        f"for {first.meta.name} step {first.meta.step} and {other.meta.name} step "
        f"{other.meta.step}."
      )
