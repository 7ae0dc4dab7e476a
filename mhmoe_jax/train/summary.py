"""A run in a dozen lines: what was trained, how well, and what to try next."""

from collections.abc import Mapping
import math

import numpy as np

from mhmoe_jax.moe.telemetry import active_share
from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.loop import Result


def describe(cfg: RunConfig, result: Result) -> str:
  """The summary that ends `mhmoe train`."""
  parameters = count_parameters(cfg.task, result.params)
  lines = [
    f"model           {cfg.model.ffn}, {parameters.total:,} parameters, "
    f"at most {parameters.active:,} active per token",
    f"trained         {result.step} of {cfg.train.num_steps} steps",
  ]
  if math.isfinite(result.tokens_per_second):
    lines.append(f"speed           {result.tokens_per_second:,.0f} tokens/s")
  if result.evaluation is not None:
    lines += result.evaluation.in_words()
    lines += _describe_loads(result.evaluation.loads)
  return "\n".join(lines)


def _describe_loads(loads: Mapping[str, np.ndarray]) -> list[str]:
  """How many experts are in use, by what was routed; nothing of a dense model."""
  if not loads:
    return []
  loads_NE = {name: load_NHE.mean(axis=1) for name, load_NHE in loads.items()}
  shares = {n: float(active_share(load_NE).mean()) for n, load_NE in loads_NE.items()}
  words = ", ".join(f"{n} {share:.1%}".lstrip() for n, share in shares.items())
  N, E = next(iter(loads_NE.values())).shape
  return [
    f"active experts  {words} get more than a tenth of an even share, over {N} MoE "
    f"layers of {E} experts"
  ]
