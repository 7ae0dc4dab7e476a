"""RMSNorm and LayerNorm, computed in float32, parameters named by their dimension."""

from flax import linen as nn
import jax
import jax.numpy as jnp


class Norm(nn.Module):
  """Normalises the last dimensions by "rmsnorm" or "layernorm" (with a bias)."""

  kind: str
  epsilon: float  # added to the mean square, or the variance
  letters: str = "D"  # of the normalised dimensions

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    last = tuple(range(-len(self.letters), 0))
    shape = x.shape[last[0] :]
    wide = x.astype(jnp.float32)
    row = (None,) * (x.ndim - len(last))
    scale = self.param(f"scale_{self.letters}", nn.initializers.ones_init(), shape)
    if self.kind == "rmsnorm":
      mean_square = jnp.square(wide).mean(axis=last, keepdims=True)
      wide *= jax.lax.rsqrt(mean_square + self.epsilon)
      return (wide * scale[row]).astype(x.dtype)
    bias = self.param(f"bias_{self.letters}", nn.initializers.zeros_init(), shape)
    wide = jax.nn.standardize(wide, axis=last, epsilon=self.epsilon)
    return (wide * scale[row] + bias[row]).astype(x.dtype)
