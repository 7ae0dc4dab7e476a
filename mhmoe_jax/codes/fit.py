"""Makes a visual vocabulary from pictures, and says what it is worth.

A vocabulary of which fewer than half of the codes are in use is an error: its size,
and what a model's perplexity over it means, would be other than they seem.
"""

from collections.abc import Callable
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mhmoe_jax.codes import kmeans, vqvae
from mhmoe_jax.codes.measure import Statistics, measure, psnr
from mhmoe_jax.codes.vocabulary import Arrays, VisualVocabulary
from mhmoe_jax.models.patches import normalize, to_patches

# Rounds of k-means, steps of a VQ-VAE.
DEFAULT_STEPS = {"kmeans": 20, "vqvae": 1000}
_SECONDS = 2  # between two lines of progress

_PATCHES_OF_A_STEP = 4096
_PATCHES_OF_THE_START = 2**14, 8  # so many, or so many for each code
_START_ROUNDS = 10
_RATE, _WARM_UP = 1e-3, 0.05  # the highest; the share of steps on the way to it

Tell = Callable[[str], None]


class Fitted(NamedTuple):
  """A vocabulary and what it makes of the pictures that it was fitted to."""

  arrays: Arrays
  statistics: Statistics


def fit(
  vocabulary: VisualVocabulary,
  pictures_NYXC: np.ndarray,
  *,
  steps: int,
  seed: int,
  tell: Tell = lambda line: None,
) -> Fitted:
  """Fits a vocabulary; the same on the same machine whenever the arguments are.

  Args:
    vocabulary: kind, codes and patch size.
    pictures_NYXC: uint8 square pictures of one size.
    steps: rounds of k-means, or steps of a VQ-VAE, each of about 4,096 patches.
    seed: of all that is drawn.
    tell: called with a line of progress every few seconds.

  Raises:
    ValueError: the patches do not fit the pictures, or are fewer than the codes, or
      fewer than half of the codes are in use at the end.
  """
  check_pictures(vocabulary, pictures_NYXC.shape)
  if steps < 1:
    raise ValueError(f"steps must be at least 1, got steps={steps}.")
  started = _Progress(tell, steps)
  train = _fit_kmeans if vocabulary.kind == "kmeans" else _fit_vqvae
  arrays = train(vocabulary, pictures_NYXC, steps, seed, started)
  statistics = measure(vocabulary, arrays, pictures_NYXC)
  if 2 * statistics.codes_in_use < vocabulary.num_codes:
    raise ValueError(
      "at least half of the codes must be in use, got "
      f"{statistics.codes_in_use} of num_codes={vocabulary.num_codes} in "
      f"{statistics.pictures} pictures; take fewer codes, more pictures or more steps."
    )
  return Fitted(arrays, statistics)


