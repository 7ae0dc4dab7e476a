"""The papers' models have the papers' counts, to the digit, counted when built."""

import dataclasses

import jax
import pytest

from configs.paper1 import english, multilingual, multimodal
from configs.paper2 import redpajama
from mhmoe_jax import MultiHeadMoe
from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.train.config import resolve

# 2404.15045 Table 11, in millions: expert parameters and all.
TABLE_11 = {
  8: (213, 354),
  16: (430, 571),
  32: (898, 1039),
  64: (1797, 1938),
  128: (3624, 3765),
  256: (7230, 7371),
}
XMOE = {8: 360.8, 16: 587.8, 32: 1041.8, 64: 1949.7, 128: 3765.4, 256: 7397.0}


def count(module, row):
  return count_parameters(resolve(module.get_config(row)).task)


def test_paper1_baselines():
  assert count(english, "dense").total == 162_168_576
  assert count(english, "xmoe_8").total == 360_843_264
  for experts, millions in XMOE.items():
    assert round(count(english, f"xmoe_{experts}").total / 1e6, 1) == millions


def test_paper1_multimodal():
  """BEiT-3's base with both heads; what of Table 11 is met, the config says."""
  # torchscale's, less two rows in each of two tables of positions that nothing uses.
  assert count(multimodal, "dense").total == 276_510_730 - 4 * 768
  ffn = 2 * 768 * 3072 + 3072 + 768 + 2 * 3072  # and the norm inside
  xmoe = count(multimodal, "xmoe_8")
  assert xmoe.expert == 3 * 2 * 8 * ffn
  # Table 11 counts the other layers' FFNs with the experts.
  mhmoe = count(multimodal, "mhmoe_8").expert + 18 * ffn
  assert round(mhmoe / 1e6) == 310


@pytest.mark.parametrize("experts", TABLE_11)
def test_paper1_mhmoe(experts):
  found = count(english, f"mhmoe_{experts}")
  assert found.other == 140_903_424 + 6 * 16 * (experts - 8)
  rounded = round(found.expert / 1e6), round(found.total / 1e6)
  assert rounded == TABLE_11[experts]
  assert found.total <= count(english, f"xmoe_{experts}").total


def test_paper1_heads_have_as_many_parameters():
  """Table 5; the number beside the experts at 2 heads is in the authors' log."""
  assert count(english, "heads_2").other == 140_921_856
  assert english.get_config("heads_4") == english.get_config("mhmoe_8")
  total = count(english, "mhmoe_8").total
  for heads in english.HEADS:
    # Narrower sub-tokens make narrower routers, which the match leaves out.
    assert abs(count(english, f"heads_{heads}").total - total) < 5e-5 * total


def test_paper1_components():
  """Tables 6 and 7 add and take away the linear layers, 768 * 769 each, and no more."""
  one = 6 * 768 * 769
  dense, xmoe, mhmoe = (count(english, n).total for n in ("dense", "xmoe_8", "mhmoe_8"))
  assert count(english, "dense_mlp").total == dense + 2 * one
  assert count(english, "xmoe_mlp").total == xmoe + 2 * one
  assert count(english, "mhmoe_without_split").total == xmoe + 2 * one
  assert count(english, "mhmoe_without_mlp").total == mhmoe - 2 * one
  for n in range(4):
    assert count(english, f"linear_{n}").total == mhmoe + (n - 1) * 2 * one


def test_paper1_recipes():
  printed = resolve(english.get_config("mhmoe_8"))
  logged = resolve(english.get_config("mhmoe_8,logged"))
  assert (logged.model, logged.objective) == (printed.model, printed.objective)
  for cfg, rate, warmup, tokens in (
    (printed, 5e-4, 10_000, 2**20),
    (logged, 6e-4, 375, 2**19),
  ):
    optimizer = cfg.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (rate, warmup)
    assert cfg.train.batch_size * cfg.data.sequence_length == tokens
  assert english.get_config("dense,printed") == english.get_config("dense")
  other = multilingual.get_config("xmoe_32,logged")
  assert resolve(other).model == resolve(english.get_config("xmoe_32")).model


