"""The dense and SMoE models that a config is fairly compared with.

2404.15045 compares models of equal parameters, 2411.16205 of equal FLOPs; a config
rarely has both. The rivals keep the config's depth, width, attention, `moe_every` and
`top_k`, and get the hidden width that reaches parity; the last of them also has the
number of experts that comes nearest to the other parity.

Figures are counted from real models of two widths, or of two numbers of experts, as
both parameters and FLOPs are linear in these: the figures of every other follow
exactly, as a test asserts.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

from mhmoe_jax.plan.accounting import (
  Parameters,
  count_flops,
  count_parameters,
  parameters_of,
)
from mhmoe_jax.train.config import RunConfig


class Rival(NamedTuple):
  """A model and what it costs; ratios are to the config's own model."""

  name: str
  hidden: int  # hidden width of the dense FFN or of an expert
  num_experts: int  # 0 for a dense model
  parameters: Parameters
  flops: float  # forward, per token
  parameter_ratio: float
  flop_ratio: float


def rivals(cfg: RunConfig) -> list[Rival]:
  """The config's model first, then those of equal parameters or equal FLOPs."""
  costs = _count(cfg)
  own = _compare(cfg.model.ffn, cfg, costs, costs)
  found = [own]
  for ffn in ("dense", "smoe"):
    line = _draw_line(lambda n, ffn=ffn: _with_hidden(_with(cfg, ffn=ffn), n))
    for parity in ("parameters", "flops"):
      target = costs.total if parity == "parameters" else costs.flops
      n = line.solve(target, parity)
      if n >= 1:
        name = f"{ffn}, equal {parity}"
        found.append(_compare(name, line.resized(n), line.at(n), costs))
  if n >= 1:  # The SMoE of equal FLOPs.
    smoe, least = line.resized(n), cfg.model.moe.top_k
    line = _draw_line(lambda n: _with_moe(smoe, num_experts=n), least)
    n = line.solve(costs.total, "parameters")
    if n >= least:
      found.append(_compare("smoe, both", line.resized(n), line.at(n), costs))
  return found


def parities(rival: Rival, tolerance: float = 0.02) -> tuple[bool, bool]:
  """Whether parameters and FLOPs are equal to those of the config's model."""
  return (
    abs(rival.parameter_ratio - 1) <= tolerance,
    abs(rival.flop_ratio - 1) <= tolerance,
  )


class _Costs(NamedTuple):
  """What is linear in a width, and in a number of experts."""

  expert: int  # parameters in experts
  other: int  # and elsewhere
  flops: float  # forward, per token

  @property
  def total(self) -> int:
    return self.expert + self.other


class _Line(NamedTuple):
  """The costs of `resized(n)` for every n, from those of two."""

  resized: Callable[[int], RunConfig]
  low: int
  high: int
  at_low: _Costs
  at_high: _Costs

  def at(self, n: int) -> _Costs:
    run, step = self.high - self.low, n - self.low
    costs = zip(self.at_low, self.at_high, strict=True)
    expert, other, flops = (a + (b - a) * step / run for a, b in costs)
    return _Costs(round(expert), round(other), flops)

  def solve(self, target: float, measure: str) -> int:
    """The n whose parameters, or FLOPs, are nearest to `target`."""
    name = "total" if measure == "parameters" else "flops"
    low, high = getattr(self.at_low, name), getattr(self.at_high, name)
    return round(self.low + (target - low) * (self.high - self.low) / (high - low))


def _draw_line(resized: Callable[[int], RunConfig], least: int = 1) -> _Line:
  low, high = 8 * least, 16 * least
  return _Line(resized, low, high, _count(resized(low)), _count(resized(high)))


def _count(cfg: RunConfig) -> _Costs:
  parameters = count_parameters(cfg.task)
  flops = count_flops(cfg, training=False).forward
  return _Costs(parameters.expert, parameters.other, flops)


def _compare(name: str, cfg: RunConfig, costs: _Costs, own: _Costs) -> Rival:
  model = cfg.model
  dense = model.ffn == "dense"
  return Rival(
    name=name,
    hidden=model.ffn_dim if dense else model.moe.expert_dim,
    num_experts=0 if dense else model.moe.num_experts,
    parameters=parameters_of(model, costs.expert, costs.other),
    flops=costs.flops,
    parameter_ratio=costs.total / own.total,
    flop_ratio=costs.flops / own.flops,
  )


def _with_hidden(cfg: RunConfig, width: int) -> RunConfig:
  if cfg.model.ffn == "dense":
    return _with(cfg, ffn_dim=width)
  return _with_moe(cfg, expert_dim=width)


def _with(cfg: RunConfig, **changes) -> RunConfig:
  return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **changes))


def _with_moe(cfg: RunConfig, **changes) -> RunConfig:
  return _with(cfg, moe=dataclasses.replace(cfg.model.moe, **changes))