def check_pictures(vocabulary: VisualVocabulary, shape_NYXC: tuple[int, ...]) -> None:
  """Raises ValueError unless pictures of a shape can be cut into enough patches."""
  count, height, width = shape_NYXC[:3]
  size = vocabulary.patch_size
  if height != width or height % size:
    raise ValueError(
      "pictures must be square and a multiple of patch_size, got "
      f"patch_size={size}, height={height}, width={width}."
    )
  patches = count * (height // size) ** 2
  if patches < vocabulary.num_codes:
    raise ValueError(
      "there must be at least as many patches as codes, got "
      f"num_codes={vocabulary.num_codes}, {patches} patches in {count} pictures."
    )


def _fit_kmeans(vocabulary, pictures_NYXC, steps, seed, progress) -> Arrays:
  patches_TU = _draw_patches(vocabulary, pictures_NYXC, seed)
  return kmeans.fit(
    patches_TU,
    vocabulary.num_codes,
    steps,
    seed,
    lambda nth, distance: progress.show(nth, lambda: f"mean square {distance:.3f}"),
  )


def _draw_patches(vocabulary, pictures_NYXC, seed) -> np.ndarray:
  """Patches of as many pictures as a fit looks at, in [-1, 1]."""
  count, size = len(pictures_NYXC), vocabulary.patch_size
  patches = (pictures_NYXC.shape[1] // size) ** 2
  least = max(kmeans.NUM_PATCHES, kmeans.PATCHES_OF_A_CODE * vocabulary.num_codes)
  order = np.random.RandomState(seed).permutation(count)[: -(-least // patches)]
  patches_BPU = to_patches(pictures_NYXC[np.sort(order)], size)
  return np.asarray(normalize(patches_BPU)).reshape(-1, vocabulary.patch_dim)


def _fit_vqvae(vocabulary, pictures_NYXC, steps, seed, progress) -> Arrays:
  size, W = vocabulary.patch_size, vocabulary.num_codes
  draw = np.random.RandomState(seed)
  patches = (pictures_NYXC.shape[1] // size) ** 2
  batch_size = min(max(1, _PATCHES_OF_A_STEP // patches), len(pictures_NYXC))
  warm_up = max(1, int(_WARM_UP * steps))
  schedule = optax.warmup_cosine_decay_schedule(
    0, _RATE, warm_up, max(steps, warm_up + 1)
  )
  optimizer = optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=1e-4)

  @jax.jit
  def look(networks, pixels_BYXC):
    return vqvae.look(networks["encoder"], to_patches(normalize(pixels_BYXC), size))

  @jax.jit
  def step(networks, codes_WR, idle_W, opt_state, pixels_BYXC, key):
    patches_BPU = to_patches(normalize(pixels_BYXC), size)
    gradients, (q, error) = jax.grad(vqvae.loss, has_aux=True)(
      networks, codes_WR, patches_BPU
    )
    updates, opt_state = optimizer.update(gradients, opt_state, networks)
    networks = optax.apply_updates(networks, updates)
    codes_WR = vqvae.move_codes(codes_WR, q.x_BPR, q.ids_BP)
    idle_W = (idle_W + 1).at[q.ids_BP.reshape(-1)].set(0)
    codes_WR, idle_W = vqvae.restart_codes(codes_WR, idle_W, q.x_BPR, key)
    return networks, codes_WR, idle_W, opt_state, error

  networks = vqvae.init_networks(jax.random.key(seed), vocabulary.patch_dim)
  least, for_each = _PATCHES_OF_THE_START
  first = -(-max(least, for_each * W) // patches)
  order = draw.permutation(len(pictures_NYXC))[:first]
  parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
  x_TR = np.concatenate(
    [np.asarray(look(networks, pictures_NYXC[np.sort(part)])) for part in parts]
  ).reshape(-1, vqvae.CODE_DIM)
  codes_WR = jnp.asarray(kmeans.fit_codes(x_TR, W, _START_ROUNDS, draw, on_sphere=True))
  opt_state, idle_W = optimizer.init(networks), jnp.zeros(W, jnp.int32)
  for nth in range(1, steps + 1):
    pixels_BYXC = pictures_NYXC[draw.randint(len(pictures_NYXC), size=batch_size)]
    networks, codes_WR, idle_W, opt_state, error = step(
      networks, codes_WR, idle_W, opt_state, pixels_BYXC, jax.random.key(nth)
    )
    progress.show(
      nth,
      lambda error=error, idle_W=idle_W: (
        f"PSNR {psnr(float(error)):.1f} dB  {int((idle_W < 50).sum())} codes alive"
      ),
    )
  return networks | {"codes_WR": codes_WR}


class _Progress:
  """Lines that say how far, how good, how long still."""

  def __init__(self, tell: Tell, total: int):
    self._tell, self._total = tell, total
    self._began = self._shown = time.monotonic()

  def show(self, nth: int, describe: Callable[[], str]) -> None:
    now = time.monotonic()
    if nth == 1:  # It has compiled.
      self._began = now
    if now < self._shown + _SECONDS and nth < self._total:
      return
    self._shown = now
    line = f"step {nth:>{len(str(self._total))}}/{self._total}  {describe()}"
    if 1 < nth < self._total:
      left = (now - self._began) / (nth - 1) * (self._total - nth)
      line += f"  {left:.0f}s left"
    self._tell(line)
