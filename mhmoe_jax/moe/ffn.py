"""One expert: the definition that every grouped backend equals, and its gradients."""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.bitnet import eight_bit


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Formula:
  """What weights cannot say about an FFN. It travels with them, but is no array."""

  tanh: bool = False  # GELU is its tanh approximation
  norm_epsilon: float = 1e-5  # of sub-LN


class ExpertWeights(NamedTuple):
  """Weights of E experts, stacked; without the leading E, of one. None: absent."""

  w_in_EMF: jax.Array
  w_out_EFM: jax.Array
  w_gate_EMF: jax.Array | None = None  # SwiGLU's third matrix
  b_in_EF: jax.Array | None = None
  b_out_EM: jax.Array | None = None
  norm_scale_EF: jax.Array | None = None  # sub-LN on the hidden activations
  norm_bias_EF: jax.Array | None = None  # None under a norm_scale: RMSNorm
  levels_E: jax.Array | None = None  # BitNet: the rows round to so many steps a side
  b_gate_EF: jax.Array | None = None  # beside w_gate_EMF
  formula: Formula = Formula()


def expert_ffn(
  weights: ExpertWeights, x_RM: jax.Array, scale_R1: jax.Array | None = None
) -> jax.Array:
  """One expert on R rows: GELU(x W_in) W_out, or SwiGLU where there is a gate.

  Args:
    weights: of one expert, without the leading E.
    x_RM: rows.
    scale_R1: what each row's result is multiplied by, float32. The gradient of such a
      scale needs hidden activations, where that of a later one needs the result.

  Returns:
    (R, M), in the dtype of `x_RM`.
  """

  def row(b):
    return None if b is None else b.reshape(1, -1)

  return apply_ffn(weights, x_RM, jnp.matmul, row, scale_R1)


def apply_ffn(
  weights: ExpertWeights,
  x_RM: jax.Array,
  dot: Callable,
  per_row: Callable,
  scale_R1: jax.Array | None = None,
) -> jax.Array:
  """`expert_ffn` in terms of what differs where rows are of several experts.

  Args:
    weights: whatever `dot` and `per_row` take.
    x_RM: rows.
    dot: of rows and a matrix.
    per_row: a vector, or None, to one that can be added to rows.
    scale_R1: as of `expert_ffn`.
  """

  def scaled(rows):
    return rows if scale_R1 is None else (rows * scale_R1).astype(rows.dtype)

  levels = per_row(weights.levels_E)
  if levels is not None:
    x_RM = eight_bit(x_RM, levels)
  gate = weights.w_gate_EMF
  h_RF = activate(
    weights.formula,
    dot(x_RM, weights.w_in_EMF),
    None if gate is None else dot(x_RM, gate),
    *(per_row(vector) for vector in _hidden_vectors(weights)),
  )
  if levels is not None:
    h_RF = eight_bit(h_RF, levels)
  y_RM = dot(scaled(h_RF), weights.w_out_EFM)
  return y_RM if weights.b_out_EM is None else y_RM + scaled(per_row(weights.b_out_EM))


def activate(
  formula: Formula,
  a_RF: jax.Array,
  gate_RF: jax.Array | None,
  b_in_RF: jax.Array | None,
  b_gate_RF: jax.Array | None,
  norm_scale_RF: jax.Array | None,
  norm_bias_RF: jax.Array | None,
) -> jax.Array:
  """Hidden activations (R, F) from the products with W_in and W_gate.

  Biases and scales are (R, F), or (1, F) where all rows are of one expert.
  """
  dtype = a_RF.dtype
  if b_in_RF is not None:
    a_RF += b_in_RF
  if b_gate_RF is not None:
    gate_RF += b_gate_RF
  if gate_RF is not None:
    h_RF = jax.nn.silu(gate_RF) * a_RF
  else:
    h_RF = jax.nn.gelu(a_RF) if formula.tanh else gelu(a_RF)
  if norm_scale_RF is None:
    return h_RF
  h_RF, epsilon = h_RF.astype(jnp.float32), formula.norm_epsilon
  if norm_bias_RF is not None:
    h_RF = jax.nn.standardize(h_RF, epsilon=epsilon) * norm_scale_RF + norm_bias_RF
  else:
    mean_square = jnp.square(h_RF).mean(axis=-1, keepdims=True)
    h_RF = h_RF * jax.lax.rsqrt(mean_square + epsilon) * norm_scale_RF
  return h_RF.astype(dtype)


