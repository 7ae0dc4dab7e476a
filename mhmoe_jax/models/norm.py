"""RMSNorm and LayerNorm, computed in float32, parameters named by their dimension."""

from flax import linen as nn
import jax
import jax.numpy as jnp


class Norm(nn.Module):
  """Normalises the last dimension; `kind` is "rmsnorm" or "layernorm" (with a bias)."""

  kind: str
  epsilon: float  # added to the mean square, or the variance
  letter: str = "D"  # of the normalised dimension

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    wide = x.astype(jnp.float32)
    last = (None,) * (x.ndim - 1)
    scale = self.param(f"scale_{self.letter}", nn.initializers.ones_init(), (width,))
    if self.kind == "rmsnorm":
      mean_square = jnp.square(wide).mean(axis=-1, keepdims=True)
      return (wide * jax.lax.rsqrt(mean_square + self.epsilon) * scale[last]).astype(
        x.dtype
      )
    bias = self.param(f"bias_{self.letter}", nn.initializers.zeros_init(), (width,))
    wide = jax.nn.standardize(wide, epsilon=self.epsilon)
    return (wide * scale[last] + bias[last]).astype(x.dtype)
