"""Pictures to patches and back; a patch is a row of numbers, rows run left to right."""

import jax
import jax.numpy as jnp


def to_patches(pixels_BYXC: jax.Array, patch_size: int) -> jax.Array:
  """Cuts pictures into square patches.

  Args:
    pixels_BYXC: uint8 or float pictures, height Y and width X multiples of the patch.
    patch_size: height and width of a patch.

  Returns:
    (B, patches, patch_size * patch_size * C), from left to right, top to bottom.
  """
  B, Y, X, C = pixels_BYXC.shape
  rows, columns = Y // patch_size, X // patch_size
  if (rows * patch_size, columns * patch_size) != (Y, X):
    raise ValueError(
      "patch_size must divide the height and width of a picture, got "
      f"patch_size={patch_size}, height={Y}, width={X}."
    )
  cut = pixels_BYXC.reshape(B, rows, patch_size, columns, patch_size, C)
  return cut.swapaxes(2, 3).reshape(B, rows * columns, -1)


def from_patches(patches_BPU: jax.Array, columns: int) -> jax.Array:
  """Inverse of `to_patches`, for three colours and `columns` patches a row."""
  B, P, U = patches_BPU.shape
  size = round((U // 3) ** 0.5)
  cut = patches_BPU.reshape(B, P // columns, columns, size, size, 3)
  return cut.swapaxes(2, 3).reshape(B, P // columns * size, columns * size, 3)


def normalize(pixels: jax.Array) -> jax.Array:
  """uint8 in [0, 255] to float32 in [-1, 1], mean and deviation 0.5 as in BEiT-3."""
  return pixels.astype(jnp.float32) / 127.5 - 1


def to_uint8(values: jax.Array) -> jax.Array:
  """Inverse of `normalize`, rounded and clipped."""
  return jnp.clip(jnp.round((values + 1) * 127.5), 0, 255).astype(jnp.uint8)
