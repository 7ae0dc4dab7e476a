"""k-means against worked numbers and another way to write it."""

import jax.numpy as jnp
import numpy as np

from mhmoe_jax.codes import kmeans

# Dark and bright patches of one pixel; the only component is how bright they are.
BY_HAND = {
  "mean_U": jnp.array([0.1, 0.1, 0.1]),
  "whiten_UR": jnp.array([[1.0], [1.0], [1.0]]),
  "codes_WR": jnp.array([[-1.0], [2.0]]),
  "patches_WU": jnp.array([[-0.5, -0.5, -0.5], [0.5, 0.6, 0.7]]),
}


def test_two_codes_by_hand():
  # Minus the mean and summed: -0.9, 0.3, 0.6 and 1.5; halfway between the codes is 0.5.
  patches_BPU = jnp.array([[[-0.2] * 3, [0.2] * 3], [[0.3] * 3, [0.6] * 3]])
  ids_BP = kmeans.encode(BY_HAND, patches_BPU)
  np.testing.assert_array_equal(ids_BP, [[0, 0], [1, 1]])
  assert ids_BP.dtype == jnp.int32
  drawn_BPU = kmeans.decode(BY_HAND, ids_BP)
  np.testing.assert_array_equal(drawn_BPU[0, 1], BY_HAND["patches_WU"][0])
  np.testing.assert_array_equal(drawn_BPU[1, 0], BY_HAND["patches_WU"][1])


def test_groups_far_apart_are_found():
  draw = np.random.RandomState(0)
  middles_WU = draw.uniform(-1, 1, (6, 12))
  group_T = np.arange(600) % 6
  patches_TU = (middles_WU[group_T] + draw.normal(0, 0.01, (600, 12))).astype("f4")
  seen = []
  arrays = kmeans.fit(patches_TU, 6, 5, 0, lambda nth, far: seen.append((nth, far)))
  ids_T = np.asarray(kmeans.encode(arrays, patches_TU[None])[0])
  # One code for each group, which draws the group's mean.
  assert len(set(zip(ids_T, group_T, strict=True))) == 6
  means_WU = np.stack([patches_TU[group_T == g].mean(axis=0) for g in range(6)])
  drawn_WU = np.asarray(arrays["patches_WU"])[ids_T[:6]]
  np.testing.assert_allclose(drawn_WU, means_WU, atol=1e-6)
  assert [nth for nth, _ in seen] == [1, 2, 3, 4, 5]
  assert seen[-1][1] < 0.1


def test_a_round_equals_a_loop(monkeypatch):
  draw = np.random.RandomState(1)
  x_TR = draw.normal(size=(50, 3)).astype("f4")
  start_WR = x_TR[:4].copy()
  monkeypatch.setattr(kmeans, "_spread_out", lambda *_: start_WR)
  found_WR = kmeans.fit_codes(x_TR, 4, 1, draw)
  for w in range(4):
    mine = [x for x in x_TR if np.square(start_WR - x).sum(axis=1).argmin() == w]
    np.testing.assert_allclose(found_WR[w], np.mean(mine, axis=0), rtol=1e-5)


def test_a_code_that_lost_its_vectors_starts_anew_where_it_is_missed(monkeypatch):
  x_TR = np.array([[0.0], [1.0], [10.0]], np.float32)
  start_WR = np.array([[0.5], [99.0]], np.float32)
  monkeypatch.setattr(kmeans, "_spread_out", lambda *_: start_WR)
  found_WR = kmeans.fit_codes(x_TR, 2, 1, np.random.RandomState(0))
  np.testing.assert_allclose(found_WR, [[11 / 3], [10]], rtol=1e-6)


def test_a_code_without_patches_looks_like_their_mean():
  patches_TU = np.repeat([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]], 4, axis=0).astype("f4")
  arrays = kmeans.fit(patches_TU, 3, 2, 0, lambda *_: None)
  found = sorted(np.asarray(arrays["patches_WU"]).tolist())
  np.testing.assert_allclose(found, [[0, 1, 0.5], [0.5] * 3, [1, 0, 0.5]], atol=1e-6)


def test_codes_on_the_sphere_have_length_one():
  x_TR = np.random.RandomState(0).normal(size=(200, 5)).astype("f4")
  x_TR /= np.linalg.norm(x_TR, axis=1, keepdims=True)
  codes_WR = kmeans.fit_codes(x_TR, 7, 3, np.random.RandomState(0), on_sphere=True)
  np.testing.assert_allclose(np.linalg.norm(codes_WR, axis=1), 1, rtol=1e-6)


def test_the_start_spreads_out():
  """Of 990 vectors in one place and 10 in others, k-means++ takes all ten."""
  x_TR = np.zeros((1000, 2), np.float32)
  x_TR[:10] = np.random.RandomState(0).normal(0, 10, (10, 2))
  codes_WR = kmeans.fit_codes(x_TR, 11, 0, np.random.RandomState(0))
  assert len(np.unique(codes_WR, axis=0)) == 11


def test_one_seed_one_result():
  patches_TU = np.random.RandomState(0).uniform(-1, 1, (300, 12)).astype("f4")
  one, same, other = (
    kmeans.fit(patches_TU, 8, 2, seed, lambda *_: None) for seed in (0, 0, 1)
  )
  for name in one:
    np.testing.assert_array_equal(one[name], same[name])
  assert (one["codes_WR"] != other["codes_WR"]).any()
