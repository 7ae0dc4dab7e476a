"""Pictures show what their scenes say, at any size, today and tomorrow."""

import hashlib

import numpy as np
import pytest

from mhmoe_jax.data.images import shapes
from mhmoe_jax.data.images.shapes import Scene, Shape


def lone(shape="square", texture="flat", size="large"):
  one = Shape(shape, "red", size, texture, row=1, column=1, x=0.5, y=0.5)
  return Scene((one,), ground=0, noise_seed=3, angle=0.0, period=0.125)


def test_a_digest_of_ten_pictures():
  digest = hashlib.sha256()
  for i in range(10):
    digest.update(shapes.render(shapes.make_scene(0, "train", i), 32).tobytes())
  assert digest.hexdigest()[:16] == "3ce1e160559f5c62"


def test_seed_split_and_index_each_make_another_picture():
  scenes = [(0, "train", 0), (1, "train", 0), (0, "validation", 0), (0, "train", 1)]
  made = [shapes.make_scene(*scene) for scene in scenes]
  assert len(set(made)) == 4
  assert made[0] == shapes.make_scene(0, "train", 0)


def test_a_red_square_in_the_middle_of_the_ground():
  picture = shapes.render(lone(), 64)
  assert picture.dtype == np.uint8
  assert picture.shape == (64, 64, 3)
  np.testing.assert_array_equal(picture[32, 32], shapes.COLORS["red"])
  np.testing.assert_array_equal(picture[2, 2], shapes.GROUNDS[0])


@pytest.mark.parametrize(
  ("shape", "area"),
  [
    # In squares of the half width r, worked out by hand.
    ("circle", np.pi),
    ("ring", np.pi * (1 - 0.44**2)),
    ("square", 1.8**2),
    ("diamond", 2 * 1.05**2),
    ("cross", 2 * (2 * 0.72) - 0.72**2),
    ("triangle", 0.5 * 1.8 * 1.8),
  ],
)
def test_areas(shape, area):
  (cover,) = shapes.covers(lone(shape), 256)
  r = shapes.SIZES["large"]
  assert cover.mean() == pytest.approx(area * r**2, rel=0.01)


@pytest.mark.parametrize("texture", ["striped", "dotted", "noisy"])
@pytest.mark.parametrize("size", [32, 64, 224])
def test_textures_vary_inside_a_shape_and_flat_ones_do_not(texture, size):
  def spread(scene):
    half = int(0.075 * size)
    inside = slice(size // 2 - half, size // 2 + half)
    return (
      shapes.render(scene, size)[inside, inside].astype(float).std(axis=(0, 1)).max()
    )

  assert spread(lone(texture=texture)) > 20
  assert spread(lone()) == 0


def test_the_texture_map_is_of_textured_shapes_alone():
  assert shapes.texture_map(lone(), 64, 8).max() == 0
  found = shapes.texture_map(lone(texture="striped"), 64, 8)
  assert found.shape == (8, 8)
  np.testing.assert_allclose(found[3:5, 3:5], 1)
  assert found[0].max() == 0
  r = shapes.SIZES["large"]
  assert found.mean() == pytest.approx((1.8 * r) ** 2, rel=0.02)
  (middle,), corner = lone(texture="striped").shapes, {"x": 0.2, "y": 0.2}
  both = lone()._replace(shapes=(middle, middle._replace(texture="dotted", **corner)))
  twice = pytest.approx(2 * found.mean(), rel=0.02)
  assert shapes.texture_map(both, 64, 8).mean() == twice


def test_shapes_stay_inside_and_apart():
  for i in range(300):
    cover = np.array(shapes.covers(shapes.make_scene(0, "train", i), 64))
    assert cover.sum(axis=0).max() < 1.5  # edges may touch
    edge = np.concatenate(
      [cover[:, 0], cover[:, -1], cover[:, :, 0], cover[:, :, -1]], 1
    )
    assert edge.max() < 1
