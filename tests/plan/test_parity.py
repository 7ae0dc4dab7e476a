"""The rivals reach the parity they promise; 2411.16205's own models keep theirs."""

import dataclasses

import pytest

from configs import base
from mhmoe_jax.plan import accounting, report
from mhmoe_jax.plan.parity import parities
from mhmoe_jax.train.config import resolve


@pytest.fixture(scope="module")
def plan():
  """2411.16205's h=2 model with one pair of layers and a small vocabulary."""
  config = base.get_config()
  config.model.update({"num_layers": 2, "embed_dim": 768, "num_attention_heads": 12})
  config.model.update({"ffn_dim": 2048, "activation": "swiglu", "vocab_size": 512})
  config.model.moe.update({"num_heads": 2, "num_experts": 40, "expert_dim": 768})
  return report.plan_model(resolve(config))


@pytest.fixture(scope="module")
def found(plan):
  return {rival.name: rival for rival in plan.rivals}


def test_report(plan):
  shown = plan.text()
  for word in ("in experts", "forward", "optimizer state", "smoe, both"):
    assert word in shown


def test_names_and_order(found):
  assert list(found) == [
    "mhmoe",
    "dense, equal parameters",
    "dense, equal flops",
    "smoe, equal parameters",
    "smoe, equal flops",
    "smoe, both",
  ]


def test_figures_are_those_of_the_model_itself(plan, found):
  """What follows from two widths, or two numbers of experts, is what is counted."""
  for name in ("dense, equal parameters", "smoe, equal flops", "smoe, both"):
    rival = found[name]
    model = dataclasses.replace(plan.cfg.model, ffn=name.split(",")[0])
    if rival.num_experts:
      new = {"expert_dim": rival.hidden, "num_experts": rival.num_experts}
      model = dataclasses.replace(model, moe=dataclasses.replace(model.moe, **new))
    else:
      model = dataclasses.replace(model, ffn_dim=rival.hidden)
    cfg = dataclasses.replace(plan.cfg, model=model)
    assert rival.parameters == accounting.count_parameters(cfg.task)
    assert rival.flops == accounting.count_flops(cfg, training=False).forward


@pytest.mark.parametrize("ffn", ["dense", "smoe"])
def test_parity_is_reached(found, ffn):
  equal_parameters, equal_flops = (
    found[f"{ffn}, equal {what}"] for what in ("parameters", "flops")
  )
  assert parities(equal_parameters) == (True, False)
  assert parities(equal_flops) == (False, True)
  assert abs(equal_flops.flop_ratio - 1) < 1e-3
  both = found["smoe, both"]  # as near as a whole number of experts can be
  assert abs(both.flop_ratio - 1) < 2e-3  # its router is smaller
  one = both.parameters.expert / both.num_experts
  assert abs(both.parameters.total - found["mhmoe"].parameters.total) <= one / 2 + 1e4


def test_hidden_widths_by_hand(found):
  """Head and merge layer cost 2 D^2; 2 experts of 384 x 768 cost 3 * 384 * 768 each.

  An SMoE with top-2 of 3 * 768 * F spends as much with F = 768 + 768 / 3 (2411.16205's
  SwiGLU rule with k = 2), less half a column for its smaller router.
  """
  assert found["smoe, equal flops"].hidden in (1023, 1024)
  assert found["mhmoe"].num_experts == 40
  assert found["dense, equal flops"].num_experts == 0
