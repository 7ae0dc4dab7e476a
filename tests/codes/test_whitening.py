"""Whitening against covariances, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.codes import whitening


@pytest.fixture
def patches_TU():
  draw = np.random.RandomState(0)
  mix_UU = draw.normal(size=(12, 12)) * np.logspace(0, -3, 12)
  return (draw.normal(size=(5000, 12)) @ mix_UU + 0.3).astype("f4")


def covariance(arrays, patches_TU):
  return np.cov(np.asarray(whitening.whiten(arrays, patches_TU[None])[0]).T)


def test_all_components_get_variance_one(patches_TU):
  arrays = whitening.fit(patches_TU, 4, 0)
  np.testing.assert_allclose(covariance(arrays, patches_TU), np.eye(4), atol=1e-3)


def test_softening_leaves_noise_small(patches_TU):
  arrays = whitening.fit(patches_TU, 12, 0.1)
  found_RR = covariance(arrays, patches_TU)
  variance_R = np.diag(found_RR)
  np.testing.assert_allclose(found_RR, np.diag(variance_R), atol=1e-4)
  np.testing.assert_allclose(variance_R[0], 1 / 1.1, rtol=1e-4)
  assert (np.diff(variance_R) < 0).all()
  assert variance_R[-1] < 1e-3


@pytest.mark.parametrize("softening", [0, 0.1])
def test_and_back(patches_TU, softening):
  arrays = whitening.fit(patches_TU, 12, softening)
  x_BPU = jnp.asarray(patches_TU[None, :50])
  back_BPU = whitening.color(arrays, whitening.whiten(arrays, x_BPU))
  np.testing.assert_allclose(back_BPU, x_BPU, atol=1e-4)
  some = whitening.fit(patches_TU, 3, softening)
  lost_BPU = whitening.color(some, whitening.whiten(some, x_BPU)) - x_BPU
  # What is lost is what the other nine components say.
  _, vectors_UU = np.linalg.eigh(np.cov(patches_TU.T))
  np.testing.assert_allclose(lost_BPU[0] @ vectors_UU[:, -3:], 0, atol=1e-4)
  assert jnp.abs(lost_BPU).max() > 0.01


def test_plain_patches_are_no_trouble():
  arrays = whitening.fit(np.full((9, 12), 0.5, np.float32), 12, 0.1)
  assert (np.asarray(whitening.whiten(arrays, jnp.full((1, 2, 12), 0.5))) == 0).all()
