"""The norm's gradient from a row's m, r and y, against one that JAX derives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe import sub_ln
from mhmoe_jax.moe.ffn import Formula, expert_ffn, expert_ffn_gradients, hidden_float32
from tests.moe.definition import M, make_weights

CHUNKS = ((0, 5), (5, 12))


def of_chunk(weights, start, stop):
  """One expert's share of an FFN; the first has the bias."""
  part = weights._replace(
    w_out_EFM=weights.w_out_EFM[start:stop],
    b_out_EM=weights.b_out_EM if start == 0 else 0 * weights.b_out_EM,
  )
  names = ("w_in_EMF", "w_gate_EMF", "b_in_EF", "b_gate_EF")
  names += ("norm_scale_EF", "norm_bias_EF")
  given = {n: w for n in names if (w := getattr(weights, n)) is not None}
  return part._replace(**{n: w[..., start:stop] for n, w in given.items()})


@jax.jit
def both(stacks, x_RM, dy_RM, scale_R1):
  """Gradients of the first expert: derived, and a share for each chunk."""
  folded = sub_ln.fold(stacks)
  weights, folded = jax.tree.map(lambda w: w[0], (stacks, folded))

  def run(weights, x_RM, scale_R1):
    return expert_ffn(weights, x_RM) * scale_R1

  y_RM, pull = jax.vjp(run, weights, x_RM, scale_R1)

  plain = weights._replace(norm_scale_EF=None, norm_bias_EF=None)
  h_RF = hidden_float32(plain, x_RM)
  mean_R1 = h_RF.mean(axis=1, keepdims=True)
  if not sub_ln.is_centred(weights):
    mean_R1 = jnp.zeros_like(mean_R1)
  square_R1 = jnp.square(h_RF - mean_R1).mean(axis=1, keepdims=True)
  stats = mean_R1, jax.lax.rsqrt(square_R1 + weights.formula.norm_epsilon)
  known = sub_ln.know(weights, folded, CHUNKS[-1][1], stats, y_RM, dy_RM, scale_R1)
  activated = functools.partial(sub_ln.activate_known, known)
  shares = [
    expert_ffn_gradients(of_chunk(weights, *c), x_RM, scale_R1, dy_RM, activated)
    for c in CHUNKS
  ]
  return pull(dy_RM), shares


@pytest.mark.parametrize("gated", [False, True], ids=["LayerNorm", "RMSNorm"])
def test_gradients_of_chunks_are_those_of_the_whole(key, gated):
  stacks = make_weights(key, gated, bias=True, norm=True)
  stacks = stacks._replace(formula=Formula(norm_epsilon=0.1))
  x_RM, dy_RM = jax.random.normal(key, (2, 6, M))
  scale_R1 = jnp.linspace(0, 2, 6)[:, None]  # one of them 0
  derived, shares = both(stacks, x_RM, dy_RM, scale_R1)
  dweights, dx_RM, dscale_R1 = derived
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  close(sum(s[1] for s in shares), dx_RM)
  close(sum(s[2] for s in shares), dscale_R1)
  for share, chunk in zip((s[0] for s in shares), CHUNKS, strict=True):
    expected = of_chunk(dweights, *chunk)._replace(b_out_EM=dweights.b_out_EM)
    jax.tree.map(lambda a, b: close(a.reshape(b.shape), b), share, expected)
