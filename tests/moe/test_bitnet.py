"""BitNet b1.58 by hand, and as a part of the layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax import MoeConfig, MultiHeadMoe, sharding
from mhmoe_jax.moe import bitnet
from mhmoe_jax.moe.experts import DenseFfn, ExpertFfn

close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def test_ternary_by_hand():
  """The mean magnitude is 1: what is within half of it is 0, the rest its sign."""
  w = jnp.array([[0.2, -0.4, 3.0], [-1.2, 0.6, 0.6]])
  close(bitnet.ternary(w), [[0, 0, 1], [-1, 1, 1]])
  # A mean magnitude of 2: within 1 it is 0.
  close(bitnet.ternary(jnp.array([[0.9, -1.1], [6.0, 0.0]])), [[0, -2], [2, 0]])
  # Stacked matrices have scales of their own.
  both = bitnet.ternary(jnp.stack([w, 10 * w]), stacked=1)
  close(both, jnp.stack([bitnet.ternary(w), 10 * bitnet.ternary(w)]))
  assert np.isfinite(bitnet.ternary(jnp.zeros((2, 2)))).all()


def test_eight_bits_by_hand():
  x = jnp.array([[127.0, 0.4, -0.6, 63.5001], [-2.54, 0.029, 0.031, 0.0]])
  close(bitnet.eight_bit(x), [[127, 0, -1, 64], [-2.54, 0.02, 0.04, 0]])
  np.testing.assert_array_equal(bitnet.eight_bit(jnp.zeros((1, 3))), jnp.zeros((1, 3)))
  assert bitnet.eight_bit(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
  # Small rows have small steps, here of 1e-6; and of seven levels a side each is 1.
  small = bitnet.eight_bit(jnp.array([[127e-6, 1.4e-6, -2.6e-6]]))
  np.testing.assert_allclose(small, [[127e-6, 1e-6, -3e-6]], rtol=1e-4)
  close(bitnet.eight_bit(jnp.array([[7.0, 3.4, -0.6]]), 7.0), [[7, 3, -1]])


def test_gradients_by_hand():
  """That of the square at the rounded value: 2 f(w), as if f had a slope of one."""
  w = jnp.array([[0.2, -0.4, 3.0], [-1.2, 0.6, 0.6]])
  gradient = jax.grad(lambda w: jnp.square(bitnet.ternary(w)).sum())(w)
  close(gradient, [[0, 0, 2], [-2, 2, 2]])
  x = jnp.array([[127.0, 0.4, -0.6, 63.5001]])
  gradient = jax.grad(lambda x: jnp.square(bitnet.eight_bit(x)).sum())(x)
  close(gradient, [[254, 0, -2, 128]])


def test_gradients_pass_straight_through(key):
  w = jax.random.normal(key, (3, 4))
  for rounding in (bitnet.ternary, bitnet.eight_bit):
    gradient = jax.grad(lambda w, f=rounding: jnp.sin(f(w)).sum())(w)
    close(gradient, jnp.cos(rounding(w)))


def test_a_dense_ffn_is_rounded_where_it_multiplies(key):
  """Input and hidden activations to 8 bits, both matrices to three values."""
  ffn = DenseFfn(6, MoeConfig(1, 1, 1, top_k=1, use_bias=False, bitnet=True).style)
  x_BLD = jax.random.normal(key, (1, 5, 4))
  params = ffn.init(key, x_BLD)
  w_in, w_out = (bitnet.ternary(params["params"][n]) for n in ("w_in_DF", "w_out_FD"))
  assert len(np.unique(np.abs(w_in))) == 2
  hidden = jax.nn.gelu(bitnet.eight_bit(x_BLD) @ w_in, approximate=False)
  close(ffn.apply(params, x_BLD), bitnet.eight_bit(hidden) @ w_out)


def test_every_expert_has_scales_of_its_own(key):
  experts = ExpertFfn(MoeConfig(2, 3, 6, activation="swiglu", bitnet=True))
  weights, params = experts.init_with_output(key, 4)
  for name in ("w_in_EMF", "w_out_EFM", "w_gate_EMF"):
    each = [bitnet.ternary(w) for w in params["params"][name]]
    close(getattr(weights, name), jnp.stack(each))


def test_sharded_equals_unsharded(key):
  """Scales are those of whole rows and matrices, however the hidden width is split."""
  layer = MultiHeadMoe(MoeConfig(2, 4, 8, bitnet=True, shared_dim=12))
  x_BLD = jax.random.normal(key, (4, 3, 16))
  params = jax.jit(layer.init)(key, x_BLD)

  @jax.jit
  def run(params, x_BLD):
    def loss(params):
      y_BLD = layer.apply(params, x_BLD)[0]
      return jnp.sin(y_BLD).sum(), y_BLD

    return jax.value_and_grad(loss, has_aux=True)(params)

  expected = run(params, x_BLD)
  mesh = sharding.make_mesh(data=2, expert=2, model=2)
  layout = sharding.tree_shardings(params, mesh, sharding.FSDP)
  with jax.set_mesh(mesh):
    placed = (
      jax.device_put(params, layout),
      sharding.place_batch(x_BLD, mesh, len(x_BLD)),
    )
    jax.tree.map(close, run(*placed), expected)
