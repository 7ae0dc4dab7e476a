"""Both norms against PyTorch, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models.norm import Norm
from tests.golden import golden


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_equals_pytorch(kind):
  expected = golden.load(kind)
  inputs = jax.tree.map(jnp.float32, golden.waves(1, x=(3, 6), scale=(6,), bias=(6,)))
  params = {"scale_D": inputs["scale"], "bias_D": inputs["bias"]}
  if kind == "rmsnorm":
    del params["bias_D"]

  def apply(params, x):
    return Norm(kind, 1e-2).apply({"params": params}, x)

  # Of rank 3, so that the last dimension is not the second.
  y, pull = jax.vjp(apply, params, inputs["x"][:, None])
  dparams, dx = pull(jnp.float32(golden.wave(0.3, 3, 1, 6)))
  close = np.testing.assert_allclose
  close(y[:, 0], expected["y"], rtol=1e-5, atol=1e-6)
  close(dx[:, 0], expected["d_x"], rtol=1e-5, atol=1e-6)
  for name, d in dparams.items():
    close(d, expected[f"d_{name[:-2]}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_starts_as_a_plain_norm_and_computes_in_float32(kind):
  """256 in bfloat16 squares to 65,536, to which a bfloat16 sum adds nothing small."""
  x = jnp.full((1, 512), 256.0, jnp.bfloat16).at[0, ::2].set(-256)
  norm = Norm(kind, 1e-6, letters="F")
  y, params = norm.init_with_output(jax.random.key(0), x)
  assert params["params"]["scale_F"].dtype == jnp.float32
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, jnp.sign(x))
