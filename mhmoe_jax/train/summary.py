"""A run in a dozen lines: what was trained, how well, and what to try next."""

import math

from mhmoe_jax.moe.telemetry import active_share
from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.loop import Result


def describe(cfg: RunConfig, result: Result) -> str:
  """The summary that ends `mhmoe train`."""
  parameters = count_parameters(cfg.model, result.params)
  lines = [
    f"model           {cfg.model.ffn}, {parameters.total:,} parameters, "
    f"at most {parameters.active:,} active per token",
    f"trained         {result.step} of {cfg.train.num_steps} steps",
  ]
  if math.isfinite(result.tokens_per_second):
    lines.append(f"speed           {result.tokens_per_second:,.0f} tokens/s")
  if result.evaluation is not None:
    e = result.evaluation
    lines.append(
      f"validation      {e.bits_per_byte:.4f} bits per byte, perplexity "
      f"{e.perplexity:.3f} per token, over {e.num_bytes:,} bytes"
    )
    lines += [
      f"  {name:13} {part.bits_per_byte:.4f} bits per byte, perplexity "
      f"{part.perplexity:.3f}, over {part.num_bytes:,} bytes"
      for name, part in e.members.items()
    ]
    if e.load_NHE is not None:
      load_NE = e.load_NHE.mean(axis=1)
      lines.append(
        f"active experts  {float(active_share(load_NE).mean()):.1%} get more than a "
        f"tenth of an even share, over {load_NE.shape[0]} MoE layers of "
        f"{load_NE.shape[1]} experts"
      )
  return "\n".join(lines)
