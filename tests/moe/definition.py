"""What many experts compute, by the definition of one, and problems to try it on."""

import functools

import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.moe.ffn import ExpertWeights, expert_ffn
from mhmoe_jax.moe.grouped import grouped_ffn

E, M, T = 5, 8, 300
SIZES = {
  "uneven": (1, 130, 0, 100, 69),
  "all on one": (0, 0, 300, 0, 0),
  "some serve nobody": (40, 0, 17, 0, 3),
  "none": (0, 0, 0, 0, 0),
}


def make_weights(key, gated, bias, norm, hidden=12):
  F = hidden
  shapes = ExpertWeights(
    w_in_EMF=(E, M, F),
    w_out_EFM=(E, F, M),
    w_gate_EMF=(E, M, F) if gated else None,
    b_in_EF=(E, F) if bias else None,
    b_out_EM=(E, M) if bias else None,
    norm_scale_EF=(E, F) if norm else None,
    norm_bias_EF=(E, F) if norm and not gated else None,  # else RMSNorm
    b_gate_EF=(E, F) if gated and bias else None,
    formula=None,  # as it is by default
  )
  keys = jax.random.split(key, len(shapes))
  draws = [
    s and 0.3 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)
  ]
  return ExpertWeights(*draws[:-1])


def all_on_all(weights, x_TM, scale_T, sizes_E):
  """Every expert on every row; then each row takes the one it belongs to."""
  stop_E = jnp.cumsum(sizes_E)
  row_1T = jnp.arange(x_TM.shape[0])[None]
  mine_ET = (row_1T >= (stop_E - sizes_E)[:, None]) & (row_1T < stop_E[:, None])
  y_ETM = jax.vmap(expert_ffn, (0, None))(weights, x_TM)
  return jnp.where(mine_ET[..., None], y_ETM, 0).sum(axis=0) * scale_T[:, None]


@functools.cache
def value_and_gradients(backend):
  def loss(weights, x_TM, scale_T, sizes_E, target_TM):
    if backend == "definition":
      y_TM = all_on_all(weights, x_TM, scale_T, sizes_E)
    else:
      y_TM = grouped_ffn(weights, x_TM, scale_T, sizes_E, backend)
    return (y_TM * target_TM).sum(), y_TM

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def make_rows(key, sizes, num_rows):
  x_key, scale_key, y_key = jax.random.split(key, 3)
  return (
    jax.random.normal(x_key, (num_rows, M)),
    jax.random.uniform(scale_key, (num_rows,)),
    jnp.asarray(sizes, jnp.int32),
    jax.random.normal(y_key, (num_rows, M)),
  )


def check(key, backend, weights, sizes, num_rows):
  inputs = weights, *make_rows(key, sizes, num_rows)
  # Sums of hundreds of products in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-4),
    value_and_gradients(backend)(*inputs),
    value_and_gradients("definition")(*inputs),
  )


KINDS = [(False, True, False), (True, False, False), (False, True, True)]
KINDS += [(True, True, True)]


def equations(jaxpr, name):
  """Of a primitive, wherever they are in a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == name:
      yield equation
    for inner in jaxprs_in_params(equation.params):
      yield from equations(inner, name)