def gelu(x: jax.Array) -> jax.Array:
  """x times the normal distribution function of x, in the dtype of `x` (1606.08415).

  PyTorch's formula and default, and the papers'. `jax.nn.gelu(approximate=False)` is
  made of erfc, which kernels for TPUs cannot have.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return (wide * 0.5 * (1 + _erf(wide * 0.5**0.5))).astype(x.dtype)


# Rational in x^2 on [-4, 4], as XLA and Eigen have it: 4e-7 from the error function.
_ERF_ABOVE = (
  -2.72614225801306e-10,
  2.77068142495902e-08,
  -2.10102402082508e-06,
  -5.69250639462346e-05,
  -7.34990630326855e-04,
  -2.95459980854025e-03,
  -1.60960333262415e-02,
)
_ERF_BELOW = (
  -1.45660718464996e-05,
  -2.13374055278905e-04,
  -1.68282697438203e-03,
  -7.37332916720468e-03,
  -1.42647390514189e-02,
)


@jax.custom_jvp
def _erf(x: jax.Array) -> jax.Array:
  """The error function. `jax.lax.erf` of jax 0.12 is a primitive that kernels for TPUs
  do not know, and that fails inside a checked `jax.shard_map`."""
  if x.dtype == jnp.float64:
    return jax.lax.erf(x)
  x = jnp.clip(x, -4.0, 4.0)
  square = x * x

  def evaluate(coefficients):
    y = jnp.full_like(square, coefficients[0])
    for c in coefficients[1:]:
      y = y * square + c
    return y

  return x * evaluate(_ERF_ABOVE) / evaluate(_ERF_BELOW)


@_erf.defjvp
def _erf_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return _erf(x), dx * (2 / math.pi**0.5) * jnp.exp(-x * x)


def expert_ffn_float32(weights: ExpertWeights, x_RM: jax.Array) -> jax.Array:
  """`expert_ffn` with float32 between its products, as kernels compute it."""
  h_RF = hidden_float32(weights, x_RM).astype(x_RM.dtype)
  y_RM = _dot(h_RF, weights.w_out_EFM, 1, 0)
  return y_RM if weights.b_out_EM is None else y_RM + _row(weights.b_out_EM)


def hidden_float32(weights: ExpertWeights, x_RM: jax.Array) -> jax.Array:
  """Its hidden activations, (R, F)."""
  products, vectors = _float32_inputs(weights, x_RM)
  return activate(weights.formula, *products, *vectors)


def expert_ffn_gradients(
  weights: ExpertWeights,
  x_RM: jax.Array,
  scale_R1: jax.Array,
  dy_RM: jax.Array,
  activated: Callable | None = None,
) -> tuple[ExpertWeights, jax.Array, jax.Array]:
  """Gradients of `scale_R1 * expert_ffn(weights, x_RM)`, from its inputs alone.

  The hidden activations are computed again. The value is not: its product with `dy_RM`,
  the scale's gradient, is also that of the hidden activations with their gradient.

  Args:
    weights: of one expert; vectors may have a leading 1.
    x_RM: rows.
    scale_R1: float32, what each row's result is multiplied by.
    dy_RM: gradient of the scaled results.
    activated: the hidden activations and their VJP from the formula, the products and
      the vectors; those of `activate` by default.

  Returns:
    Of the weights, vectors with a leading 1, of the rows and of the scale; float32.
  """
  if weights.levels_E is not None:
    return _derived_gradients(weights, x_RM, scale_R1, dy_RM)
  dtype = x_RM.dtype
  b_out_1M = _row(weights.b_out_EM)
  activated = activated or _activated
  h_RF, vjp = activated(weights.formula, *_float32_inputs(weights, x_RM))

  dh_RF = _dot(dy_RM, weights.w_out_EFM, 1, 1)
  dscale_R1 = (dh_RF * h_RF).sum(axis=1, keepdims=True)
  if b_out_1M is not None:
    dscale_R1 += (dy_RM * b_out_1M).sum(axis=1, keepdims=True)
  dy_RM = (dy_RM * scale_R1).astype(dtype)
  da_RF, dgate_RF, *dsmall = vjp(dh_RF * scale_R1)
  db_in_1F, db_gate_1F, dnorm_scale_1F, dnorm_bias_1F = dsmall
  da_RF = da_RF.astype(dtype)
  dx_RM, dw_gate_EMF = _dot(da_RF, weights.w_in_EMF, 1, 1), None
  if dgate_RF is not None:
    dgate_RF = dgate_RF.astype(dtype)
    dx_RM += _dot(dgate_RF, weights.w_gate_EMF, 1, 1)
    dw_gate_EMF = _dot(x_RM, dgate_RF, 0, 0)
  dweights = ExpertWeights(
    w_in_EMF=_dot(x_RM, da_RF, 0, 0),
    w_out_EFM=_dot(h_RF.astype(dtype), dy_RM, 0, 0),
    w_gate_EMF=dw_gate_EMF,
    b_in_EF=db_in_1F,
    b_out_EM=None
    if b_out_1M is None
    else dy_RM.astype(jnp.float32).sum(axis=0, keepdims=True),
    norm_scale_EF=dnorm_scale_1F,
    norm_bias_EF=dnorm_bias_1F,
    b_gate_EF=db_gate_1F,
    formula=weights.formula,
  )
  return dweights, dx_RM, dscale_R1


def _activated(formula: Formula, products, vectors):
  return jax.vjp(functools.partial(activate, formula), *products, *vectors)


def _derived_gradients(weights, x_RM, scale_R1, dy_RM):
  """The same, left to JAX: rounding has no derivative to write down."""

  def scaled(weights, x_RM, scale_R1):
    return (expert_ffn(weights, x_RM) * scale_R1).astype(x_RM.dtype)

  return jax.vjp(scaled, weights, x_RM, scale_R1)[1](dy_RM)


def _dot(a, b, contract_a: int, contract_b: int):
  dims = (((contract_a,), (contract_b,)), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _row(b):
  return None if b is None else b.astype(jnp.float32).reshape(1, -1)


def _float32_inputs(weights: ExpertWeights, x_RM):
  """What `activate` takes: two products, four vectors."""
  gate = weights.w_gate_EMF
  products = _dot(x_RM, weights.w_in_EMF, 1, 0), gate
  if gate is not None:
    products = products[0], _dot(x_RM, gate, 1, 0)
  return products, [_row(vector) for vector in _hidden_vectors(weights)]


def _hidden_vectors(w: ExpertWeights):
  return w.b_in_EF, w.b_gate_EF, w.norm_scale_EF, w.norm_bias_EF
