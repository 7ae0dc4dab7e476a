"""Trains a VQ-VAE: first without codes, then with codes that start by k-means.

BEiT v2 starts its codes from what an untrained encoder makes of the first batch. Here
the encoder learns for some steps before, so that the start is worth more.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mhmoe_jax.codes import kmeans, vqvae, whitening
from mhmoe_jax.codes.measure import psnr
from mhmoe_jax.codes.vocabulary import Arrays, VisualVocabulary
from mhmoe_jax.models.patches import normalize, to_patches

PATCHES_OF_A_STEP = 2048
_WITHOUT_CODES = 0.25  # of the steps
_RATE, _WARM_UP = 3e-3, 0.05  # the highest; the share of steps on the way to it
_PATCHES_OF_THE_START = 2**14, 8  # so many, or so many for each code
_START_ROUNDS = 10
_PATCHES_OF_THE_WHITENING = 2**15


class State(NamedTuple):
  """What training changes."""

  networks: Any  # encoder and decoder
  opt_state: Any
  codes_WR: jax.Array  # before they start, (0, R)
  idle_W: jax.Array  # steps since a vector chose each code


def train(
  vocabulary: VisualVocabulary,
  pictures_NYXC: np.ndarray,
  steps: int,
  seed: int,
  report: Callable[[int, Callable[[], str]], None],
) -> Arrays:
  """Trains a VQ-VAE.

  Args:
    vocabulary: codes and patch size.
    pictures_NYXC: uint8.
    steps: of about `PATCHES_OF_A_STEP` patches.
    seed: of the start, the batches and the codes that start anew.
    report: called after each step with its number, from 1, and a function that says how
      good it was, which waits for it.
  """
  draw, key = np.random.RandomState(seed), jax.random.key(seed)
  patches = (pictures_NYXC.shape[1] // vocabulary.patch_size) ** 2
  batch_size = min(max(1, PATCHES_OF_A_STEP // patches), len(pictures_NYXC))
  optimizer = _make_optimizer(steps)
  white = whitening.fit(
    draw_patches(vocabulary, pictures_NYXC, _PATCHES_OF_THE_WHITENING, draw),
    vqvae.NUM_COMPONENTS,
    vqvae.SOFTENING,
  )
  step = _make_step(vocabulary, white, optimizer)
  networks = vqvae.init_networks(key, len(white["color_RU"]))
  nothing = jnp.zeros((0, vqvae.CODE_DIM)), jnp.zeros(0, jnp.int32)
  state = State(networks, optimizer.init(networks), *nothing)
  for nth in range(1, steps + 1):
    if nth == 1 + int(_WITHOUT_CODES * steps):
      codes_WR = _start(
        vocabulary, state.networks | white, pictures_NYXC, batch_size, draw
      )
      idle_W = jnp.zeros(vocabulary.num_codes, jnp.int32)
      state = state._replace(codes_WR=codes_WR, idle_W=idle_W)
    batch = pictures_NYXC[draw.randint(len(pictures_NYXC), size=batch_size)]
    state, error = step(state, batch, jax.random.fold_in(key, nth))
    report(nth, lambda state=state, error=error: _describe(state, error))
  return state.networks | white | {"codes_WR": state.codes_WR}


def draw_patches(
  vocabulary: VisualVocabulary,
  pictures_NYXC: np.ndarray,
  least: int,
  draw: np.random.RandomState,
) -> np.ndarray:
  """At least `least` patches, if there are; those of whole pictures, in [-1, 1]."""
  patches = (pictures_NYXC.shape[1] // vocabulary.patch_size) ** 2
  order = draw.permutation(len(pictures_NYXC))[: -(-least // patches)]
  patches_BPU = to_patches(pictures_NYXC[np.sort(order)], vocabulary.patch_size)
  return np.asarray(normalize(patches_BPU)).reshape(-1, vocabulary.patch_dim)


def _make_optimizer(steps: int) -> optax.GradientTransformation:
  warm_up = max(1, int(_WARM_UP * steps))
  rate = optax.warmup_cosine_decay_schedule(0, _RATE, warm_up, max(steps, warm_up + 1))
  return optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=1e-4)


def _make_step(vocabulary: VisualVocabulary, white, optimizer):
  def step(state: State, pixels_BYXC, key) -> tuple[State, jax.Array]:
    """Returns the next state, and the mean square error of the pixels."""
    networks, opt_state, codes_WR, idle_W = state
    patches_BPU = to_patches(normalize(pixels_BYXC), vocabulary.patch_size)
    gradients, (q, error) = jax.grad(vqvae.loss, has_aux=True)(
      networks, white, codes_WR, patches_BPU
    )
    updates, opt_state = optimizer.update(gradients, opt_state, networks)
    networks = optax.apply_updates(networks, updates)
    if len(codes_WR):
      codes_WR = vqvae.move_codes(codes_WR, q.x_BPR, q.ids_BP)
      idle_W = (idle_W + 1).at[q.ids_BP.reshape(-1)].set(0)
      codes_WR, idle_W = vqvae.restart_codes(codes_WR, idle_W, q.x_BPR, q.ids_BP, key)
    return State(networks, opt_state, codes_WR, idle_W), error

  return jax.jit(step)


def _start(vocabulary, arrays, pictures_NYXC, batch_size, draw) -> jax.Array:
  """Codes by k-means from what the encoder makes of some pictures."""

  @jax.jit
  def look(arrays, pixels_BYXC):
    patches_BPU = to_patches(normalize(pixels_BYXC), vocabulary.patch_size)
    return vqvae.look(arrays, patches_BPU)

  patches = (pictures_NYXC.shape[1] // vocabulary.patch_size) ** 2
  least, for_each = _PATCHES_OF_THE_START
  wanted = -(-max(least, for_each * vocabulary.num_codes) // patches)
  order = draw.permutation(len(pictures_NYXC))[:wanted]
  vectors = [
    np.asarray(look(arrays, pictures_NYXC[order[i : i + batch_size]]))
    for i in range(0, len(order), batch_size)
  ]
  x_TR = np.concatenate(vectors).reshape(-1, vqvae.CODE_DIM)
  codes_WR = kmeans.fit_codes(
    x_TR, vocabulary.num_codes, _START_ROUNDS, draw, on_sphere=True
  )
  return jnp.asarray(codes_WR)


def _describe(state: State, error: jax.Array) -> str:
  text = f"PSNR {psnr(float(error)):.1f} dB"
  if not len(state.idle_W):
    return f"{text}, before codes"
  dead = int((state.idle_W >= vqvae.IDLE // 2).sum())
  return f"{text}  {dead:,} codes idle"
