import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe.grouped import ExpertWeights, expert_ffn, grouped_ffn

E, M, F, T = 5, 8, 12, 300
SIZES = {
  "uneven": (1, 130, 0, 100, 69),
  "all on one": (0, 0, 300, 0, 0),
  "some serve nobody": (40, 0, 17, 0, 3),
  "none": (0, 0, 0, 0, 0),
}


def make_weights(key, gated, bias, norm):
  shapes = ExpertWeights(
    w_in_EMF=(E, M, F),
    w_out_EFM=(E, F, M),
    w_gate_EMF=(E, M, F) if gated else None,
    b_in_EF=(E, F) if bias else None,
    b_out_EM=(E, M) if bias else None,
    norm_scale_EF=(E, F) if norm else None,
    norm_bias_EF=(E, F) if norm else None,
  )
  keys = jax.random.split(key, len(shapes))
  return ExpertWeights(
    *(s and 0.3 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
  )


def one_by_one(weights, x_TM, sizes_E):
  """Each expert on its rows, in a Python loop."""
  y_TM, start = jnp.zeros_like(x_TM), 0
  for e, size in enumerate(np.asarray(sizes_E).tolist()):
    one = jax.tree.map(lambda w, e=e: w[e], weights)
    rows = slice(start, start + size)
    y_TM = y_TM.at[rows].set(expert_ffn(one, x_TM[rows]))
    start += size
  return y_TM


@pytest.mark.parametrize("backend", ["blocks", "ragged"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
  ("gated", "bias", "norm"),
  [(False, True, False), (True, False, False), (False, True, True)],
)
def test_equals_one_by_one(key, backend, sizes, gated, bias, norm):
  w_key, x_key, y_key = jax.random.split(key, 3)
  weights = make_weights(w_key, gated, bias, norm)
  x_TM = jax.random.normal(x_key, (T, M))
  target_TM = jax.random.normal(y_key, (T, M))
  sizes_E = jnp.asarray(sizes, jnp.int32)

  def loss(apply, weights, x_TM):
    y_TM = apply(weights, x_TM, sizes_E)
    return (y_TM * target_TM).sum(), y_TM

  run = jax.value_and_grad(loss, argnums=(1, 2), has_aux=True)
  fast = functools.partial(grouped_ffn, backend=backend)
  expected = run(one_by_one, weights, x_TM)
  # Sums of up to 300 products in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-4),
    jax.jit(run, static_argnums=0)(fast, weights, x_TM),
    expected,
  )


def test_work_does_not_grow_with_the_number_of_experts(key):
  """The loop runs as many blocks as the rows need, plus at most one per expert."""
  sizes_E = jnp.zeros(64, jnp.int32).at[7].set(512)
  weights = ExpertWeights(jnp.ones((64, M, F)), jnp.ones((64, F, M)))
  text = jax.jit(grouped_ffn).lower(weights, jnp.ones((512, M)), sizes_E).as_text()
  assert "stablehlo.while" in text
  assert "64x512x" not in text  # no (experts x rows) array


def test_unknown_backend():
  weights = ExpertWeights(jnp.ones((1, M, F)), jnp.ones((1, F, M)))
  with pytest.raises(ValueError, match="backend must be 'blocks' or 'ragged', got"):
    grouped_ffn(weights, jnp.ones((4, M)), jnp.array([4]), backend="cuda")
