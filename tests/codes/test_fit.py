"""Fits to pictures of shapes, and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mhmoe_jax.codes import training, vqvae
from mhmoe_jax.codes.fit import fit
from mhmoe_jax.codes.measure import measure, psnr
from mhmoe_jax.codes.vocabulary import KINDS, VisualVocabulary
from mhmoe_jax.models.patches import normalize, to_patches
from tests.codes.conftest import CODES, PATCH


@pytest.mark.parametrize("kind", KINDS)
def test_all_codes_are_used_and_shapes_are_seen(make, pictures_NYXC, kind):
  _, (_, found) = make(kind)
  assert found.codes_in_use == CODES
  pixels = pictures_NYXC / 127.5 - 1
  mean_YXC = pixels.mean(axis=0)
  of_the_mean = 10 * np.log10(4 / np.square(pixels - mean_YXC).mean())
  assert found.psnr > of_the_mean + 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_result(make, pictures_NYXC, kind):
  vocabulary = make(kind)[0]
  one, same, other = (
    fit(vocabulary, pictures_NYXC[:50], steps=2, seed=seed) for seed in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, one.arrays, same.arrays)
  assert one.statistics == same.statistics
  assert (one.arrays["codes_WR"] != other.arrays["codes_WR"]).any()


def test_codes_of_a_vqvae_start_by_kmeans(pictures_NYXC):
  """Before any training they are near to what the encoder says."""
  vocabulary = VisualVocabulary("vqvae", CODES, PATCH)
  found = fit(vocabulary, pictures_NYXC, steps=1, seed=0)
  assert found.statistics.codes_in_use == CODES
  lengths_W = np.linalg.norm(found.arrays["codes_WR"], axis=1)
  np.testing.assert_allclose(lengths_W, 1, rtol=1e-5)


@pytest.mark.parametrize("colors", [1, 7])
def test_too_few_codes_in_use(colors):
  message = f"at least half of the codes must be in use, got {colors} of num_codes=16 "
  with pytest.raises(ValueError, match=message):
    fit_plain(colors)


def test_half_of_the_codes_are_enough():
  assert fit_plain(8).statistics.codes_in_use == 8


def fit_plain(colors):
  """Sixteen codes for patches of so many different colours."""
  greys = np.linspace(0, 255, colors).astype(np.uint8).repeat(16)
  plain_NYXC = np.broadcast_to(greys[:, None, None, None], (len(greys), 4, 4, 3))
  return fit(VisualVocabulary("kmeans", 16, 4), plain_NYXC, steps=2, seed=0)


@pytest.mark.parametrize(
  ("codes", "patch", "steps", "message"),
  [
    (16, 5, 1, "square and a multiple of patch_size, got patch_size=5, height=16, wid"),
    (99, 4, 1, "as many patches as codes, got num_codes=99, 80 patches in 5 pictures."),
    (16, 4, 0, "steps must be at least 1, got steps=0."),
  ],
)
def test_mistakes(pictures_NYXC, codes, patch, steps, message):
  vocabulary = VisualVocabulary("kmeans", codes, patch)
  with pytest.raises(ValueError, match=message):
    fit(vocabulary, pictures_NYXC[:5], steps=steps, seed=0)


def test_progress(pictures_NYXC, monkeypatch):
  now = iter(range(0, 1000, 3))
  monkeypatch.setattr("mhmoe_jax.codes.fit.time.monotonic", lambda: next(now))
  lines = []
  vocabulary = VisualVocabulary("kmeans", 4, PATCH)
  fit(vocabulary, pictures_NYXC, steps=10, seed=0, tell=lines.append)
  assert len(lines) == 10
  assert re.fullmatch(r"step  4/10  mean square \d\.\d{3}  18s left", lines[3])
  assert re.fullmatch(r"step 10/10  mean square \d\.\d{3}", lines[9])


def test_statistics_by_hand():
  """Three pictures of one patch: black, black and white, drawn grey and white."""
  vocabulary = VisualVocabulary("kmeans", 2, 1)
  arrays = {
    "mean_U": np.zeros(3, np.float32),
    "whiten_UR": np.eye(3, dtype=np.float32),
    "codes_WR": np.array([[-1, -1, -1], [1, 1, 1]], np.float32),
    "color_RU": np.eye(3, dtype=np.float32),
    "patches_WU": np.array([[0, 0, 0], [3, 3, 3]], np.float32),  # Drawn as white.
  }
  pixels = np.array([0, 0, 255], np.uint8).reshape(3, 1, 1, 1).repeat(3, axis=3)
  found = measure(vocabulary, arrays, pixels)
  assert (found.codes_in_use, found.pictures) == (2, 3)
  entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
  np.testing.assert_allclose(found.code_entropy, entropy)
  np.testing.assert_allclose(found.code_perplexity, np.exp(entropy))
  np.testing.assert_allclose(found.psnr, 10 * np.log10(4 / (2 / 3)), rtol=1e-6)
  np.testing.assert_allclose(psnr(0.0), 126.0206, rtol=1e-6)  # And not infinity.


def test_pictures_that_are_not_square():
  wide_NYXC = np.zeros((2, 16, 8, 3), np.uint8)
  with pytest.raises(ValueError, match=r"got patch_size=4, height=16, width=8\."):
    fit(VisualVocabulary("kmeans", 4, 4), wide_NYXC, steps=1, seed=0)


def test_a_step_moves_codes_and_counts_who_is_idle(make, pictures_NYXC):
  """By the parts that tests/codes/test_vqvae.py checks."""
  vocabulary, (arrays, _) = make("vqvae")
  networks = {name: arrays[name] for name in ("encoder", "decoder")}
  white = {name: arrays[name] for name in ("mean_U", "whiten_UR", "color_RU")}
  optimizer = optax.sgd(0.1)
  idle_W = jnp.arange(CODES) % 5
  codes_WR = jnp.asarray(arrays["codes_WR"])
  state = training.State(networks, optimizer.init(networks), codes_WR, idle_W)
  pixels_BYXC = jnp.asarray(pictures_NYXC[:3])
  step = training._make_step(vocabulary, white, optimizer)
  after, error = step(state, pixels_BYXC, jax.random.key(0))
  patches_BPU = to_patches(normalize(pixels_BYXC), PATCH)
  gradients, (q, wanted) = jax.grad(vqvae.loss, has_aux=True)(
    networks, white, codes_WR, patches_BPU
  )
  np.testing.assert_allclose(error, wanted, rtol=1e-5)
  moved_WR = vqvae.move_codes(codes_WR, q.x_BPR, q.ids_BP)
  np.testing.assert_allclose(after.codes_WR, moved_WR, atol=1e-6)
  chosen = np.isin(np.arange(CODES), q.ids_BP)
  assert 0 < chosen.sum() < CODES
  np.testing.assert_array_equal(after.idle_W, np.where(chosen, 0, idle_W + 1))
  jax.tree.map(
    lambda x, g, y: np.testing.assert_allclose(y, x - 0.1 * g, rtol=1e-4, atol=1e-5),
    *(networks, gradients, after.networks),
  )
