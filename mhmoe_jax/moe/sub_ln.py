"""Sub-LN over a hidden width of which a kernel sees one chunk at a time.

Once a row's statistics are known, the norm is linear. With hidden activations h, their
mean m, r = 1 / sqrt(variance + epsilon), scale s and bias b, an expert's result is

  y = r (sum over chunks of ((h - c) s) W_out - (m - c) (s W_out)) + b W_out + b_out

for any number c of the row. The mean of its first chunk is taken, so that nothing large
cancels, here or in the variance. If n = (h - m) r s + b has the gradient g, then h has

  r (g s - mean(g s) - (h - m) r mean(g s (h - m) r))

and both means are products of M numbers with dy, the gradient of y: F times them are
dy (s W_out) and dy (y - b W_out - b_out). So neither pass needs a chunk twice: the
backward pass gets each row's m, r and y from the forward pass. RMSNorm (no b) is the
same with m = c = 0, and without mean(g s).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.ffn import ExpertWeights, Formula, activate


class Folded(NamedTuple):
  """The norm's vectors behind the second product, float32; in kernels of one expert."""

  scale_E1M: jax.Array  # s W_out
  bias_E1M: jax.Array  # b W_out + b_out


class Known(NamedTuple):
  """What the gradient must know of rows beside a chunk of them; (R, 1), float32."""

  mean_R1: jax.Array
  rstd_R1: jax.Array
  mean_gradient_R1: jax.Array  # mean(g s)
  projection_R1: jax.Array  # mean(g s (h - m) r)


def fold(weights: ExpertWeights) -> Folded | None:
  """Of experts with a norm."""
  if weights.norm_scale_EF is None:
    return None
  w_out_EFM = weights.w_out_EFM.astype(jnp.float32)

  def product(vector_EF):
    return jnp.einsum(
      "EF,EFM->EM",
      vector_EF.astype(jnp.float32),
      w_out_EFM,
      precision=jax.lax.Precision.HIGHEST,
    )[:, None]

  scale_E1M = product(weights.norm_scale_EF)
  bias_E1M = jnp.zeros_like(scale_E1M)
  if weights.norm_bias_EF is not None:
    bias_E1M += product(weights.norm_bias_EF)
  if weights.b_out_EM is not None:
    bias_E1M += weights.b_out_EM[:, None].astype(jnp.float32)
  return Folded(scale_E1M, bias_E1M)


def is_centred(weights: ExpertWeights) -> bool:
  """LayerNorm, not RMSNorm."""
  return weights.norm_bias_EF is not None


def know(
  weights: ExpertWeights, folded: Folded, hidden: int, stats, y_RM, dy_RM, scale_R1
) -> Known:
  """From the forward pass and the gradient `dy_RM` of `y_RM`, scaled rows.

  Args:
    weights: of one expert.
    folded: of the same.
    hidden: F.
    stats: of the rows, m and r.
    y_RM: scaled results.
    dy_RM: their gradient.
    scale_R1: float32.
  """

  def mean(products_RM):
    return products_RM.sum(axis=1, keepdims=True) / hidden

  dy_RM = dy_RM.astype(jnp.float32)
  unscaled_RM = dy_RM * scale_R1
  projection_R1 = mean(dy_RM * y_RM - unscaled_RM * folded.bias_E1M)
  mean_R1 = mean(unscaled_RM * folded.scale_E1M)
  if not is_centred(weights):
    mean_R1 = jnp.zeros_like(mean_R1)
  return Known(*stats, mean_R1, projection_R1)


def activate_known(
  known: Known, formula: Formula, products, vectors
) -> tuple[jax.Array, Callable]:
  """Normalised activations of a chunk, and their VJP, as `jax.vjp` of `activate`."""
  *biases, scale_1F, bias_1F = vectors

  def plain(*inputs):
    return activate(formula, *inputs, None, None)

  h_RF, pull = jax.vjp(plain, *products, *biases)
  h_RF = (h_RF - known.mean_R1) * known.rstd_R1

  def pull_normalised(g_RF):
    dh_RF = g_RF * scale_1F - known.mean_gradient_R1 - h_RF * known.projection_R1
    dscale_1F = (g_RF * h_RF).sum(axis=0, keepdims=True)
    dbias_1F = None if bias_1F is None else g_RF.sum(axis=0, keepdims=True)
    return *pull(dh_RF * known.rstd_R1), dscale_1F, dbias_1F

  n_RF = h_RF * scale_1F
  return n_RF if bias_1F is None else n_RF + bias_1F, pull_normalised
