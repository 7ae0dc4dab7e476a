"""One interface for both kinds, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.codes.vocabulary import (
  KINDS,
  VisualVocabulary,
  array_shapes,
  decode,
  encode,
)
from mhmoe_jax.models.patches import normalize, to_patches
from tests.codes.conftest import CODES, PATCH


@pytest.fixture
def patches_BPU(pictures_NYXC):
  return to_patches(normalize(pictures_NYXC[:8]), PATCH)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_back(make, patches_BPU, kind):
  vocabulary, (arrays, _) = make(kind)
  ids_BP = encode(vocabulary, arrays, patches_BPU)
  assert (ids_BP.shape, ids_BP.dtype) == ((8, 16), jnp.int32)
  assert 0 <= ids_BP.min() < ids_BP.max() < CODES
  drawn_BPU = decode(vocabulary, arrays, ids_BP)
  assert drawn_BPU.shape == patches_BPU.shape
  grey = jnp.square(patches_BPU - patches_BPU.mean()).mean()
  assert jnp.square(drawn_BPU - patches_BPU).mean() < 0.7 * grey


@pytest.mark.parametrize("kind", KINDS)
def test_on_eight_devices_as_on_one(make, patches_BPU, kind):
  vocabulary, (arrays, _) = make(kind)
  expected_BP = encode(vocabulary, arrays, patches_BPU)
  mesh = sharding.make_mesh()
  spread_BPU = sharding.place_batch(np.asarray(patches_BPU), mesh, 8)
  rules = sharding.REPLICATED
  spread = jax.device_put(arrays, sharding.tree_shardings(arrays, mesh, rules))
  with jax.set_mesh(mesh):
    ids_BP = jax.jit(lambda a, x: encode(vocabulary, a, x))(spread, spread_BPU)
  np.testing.assert_array_equal(ids_BP, expected_BP)
  assert ids_BP.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_do_not_depend_on_the_precision_around_them(make, patches_BPU, kind):
  vocabulary, (arrays, _) = make(kind)
  with jax.default_matmul_precision("bfloat16"):
    text = jax.jit(lambda x: encode(vocabulary, arrays, x)).lower(patches_BPU).as_text()
    if kind == "vqvae":  # k-means only looks its patches up.
      ids_BP = jnp.zeros((1, 16), jnp.int32)
      back = jax.jit(lambda x: decode(vocabulary, arrays, x)).lower(ids_BP).as_text()
      assert "HIGHEST" in back
      assert "DEFAULT" not in back
  assert "HIGHEST" in text
  assert "DEFAULT" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_without_fitting(make, kind):
  vocabulary, (arrays, _) = make(kind)
  found = jax.tree.map(lambda x: (x.shape, x.dtype), arrays)
  assert found == jax.tree.map(lambda x: (x.shape, x.dtype), array_shapes(vocabulary))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (("vae", 8, 4), "kind must be one of kmeans, vqvae, got kind=vae."),
    (("kmeans", 1, 4), "num_codes must be an integer of at least 2, got num_codes=1."),
    (("kmeans", 8, 0), "patch_size must be an integer of at least 1, got patch_size=0"),
    (("kmeans", 8, 2.0), "patch_size must be .*, got patch_size=2.0."),
    (("kmeans", 8, True), "patch_size must be .*, got patch_size=True."),
  ],
)
def test_mistakes(values, message):
  with pytest.raises(ValueError, match=message):
    VisualVocabulary(*values)


def test_patches_of_another_size(make, pictures_NYXC):
  vocabulary, (arrays, _) = make("kmeans")
  message = "3 \\* patch_size \\*\\* 2 numbers, got patch_size=4, 192 numbers."
  with pytest.raises(ValueError, match=message):
    encode(vocabulary, arrays, to_patches(normalize(pictures_NYXC[:1]), 8))


def test_pictures_that_are_not_square(make):
  vocabulary, (arrays, _) = make("vqvae")
  with pytest.raises(ValueError, match="pictures must be square, got 6 patches in one"):
    decode(vocabulary, arrays, jnp.zeros((1, 6), jnp.int32))
