"""The counts against formulas worked out by hand; the formulas live only here."""

import jax
import pytest

from configs import base
from mhmoe_jax.plan import accounting
from mhmoe_jax.train.config import resolve

L, D, F, V, N = 16, 32, 48, 50, 4


def small(ffn, **moe):
  config = base.get_config()
  config.model.update({"ffn": ffn, "num_layers": N, "embed_dim": D, "ffn_dim": F})
  config.model.vocab_size = V
  config.model.moe.update({"num_experts": 6, "expert_dim": 20, "top_k": 3} | moe)
  config.data.sequence_length = L
  config.train.batch_size = 4
  return config


def attention():
  return 4 * 2 * D * D + 2 * 2 * L * D


@pytest.mark.parametrize(("activation", "matrices"), [("gelu", 2), ("swiglu", 3)])
@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_dense_model(activation, matrices, remat):
  config = small("dense")
  config.model.update({"activation": activation, "remat": remat})
  cfg = resolve(config)
  parameters = accounting.count_parameters(cfg.task)
  block = 4 * D * D + matrices * D * F + 2 * D
  assert parameters == (N * block + D + V * D,) * 2 + (0, N * block + D + V * D)
  forward = N * (attention() + matrices * 2 * D * F) + 2 * D * V
  assert accounting.count_flops(cfg) == (forward, 3 * forward)


def test_grouped_queries():
  """Four heads of width 12 share the keys and values of two; queries have a norm."""
  config = small("dense")
  config.model.update({"num_kv_heads": 2, "head_dim": 12, "qk_norm": "head"})
  cfg = resolve(config)
  parameters = accounting.count_parameters(cfg.task)
  maps = (4 + 2 + 2 + 4) * 12 * D
  block = maps + 2 * 12 + 2 * D * F + 2 * D
  assert parameters.total == N * block + D + V * D
  forward = N * (2 * maps + 2 * 2 * L * 4 * 12 + 2 * 2 * D * F) + 2 * D * V
  assert accounting.count_flops(cfg) == (forward, 3 * forward)


@pytest.mark.parametrize("dispatch", ["sorted", "einsum"])
@pytest.mark.parametrize("heads", [1, 4])
def test_moe_model(heads, dispatch):
  """Every second block has experts: 6 of width 20, of which 3 serve a sub-token."""
  M, E, K, X = D // heads, 6, 3, 20
  cfg = resolve(small("mhmoe", num_heads=heads, dispatch=dispatch))
  parameters = accounting.count_parameters(cfg.task)
  expert = 2 * E * 2 * M * X
  layer = 2 * D * D + M * E
  other = N * (4 * D * D + 2 * D) + 2 * 2 * D * F + 2 * layer + D + V * D
  used = min(heads * K, E)
  assert parameters == (expert + other, other + expert * used // E, expert, other)

  experts = heads * K * 2 * 2 * M * X
  layer = 2 * 2 * D * D + heads * 2 * M * E + experts
  forward = N * attention() + 2 * (2 * 2 * D * F + layer) + 2 * D * V
  assert accounting.count_flops(cfg) == (forward, 3 * forward)


def test_smoe_has_no_head_and_merge_layers():
  smoe = accounting.count_parameters(resolve(small("smoe", num_heads=4)).task)
  same = accounting.count_parameters(
    resolve(small("mhmoe", num_heads=1, num_linear=0)).task
  )
  assert smoe == same


def test_sizes():
  cfg = resolve(small("mhmoe"))
  parameters = accounting.count_parameters(cfg.task).total
  sizes = accounting.count_sizes(cfg)
  assert sizes.params == 4 * parameters
  assert sizes.optimizer == 8 * parameters + 2 * 4  # two moments and two counts


def test_remat_keeps_less_and_parts_are_smaller():
  config = small("dense")
  whole = accounting.count_sizes(resolve(config)).activations
  config.train.accumulate_steps = 2
  assert accounting.count_sizes(resolve(config)).activations == whole // 2
  config.model.remat = "blocks"
  kept = accounting.count_sizes(resolve(config)).activations
  # Of every block its input, and around the blocks what a model without any keeps.
  assert N * 2 * L * D * 4 < kept < whole // 4


def test_the_bytes_of_a_tree():
  batch = resolve(small("mhmoe")).task.batch_shapes(2)
  assert {x.shape for x in jax.tree.leaves(batch)} == {(2, L)}
  assert accounting.tree_bytes(batch) == 5 * 2 * L * 4
