"""The kernel, interpreted, against the definition; and what TPU compilers say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe import fused, vmem
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.grouped import grouped_ffn
from mhmoe_jax.plan.compile import devices_of
from tests.moe.definition import (
  SIZES,
  E,
  M,
  T,
  check,
  equations,
  make_rows,
  make_weights,
  value_and_gradients,
)

LAYER_NORM = (False, True, True)
LOAD, ROWS, HIDDEN = (250, 0, 530, 3, 100), 1000, 300


def test_the_compiler_is_told_how_many_rows_are_expected():
  """Two products forward; five backward, which computes the first one again."""
  weights = make_weights(jax.random.key(0), False, False, False)
  inputs = weights, jnp.ones((T, M)), jnp.ones(T), jnp.array(SIZES["uneven"])

  def costs(expected):  # None: all of T = 300

    def loss(weights):
      return grouped_ffn(weights, *inputs[1:], "fused", expected).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(weights).jaxpr
    calls = {x.params["cost_estimate"].flops for x in equations(jaxpr, "pallas_call")}
    return np.array(sorted(calls))

  each = 2 * M * 12
  assert (costs(None) - costs(40)).tolist() == [260 * each * 2, 260 * each * 5]


def test_visits_every_tile_of_an_expert(key, monkeypatch):
  """Experts that start and end inside tiles, span several, or have none."""
  monkeypatch.setattr(vmem, "_TILES", (256,))
  check(key, "fused", make_weights(key, *LAYER_NORM), LOAD, ROWS)


@pytest.fixture
def chunks(monkeypatch):
  """Three, the last of which reaches 84 columns past the hidden width."""
  cut = vmem.Cut(tile=256, chunks=3, width=128, hidden=HIDDEN)
  monkeypatch.setattr(fused, "cut_expert", lambda *_, **__: cut)


def test_the_compiler_is_told_what_chunks_cost(chunks):
  """Products with the padding, and weights once per visit instead of once."""
  weights = make_weights(jax.random.key(0), *LAYER_NORM, hidden=HIDDEN)
  x_TM, scale_T, sizes_E, dy_TM = make_rows(jax.random.key(1), LOAD, ROWS)

  def both(weights, x_TM, scale_T):
    _, saved = fused.forward(weights, x_TM, scale_T, sizes_E)
    return fused.backward(weights, x_TM, scale_T, sizes_E, dy_TM, saved)

  jaxpr = jax.make_jaxpr(both)(weights, x_TM, scale_T).jaxpr
  found = {x.params["cost_estimate"] for x in equations(jaxpr, "pallas_call")}
  cheap, dear = sorted(found, key=lambda cost: cost.flops)
  visits = 4 + E  # tiles of 256 rows
  rows = ROWS + visits * 24
  assert (cheap.flops, dear.flops) == tuple(2 * rows * M * 384 * n for n in (2, 5))
  # Matrices, three vectors, and a bias for each chunk, of one expert.
  expert = 4 * (2 * M * 384 + 3 * 384 + 3 * M)
  forward = 4 * ROWS * (2 * M + 1 + 2) + visits * expert
  backward = 4 * ROWS * (4 * M + 3 + 1) + visits * 2 * expert
  assert (cheap.bytes_accessed, dear.bytes_accessed) == (forward, backward)


@pytest.mark.parametrize("kind", [LAYER_NORM, (True, True, True), (True, False, False)])
def test_in_chunks_of_any_hidden_width(key, chunks, kind):
  check(key, "fused", make_weights(key, *kind, hidden=HIDDEN), LOAD, ROWS)


def test_a_mean_far_from_zero_cancels_nothing(key, chunks):
  """Activations of 50 +- 1, with the precision of those around 0."""
  weights = make_weights(key, *LAYER_NORM, hidden=HIDDEN)
  weights = weights._replace(b_in_EF=weights.b_in_EF + 50)
  rows = make_rows(key, LOAD, ROWS)
  (_, y_TM), _ = value_and_gradients("fused")(weights, *rows)
  w = jax.tree.map(lambda a: np.asarray(a, np.float64), weights)
  x_TM, scale_T, sizes_E, _ = (np.asarray(a, np.float64) for a in rows)
  expert_T = np.repeat(np.arange(E), sizes_E.astype(int))
  for t in range(0, len(expert_T), 50):
    e = expert_T[t]
    h_F = x_TM[t] @ w.w_in_EMF[e] + w.b_in_EF[e]  # so far from 0 that GELU keeps it
    h_F = (h_F - h_F.mean()) / np.sqrt(h_F.var() + 1e-5)
    h_F = h_F * w.norm_scale_EF[e] + w.norm_bias_EF[e]
    expected_M = scale_T[t] * (h_F @ w.w_out_EFM[e] + w.b_out_EM[e])
    # Each activation is known to 50 * 2^-24 = 3e-6.
    np.testing.assert_allclose(y_TM[t], expected_M, rtol=0, atol=3e-5)


def test_bfloat16_in_chunks_is_as_close_as_in_one_piece(key, chunks):
  """To float32, in the value and every gradient, as the blocks of other platforms."""
  weights = make_weights(key, *LAYER_NORM, hidden=HIDDEN)
  x_TM, scale_T, sizes_E, target_TM = make_rows(key, LOAD, ROWS)
  low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (weights, x_TM, target_TM))
  weights, x_TM, target_TM = jax.tree.map(lambda a: a.astype(jnp.float32), low)
  exact = value_and_gradients("definition")(weights, x_TM, scale_T, sizes_E, target_TM)
  weights, x_TM, target_TM = low

  def errors(backend):
    found = value_and_gradients(backend)(weights, x_TM, scale_T, sizes_E, target_TM)

    def error(a, b):
      return float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))

    return np.array(jax.tree.leaves(jax.tree.map(error, found, exact))[1:])

  ours, others = errors("fused"), errors("blocks")
  assert others[0] > 1e-3  # bfloat16 it is
  # The gradient of the scales is exact to float32, in both.
  assert (ours < 1.1 * others + 1e-6).all(), (ours, others)


def test_says_which_experts_it_can_take():
  def fits(width, hidden, gated=True, norm=False, dtype=jnp.bfloat16):
    w = jax.ShapeDtypeStruct((4, width, hidden), dtype)
    weights = ExpertWeights(w, w, w if gated else None, norm_scale_EF=norm or None)
    return fused.fits(weights, dtype)

  assert fits(256, 1024)
  assert fits(768, 5120)
  assert fits(1024, 3584)
  assert not fits(4096, 14336)
  # The first paper's, with a norm inside; and widths that are no multiple of 128.
  for width, hidden in ((192, 11_456), (192, 12_162), (768, 3_072), (384, 1_526)):
    assert fits(width, hidden, gated=False, norm=True)
    assert fits(width, hidden, gated=False, norm=True, dtype=jnp.float32)


def test_refuses_experts_that_are_too_large():
  w = jax.ShapeDtypeStruct((4, 4096, 14336), jnp.bfloat16)
  x = jax.ShapeDtypeStruct((8, 4096), jnp.bfloat16)
  scale, sizes = jax.ShapeDtypeStruct((8,), jnp.float32), jnp.array([8, 0, 0, 0])
  with pytest.raises(ValueError, match=r"must fit into .* got M=4096, F=14336"):
    jax.eval_shape(fused.backward, ExpertWeights(w, w), x, scale, sizes, x, None)


@pytest.mark.parametrize("chip", ["v5e:2x2", "v6e:2x2"])
def test_exact_gelu_compiles_in_the_kernel_for_a_tpu(chip):
  """The error function and its gradient, with biases and a norm, on the chip."""
  T, M, F, E = 1024, 192, 768, 4
  device = jax.sharding.SingleDeviceSharding(devices_of(chip, 1)[0])

  def half(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=device)

  weights = ExpertWeights(
    w_in_EMF=half(E, M, F),
    w_out_EFM=half(E, F, M),
    b_in_EF=half(E, F),
    b_out_EM=half(E, M),
    norm_scale_EF=half(E, F),
    norm_bias_EF=half(E, F),
  )
  rest = half(T, M), half(T, dtype=jnp.float32), half(E, dtype=jnp.int32)

  def step(weights, x_TM, scale_T, sizes_E):
    def loss(weights, x_TM):
      return grouped_ffn(weights, x_TM, scale_T, sizes_E, "fused").sum()

    return jax.grad(loss, (0, 1))(weights, x_TM)

  with jax.default_matmul_precision("default"):
    compiled = jax.jit(step).lower(weights, *rest).compile()
  assert "tpu_custom_call" in compiled.as_text()
