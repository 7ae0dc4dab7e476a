"""The attention kernel equals plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models import causal
from mhmoe_jax.sharding import make_mesh

L = 128


def test_mask_by_hand():
  expected = [
    [1, 0, 0, 0],
    [1, 1, 0, 0],
    [0, 0, 1, 0],  # another document
    [0, 0, 0, 1],  # padding sees padding only
  ]
  found = causal.causal_mask(jnp.array([[1, 1, 2, 0]]))
  np.testing.assert_array_equal(found[0, 0], expected)


def inputs(key, heads=2, kv_heads=2):
  """Two rows, of three documents and padding and of one document."""
  q, k, v, cotangent = jax.random.normal(key, (4, 2, L, heads, 16))
  k, v = k[:, :, :kv_heads], v[:, :, :kv_heads]
  places_L = jnp.arange(L)
  packed_L = jnp.where(places_L < 100, 1 + places_L // 40, 0)
  return (q, k, v, jnp.stack([packed_L, jnp.ones_like(packed_L)])), cotangent


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_the_kernel_in_value_and_gradient(key, kv_heads):
  (q, k, v, segments_BL), cotangent = inputs(key, kv_heads=kv_heads)

  def gradients(attend):
    out, pull = jax.vjp(lambda *x: attend(*x, segments_BL), q, k, v)
    return out, *pull(cotangent)

  found = gradients(lambda *x: causal.by_kernel(*x, interpret=True))
  for a, b in zip(found, gradients(causal.plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (4, 2), (4, 4), (6, 3)])
def test_a_mesh_changes_nothing(key, monkeypatch, heads, kv_heads):
  """Rows over four devices, heads over two, which may be more than the keys have."""
  args, _ = inputs(key, heads, kv_heads)
  args = jax.tree.map(lambda x: jnp.concatenate([x, x]), args)
  expected, shapes = causal.plain(*args), []

  def kernel(q, *rest):
    shapes.append(q.shape)
    return causal.plain(q, *rest)

  monkeypatch.setattr(causal, "by_kernel", kernel)
  with jax.set_mesh(make_mesh(data=2, expert=2, model=2)):
    found = jax.jit(causal.on_mesh)(*args)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(causal.on_mesh(*args), expected)  # without a mesh
  assert shapes == [(1, L, heads // 2, 16), (4, L, heads, 16)]


@pytest.mark.parametrize(
  ("length", "is_kernel"), [(L, True), (3 * L, True), (L + 8, False)]
)
def test_tpus_have_a_kernel_for_whole_blocks(length, is_kernel):
  """Lowered only: a TPU is not needed."""
  q_BLAQ = jax.ShapeDtypeStruct((1, length, 1, 128), jnp.float32)
  segments_BL = jax.ShapeDtypeStruct((1, length), jnp.int32)
  program = jax.jit(causal.attend).trace(q_BLAQ, q_BLAQ, q_BLAQ, segments_BL)
  text = program.lower(lowering_platforms=("tpu",)).as_text()
  assert ("tpu_custom_call" in text) == is_kernel
