"""What a visual vocabulary is worth: which codes pictures use, how much it keeps."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.codes.vocabulary import Arrays, VisualVocabulary, decode, encode
from mhmoe_jax.models.patches import from_patches, normalize, to_patches, to_uint8

_PATCHES_AT_ONCE = 4096


class Statistics(NamedTuple):
  """What a vocabulary makes of pictures."""

  codes_in_use: int
  code_perplexity: float  # e to the entropy: how many even codes were as uncertain
  code_entropy: float  # of how often codes occur, nats
  psnr: float  # of all pixels together, dB
  pictures: int


def measure(
  vocabulary: VisualVocabulary, arrays: Arrays, pictures_NYXC: np.ndarray
) -> Statistics:
  """Which codes pictures use, and how well they are drawn from them."""

  @jax.jit
  def look(arrays, pixels_BYXC):
    patches_BPU = to_patches(normalize(pixels_BYXC), vocabulary.patch_size)
    ids_BP = encode(vocabulary, arrays, patches_BPU)
    drawn_BPU = jnp.clip(decode(vocabulary, arrays, ids_BP), -1, 1)
    counts_W = jnp.bincount(ids_BP.reshape(-1), length=vocabulary.num_codes)
    return counts_W, jnp.square(drawn_BPU - patches_BPU).mean(axis=(1, 2)).sum()

  patches = (pictures_NYXC.shape[1] // vocabulary.patch_size) ** 2
  batch_size = max(1, _PATCHES_AT_ONCE // patches)
  counts_W, error = np.zeros(vocabulary.num_codes, np.int64), 0.0
  for first in range(0, len(pictures_NYXC), batch_size):
    counts, errors = look(arrays, pictures_NYXC[first : first + batch_size])
    counts_W += np.asarray(counts)
    error += float(errors)
  share = counts_W[counts_W > 0] / counts_W.sum()
  entropy = float(-(share * np.log(share)).sum())
  return Statistics(
    codes_in_use=len(share),
    code_perplexity=math.exp(entropy),
    code_entropy=entropy,
    psnr=psnr(error / len(pictures_NYXC)),
    pictures=len(pictures_NYXC),
  )


def redraw(
  vocabulary: VisualVocabulary, arrays: Arrays, pixels_BYXC: np.ndarray
) -> np.ndarray:
  """uint8 pictures to codes and back."""
  patches_BPU = to_patches(normalize(pixels_BYXC), vocabulary.patch_size)
  drawn_BPU = decode(vocabulary, arrays, encode(vocabulary, arrays, patches_BPU))
  columns = pixels_BYXC.shape[2] // vocabulary.patch_size
  return np.asarray(to_uint8(from_patches(drawn_BPU, columns)))


def psnr(mean_square: float) -> float:
  """Peak signal to noise of values in [-1, 1], dB."""
  return 10 * math.log10(4 / max(mean_square, 1e-12))


def describe(statistics: Statistics) -> str:
  """Statistics in a line."""
  return (
    f"{statistics.codes_in_use:,} codes in use, code perplexity "
    f"{statistics.code_perplexity:.1f}, PSNR {statistics.psnr:.1f} dB"
  )
