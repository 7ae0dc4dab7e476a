"""Every fast path equals the oracle, the algebra holds, the future stays unseen."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe.config import DISPATCHES
from mhmoe_jax.moe.experts import DenseFfn
from mhmoe_jax.moe.ffn import ExpertWeights, expert_ffn

B, L, D = 2, 6, 32
BASE = MoeConfig(num_heads=4, num_experts=8, expert_dim=12)
VARIANTS = {
  "gelu": {},
  "swiglu, no bias": {"activation": "swiglu", "use_bias": False},
  "cosine, renormalised": {"router": "cosine", "renormalize": True},
  "projected, sub-LN": {"router": "projected", "sub_ln": True},
  "residual, two linear layers": {"residual": True, "num_linear": 2},
  "no linear layer, top-1": {"num_linear": 0, "top_k": 1},
  "head layer, shared expert, BitNet": {
    "use_merge_layer": False,
    "shared_dim": 20,
    "bitnet": True,
  },
}
AMPLE = {"dispatch": "einsum", "eval_capacity_factor": 100.0}
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def make(key, config, width=D):
  """A layer, parameters away from their initial zeros, and tokens."""
  p_key, n_key, x_key = jax.random.split(key, 3)
  layer = MultiHeadMoe(config)
  x_BLD = jax.random.normal(x_key, (B, L, width))
  params = jax.jit(layer.init)(p_key, x_BLD)
  leaves, tree = jax.tree.flatten(params)
  noise = jax.random.split(n_key, len(leaves))
  leaves = [
    w + 0.1 * jax.random.normal(k, w.shape) for w, k in zip(leaves, noise, strict=True)
  ]
  return layer, jax.tree.unflatten(tree, leaves), x_BLD


@functools.partial(jax.jit, static_argnums=0)
def apply(layer, params, x_BLD, mask_BL=None):
  return layer.apply(params, x_BLD, mask_BL)


def run(layer, params, x_BLD, mask_BL=None):
  """Output, auxiliary values and gradients of a loss that touches all of them."""

  def loss(params, x_BLD):
    y_BLD, aux = layer.apply(params, x_BLD, mask_BL)
    loss = jnp.sin(y_BLD).sum() + aux.balance_loss + 0.1 * aux.router_z_loss
    return loss, (y_BLD, aux)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x_BLD)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_sorted_equals_einsum_with_ample_capacity(key, variant):
  config = dataclasses.replace(BASE, **variant)
  layer, params, x_BLD = make(key, config)
  oracle = MultiHeadMoe(dataclasses.replace(config, **AMPLE))
  mask_BL = jnp.arange(L)[None] < jnp.array([[L], [4]])
  jax.tree.map(
    close, run(layer, params, x_BLD, mask_BL), run(oracle, params, x_BLD, mask_BL)
  )


def test_layer_equals_the_equations_written_out(key):
  """2404.15045 Eq. 3-9, one sub-token at a time."""
  config = dataclasses.replace(BASE, use_bias=False, residual=True)
  layer, params, x_BLD = make(key, config)
  p = params["params"]
  M = D // config.num_heads
  expected = np.zeros((B, L, D))
  for b in range(B):
    for t in range(L):
      head_D = x_BLD[b, t] @ p["head"]["w_0_DP"]
      merged = []
      for i in range(config.num_heads):
        x_M = head_D[i * M : (i + 1) * M]
        gate_E = jax.nn.softmax(x_M @ p["router"]["w_ME"])
        out_M = x_M
        for e in np.argsort(-np.asarray(gate_E))[: config.top_k]:
          h_F = np.asarray(x_M @ p["experts"]["w_in_EMF"][e])
          h_F = h_F * [(1 + math.erf(h / 2**0.5)) / 2 for h in h_F]
          out_M += gate_E[e] * (h_F @ p["experts"]["w_out_EFM"][e])
        merged.append(out_M)
      expected[b, t] = jnp.concatenate(merged) @ p["merge"]["w_0_DP"]
  close(apply(layer, params, x_BLD)[0], expected)


def test_one_head_without_linear_layers_is_an_smoe(key):
  config = dataclasses.replace(BASE, num_heads=1, num_linear=0, use_bias=False)
  layer, params, x_BLD = make(key, config)
  assert set(params["params"]) == {"router", "experts"}
  p = params["params"]
  gates_BLE = jax.nn.softmax(x_BLD @ p["router"]["w_ME"])
  weights = ExpertWeights(p["experts"]["w_in_EMF"], p["experts"]["w_out_EFM"])
  every_EBLD = jax.vmap(lambda w: expert_ffn(w, x_BLD.reshape(-1, D)))(weights)
  every_EBLD = every_EBLD.reshape(-1, B, L, D)
  threshold = jnp.sort(gates_BLE)[..., -config.top_k, None]
  chosen_BLE = jnp.where(gates_BLE >= threshold, gates_BLE, 0)
  close(
    apply(layer, params, x_BLD)[0], jnp.einsum("BLE,EBLD->BLD", chosen_BLE, every_EBLD)
  )


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_one_expert_is_a_dense_ffn(key, dispatch):
  config = MoeConfig(1, 1, 12, top_k=1, num_linear=0, dispatch=dispatch)
  layer, params, x_BLD = make(key, config)
  one = ExpertWeights(**params["params"]["experts"])
  y_RD = expert_ffn(jax.tree.map(lambda w: w[0], one), x_BLD.reshape(-1, D))
  y_BLD, aux = apply(layer, params, x_BLD)
  close(y_BLD, y_RD.reshape(x_BLD.shape))
  close(aux.balance_loss, 1.0)


def test_one_expert_needs_no_router(key):
  config = MoeConfig(1, 1, 12, top_k=1)
  assert set(make(key, config)[1]["params"]) == {"head", "experts", "merge"}


def test_shared_expert_is_added_to_the_rest(key):
  layer, params, x_BLD = make(key, dataclasses.replace(BASE, shared_dim=20))
  p = params["params"]
  shared = DenseFfn(20, BASE.style)
  rest = {"params": {name: p[name] for name in p if name != "shared"}}
  close(
    apply(layer, params, x_BLD)[0],
    apply(MultiHeadMoe(BASE), rest, x_BLD)[0]
    + shared.apply({"params": p["shared"]}, x_BLD),
  )


@pytest.mark.parametrize("part", ["head", "merge"])
def test_either_linear_layer_may_be_left_out(key, part):
  """It is the identity then, 2411.16205 Table 5."""
  layer, params, x_BLD = make(key, dataclasses.replace(BASE, use_bias=False))
  params["params"][part]["w_0_DP"] = jnp.eye(D)
  without = MultiHeadMoe(
    dataclasses.replace(BASE, use_bias=False, **{f"use_{part}_layer": False})
  )
  rest = {"params": {k: v for k, v in params["params"].items() if k != part}}
  assert (
    jax.eval_shape(without.init, key, x_BLD)["params"].keys() == rest["params"].keys()
  )
  close(apply(without, rest, x_BLD)[0], apply(layer, params, x_BLD)[0])


def test_experts_may_be_renumbered(key):
  layer, params, x_BLD = make(key, BASE)
  order = jax.random.permutation(key, BASE.num_experts)
  p = params["params"]
  renumbered = p | {
    "experts": jax.tree.map(lambda w: w[order], p["experts"]),
    "router": {"w_ME": p["router"]["w_ME"][:, order]},
  }
  y_BLD, aux = apply(layer, params, x_BLD)
  z_BLD, aux_z = apply(layer, {"params": renumbered}, x_BLD)
  close(z_BLD, y_BLD)
  close(aux_z.stats.load_HE, aux.stats.load_HE[:, order])


@pytest.mark.parametrize("dispatch", ["capacity", "einsum"])
def test_dropped_sub_tokens_add_exactly_zero(key, dispatch):
  config = dataclasses.replace(
    BASE, dispatch=dispatch, eval_capacity_factor=1e-6, num_linear=0
  )
  layer, params, x_BLD = make(key, config)
  y_BLD, aux = apply(layer, params, x_BLD)
  # One slot per expert and example: at most E * 1 choices of L * H * K survive.
  assert aux.stats.dropped_sender >= 1 - 8 / (L * 4 * 2)
  np.testing.assert_array_equal(y_BLD[:, -1], jnp.zeros((B, D)))


def test_padding_changes_nothing_and_gets_only_the_bias(key):
  layer, params, x_BLD = make(key, BASE)
  mask_BL = jnp.arange(L)[None] < jnp.array([[4], [4]])
  y_BLD, aux = apply(layer, params, x_BLD, mask_BL)
  z_BLD, aux_z = apply(layer, params, x_BLD.at[:, 4:].set(99.0), mask_BL)
  np.testing.assert_array_equal(y_BLD, z_BLD)
  jax.tree.map(np.testing.assert_array_equal, aux, aux_z)
  bias_D = params["params"]["merge"]["b_0_P"]
  np.testing.assert_array_equal(y_BLD[:, 4:], jnp.broadcast_to(bias_D, (B, 2, D)))
  jax.tree.map(close, aux, apply(layer, params, x_BLD[:, :4])[1])


@pytest.mark.parametrize("router", ["linear", "cosine", "projected"])
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_the_future_is_not_seen_through_routing(key, router, dispatch):
  """Perturbed, not differentiated: a dropped choice has no gradient."""
  config = dataclasses.replace(
    BASE, router=router, dispatch=dispatch, eval_capacity_factor=0.5
  )
  layer, params, x_BLD = make(key, config)
  y_BLD, aux = apply(layer, params, x_BLD)
  assert (aux.stats.dropped_sender > 0.1) == (dispatch in ("capacity", "einsum"))
  assert aux.stats.dropped_receiver == 0
  for t in range(1, L):
    for seed in range(3):
      other = jax.random.normal(jax.random.key(seed), (B, L - t, D))
      z_BLD, _ = apply(layer, params, x_BLD.at[:, t:].set(other))
      np.testing.assert_array_equal(z_BLD[:, :t], y_BLD[:, :t])
      assert np.abs(z_BLD[:, t:] - y_BLD[:, t:]).max() > 0.01


def test_every_expert_is_initialised_alike(key):
  """Fan-in is that of one expert: a stacked bank must not count experts as fan."""
  config = MoeConfig(num_heads=2, num_experts=16, expert_dim=256)
  p = MultiHeadMoe(config).init(key, jnp.ones((1, 1, 128)))["params"]
  for name, fan_in in (("w_in_EMF", 64), ("w_out_EFM", 256)):
    std_E = np.std(p["experts"][name], axis=(1, 2))
    np.testing.assert_allclose(std_E, (3 * fan_in) ** -0.5, rtol=0.05)
  for name, gain in (("head", 0.5), ("merge", 1.0)):  # squared Xavier gains
    std = np.std(p[name]["w_0_DP"])
    np.testing.assert_allclose(std, (gain / 128) ** 0.5, rtol=0.05)


def test_bfloat16_routes_like_float32(key):
  """bfloat16 compute may round the sub-tokens, not the router."""
  layer, params, x_BLD = make(key, BASE)
  x_BLD = x_BLD.astype(jnp.bfloat16)
  y_BLD, aux = MultiHeadMoe(BASE, dtype=jnp.bfloat16).apply(params, x_BLD)
  z_BLD, _ = apply(layer, params, x_BLD)
  assert y_BLD.dtype == jnp.bfloat16
  assert aux.balance_loss.dtype == jnp.float32
  # bfloat16 has 8 bits, and a close call may go to another expert.
  assert np.median(np.abs(y_BLD.astype(jnp.float32) - z_BLD)) < 0.03


def test_dropless_needs_no_mesh_axes_of_ours(key):
  """Inside somebody else's mesh the layer leaves the layout to them."""
  layer, params, x_BLD = make(key, BASE)
  expected = apply(layer, params, x_BLD)[0]
  mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    close(jax.jit(layer.apply)(params, x_BLD)[0], expected)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"top_k": 9}, "top_k must be at most num_experts, got top_k=9, num_experts=8."),
    ({"num_heads": 0}, "num_heads must be at least 1, got num_heads=0."),
    ({"num_linear": -1}, "num_linear must be at least 0, got num_linear=-1."),
    (
      {"capacity_factor": 0.0},
      "capacity_factor must be positive, got capacity_factor=0.0.",
    ),
    (
      {"dispatch": "fast"},
      "dispatch must be one of sorted, rounds, capacity, einsum, got dispatch='fast'.",
    ),
    (
      {"router": "best"},
      "router must be one of linear, cosine, projected, got router='best'.",
    ),
  ],
)
def test_impossible_configs(changes, message):
  with pytest.raises(ValueError) as error:
    dataclasses.replace(BASE, **changes)
  assert str(error.value) == message


def test_width_must_divide_into_heads(key):
  with pytest.raises(ValueError) as error:
    MultiHeadMoe(BASE).init(key, jnp.ones((1, 2, 30)))
  assert str(error.value) == (
    "num_heads must divide embed_dim, got num_heads=4, embed_dim=30."
  )


@pytest.mark.parametrize("backend", ["auto", "fused", "ragged", "blocks"])
def test_the_backend_of_the_experts_can_be_chosen(backend):
  layer = MultiHeadMoe(MoeConfig(2, 4, 8, backend=backend))
  x_BLD = jnp.ones((1, 3, 8))
  params = jax.eval_shape(layer.init, jax.random.key(0), x_BLD)
  text = str(jax.make_jaxpr(layer.apply)(params, x_BLD))
  assert ("ragged_dot" in text) == (backend == "ragged")
  assert ("pallas_call" in text) == (backend in ("auto", "fused"))
