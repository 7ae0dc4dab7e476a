"""Weights in whole chunks, and gradients back in the shapes of weights."""

import jax
import numpy as np

from mhmoe_jax.moe import layout, vmem
from tests.moe.definition import make_weights


def test_padded_to_whole_chunks_and_back(key):
  weights = make_weights(key, gated=True, bias=True, norm=True)  # 12 wide
  parts = layout.lay_out(weights, vmem.Cut(tile=256, chunks=3, width=5, hidden=12))
  E, M = weights.b_out_EM.shape
  assert parts.w_in_EMF.shape == (E, M, 15)
  assert parts.w_out_EFM.shape == (E, 15, M)
  assert parts.norm_scale_EF.shape == (E, 1, 15)
  # What is added adds nothing to a sum over chunks.
  assert parts.b_out_EM.shape == (E, 3, 1, M)
  for part, w in zip(jax.tree.leaves(parts), jax.tree.leaves(weights), strict=True):
    np.testing.assert_allclose(part.sum(), w.sum(), rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, layout.take_back(parts, weights), weights)