def macs(row):
  """Multiply-adds of one token in one MoE layer's matrices, from the built layer."""
  cfg = resolve(redpajama.get_config(row)).model
  if cfg.ffn == "dense":
    return 3 * cfg.embed_dim * cfg.ffn_dim
  layer = cfg.layer
  x_BLD = jax.ShapeDtypeStruct((1, 1, cfg.embed_dim), cfg.dtype)
  shapes = jax.eval_shape(MultiHeadMoe(layer).init, jax.random.key(0), x_BLD)["params"]
  sizes = {
    part: sum(x.size for x in jax.tree.leaves(p) if x.ndim > 1)
    for part, p in shapes.items()
  }
  uses = sizes["experts"] * layer.num_heads * layer.top_k
  assert uses % layer.num_experts == 0
  others = sum(n for part, n in sizes.items() if part not in ("experts", "router"))
  return uses // layer.num_experts + others


SMOE = 4_718_592
LINEAR = 768 * 768  # multiply-adds of a head or merge layer


@pytest.mark.parametrize(
  ("suffix", "expected"), [("", SMOE), ("_bitnet", SMOE), ("_shared", 2 * SMOE)]
)
def test_paper2_does_equal_work(suffix, expected):
  """Tables 1, 2 and 3."""
  for model in ("dense", "smoe", "finegrained", "mhmoe_h2", "mhmoe_h3"):
    if model + suffix != "dense_shared":
      assert macs(model + suffix) == expected, model


def test_paper2_ablations():
  """Table 4 is equal with and without layers, Table 5 gives no work back."""
  for row in ("smoe", "finegrained", "mhmoe_h2_wide_bare"):
    assert macs(row) == SMOE
  for row in ("smoe_layers", "finegrained_layers", "mhmoe_h2_wide"):
    assert macs(row) == SMOE + 2 * LINEAR
  assert macs("mhmoe_h2_bare") == SMOE - 2 * LINEAR
  assert macs("mhmoe_h2_head_only") == macs("mhmoe_h2_merge_only") == SMOE - LINEAR


def test_paper2_has_biases_in_head_and_merge_layers_alone():
  """As the released code, whose --no-bias does not reach them."""
  found = count(redpajama, "mhmoe_h2").total
  config = redpajama.get_config("mhmoe_h2")
  config.model.moe.linear_bias = False
  assert found - count_parameters(resolve(config).task).total == 6 * 2 * 768


@pytest.mark.parametrize(
  ("config", "activation"),
  [(english.get_config(), "gelu"), (redpajama.get_config(), "swiglu")],
)
def test_what_the_papers_code_computes(config, activation):
  """What changes no count: see the configs' headers."""
  model = resolve(config).model
  for table in (model, model.moe):
    assert table.activation == activation
    assert table.ffn_norm_epsilon == 1e-5
    assert table.ffn_norm == model.norm
    assert table.init == "torch"
  assert model.norm_epsilon == 1e-5
  if activation == "gelu":
    assert (model.dropout, model.moe_dropout, model.moe.expert_dropout) == (0.1, 0, 0.1)
    assert (model.moe.router, model.moe.router_norm) == ("projected", 1.5)


def test_paper2_experts():
  """Expert parameters a layer: 37.75M of SMoE, 36.57M less layers, 38.93M."""
  expected = {
    "smoe": (8, 2048, 1),
    "finegrained": (16, 1024, 2),
    "mhmoe_h2": (40, 768, 2),
    "mhmoe_h3": (96, 512, 3),
    "mhmoe_h2_wide": (32, 1024, 2),
  }
  for row, shape in expected.items():
    layer = resolve(redpajama.get_config(row)).model.layer
    assert (layer.num_experts, layer.expert_dim, layer.top_k) == shape
  assert count(redpajama, "smoe").expert == 6 * 37_748_736
  assert count(redpajama, "finegrained").expert == 6 * 37_748_736
  assert count(redpajama, "mhmoe_h2_wide").expert == 6 * 37_748_736
  shared = count(redpajama, "mhmoe_h3_shared").total
  assert shared - count(redpajama, "mhmoe_h3").total == 6 * SMOE
  assert resolve(redpajama.get_config("smoe_bitnet")).model.bitnet
  assert (
    dataclasses.replace(
      resolve(redpajama.get_config("smoe_bitnet")).model.layer, bitnet=False
    )
    == resolve(redpajama.get_config("smoe")).model.layer
  )


@pytest.mark.parametrize("module", [english, multilingual, redpajama])
def test_a_mistyped_row_is_one_line_that_lists_the_rows(module):
  for row in ("mhmo_8", "mhmoe_8,loged"):
    with pytest.raises(ValueError) as error:
      module.get_config(row)
    message = str(error.value)
    assert message.startswith("the row must be one of dense, ")
    assert message.endswith(f"got {row!r}.")
    assert "\n" not in message
