"""Pictures and vocabularies that several files look at."""

import numpy as np
import pytest

from mhmoe_jax.codes.fit import fit
from mhmoe_jax.codes.vocabulary import VisualVocabulary
from mhmoe_jax.data.images import shapes

CODES, SIZE, PATCH = 16, 16, 4


@pytest.fixture(scope="session")
def pictures_NYXC():
  scenes = [shapes.make_scene(0, "train", i) for i in range(80)]
  return np.stack([shapes.render(scene, SIZE) for scene in scenes])


@pytest.fixture(scope="session")
def make(pictures_NYXC):
  """Fits a vocabulary of a kind to the pictures; each once."""
  made = {}

  def fitted(kind):
    if kind not in made:
      vocabulary = VisualVocabulary(kind, CODES, PATCH)
      steps = {"kmeans": 10, "vqvae": 40}[kind]
      made[kind] = vocabulary, fit(vocabulary, pictures_NYXC, steps=steps, seed=0)
    return made[kind]

  return fitted
