"""A run in a dozen lines: what was trained, how well, and what to try next."""

import math

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
    for name, load_NHE in result.evaluation.loads.items():
      load_NE = load_NHE.mean(axis=1)
      label, of = ("active experts", "") if not name else (f"  {name}", f" of {name}")
      lines.append(
        f"{label:15} {float(active_share(load_NE).mean()):.1%} get more than a tenth "
        f"of an even share{of}, over {load_NE.shape[0]} MoE layers of "
        f"{load_NE.shape[1]} experts"
      )
  return "\n".join(lines)
