"""What a pool shares, on a trace that is dealt by hand."""

import numpy as np

from mhmoe_jax.analysis.statistics.modality import measure_sharing
from tests.analysis.made import make_pictures

E = 4


def dealt():
  """Two heads: one keeps patches and words apart, of the other expert 0 serves both."""
  # A picture of four patches and two words; one choice.
  heads = [[0, 0, 1, 1, 2, 3], [0, 0, 0, 1, 0, 0]]
  return np.array(heads).T[:, None, :, None]


def test_sharing_by_hand():
  made = measure_sharing(make_pictures(dealt(), E, 2, words="ab"))
  # Of patches' eight choices five are expert 0's; of words' four two.
  np.testing.assert_allclose(
    made.load_YNE[:, 0], [[5 / 8, 3 / 8, 0, 0], [0.5, 0, 0.25, 0.25]]
  )
  np.testing.assert_allclose(made.overlap_N, [0.5])
  np.testing.assert_allclose(made.both_N, [1 / 4])
  # The first head tells all that there is to know: the entropy of 4 patches, 2 words.
  entropy = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
  assert made.head_information_NH.shape == (1, 2)
  np.testing.assert_allclose(made.head_information_NH[0, 0], entropy)
  # Of the second: five of six choices are expert 0's.
  conditional = 5 / 6 * -(3 / 5 * np.log2(3 / 5) + 2 / 5 * np.log2(2 / 5))
  np.testing.assert_allclose(made.head_information_NH[0, 1], entropy - conditional)


def test_there_is_nothing_to_share():
  assert measure_sharing(make_pictures(dealt(), E, 2, "ab", ("image", "text"))) is None
  alone = make_pictures(dealt()[:4], E, 2)
  assert measure_sharing(alone) is None
