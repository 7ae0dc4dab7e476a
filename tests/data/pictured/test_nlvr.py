"""Statements: one picture, two, or three boxes, from files, arrays and shapes."""

import json

import numpy as np
from PIL import Image
import pytest

from configs import base_finetune, base_masked
from mhmoe_jax.data.images import shapes
from mhmoe_jax.data.images.numbered import Place
from mhmoe_jax.data.pictured.nlvr import NlvrRows, cut_boxes, read_label
from mhmoe_jax.train.config import resolve


@pytest.fixture
def config():
  config = base_finetune.tune(base_masked.get_config(), "nlvr")
  config.data.text_length = 64
  return config


def rows(config, split="validation", size=8):
  return NlvrRows(resolve(config).data, size, split)


def files(folder, config, *records, name="index.jsonl"):
  (folder / name).write_text("".join(f"{json.dumps(x)}\n" for x in records))
  config.data.pictures.source = "npz" if name.startswith("set") else "files"
  where = str(folder / name).replace("set.jsonl", "set.npz")
  config.data.pictures.train = config.data.pictures.valid = where
  config.data.pictures.text_key = "sentence"
  return config


def paint(folder, name, *shades):
  """Squares side by side."""
  pixels = np.repeat(np.array(shades, np.uint8), 10)[None].repeat(10, axis=0)
  Image.fromarray(pixels).save(folder / name)
  return name


def test_two_pictures_and_repeated_sentences(config, tmp_path):
  left, right = paint(tmp_path, "a.png", 10), paint(tmp_path, "b.png", 200)
  both = {"image": left, "image2": right}
  config = files(
    tmp_path,
    config,
    {**both, "sentence": "x", "label": "True"},
    {**both, "sentence": "y", "label": False},
    {"image": right, "image2": left, "sentence": "x", "label": 0},
  )
  found = [rows(config)(Place(i, 0)) for i in range(3)]
  assert [row["label"] for row in found] == [1, 0, 0]
  assert [row["pixels"][:, 0, 0, 0].tolist() for row in found] == [
    [10, 200],
    [10, 200],
    [200, 10],
  ]
  assert [row["sentence"].tolist() for row in found] == [
    [True, False],
    [False, True],
    [True, False],
  ]
  assert "sentence" not in rows(config, "train")(Place(0, 0))


def test_an_array_with_numbers(config, tmp_path):
  images = np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in (1, 2, 3)])
  np.savez(tmp_path / "set.npz", images=images)
  one = {"sentence": "x", "label": 1}
  lines = [{"image": 2, "image2": 0, **one}, {"image": 1, "image2": 1, **one}]
  config = files(tmp_path, config, *lines, name="set.jsonl")
  found = [rows(config)(Place(i, 0))["pixels"][:, 0, 0, 0].tolist() for i in range(2)]
  assert found == [[3, 1], [2, 2]]
  config = files(tmp_path, config, {**lines[0], "image2": 3}, name="set.jsonl")
  with pytest.raises(ValueError, match=r"be below 3, got 3 of line 0 of .*set\.npz"):
    rows(config)(Place(0, 0))


def test_three_boxes_and_one_picture(config, tmp_path):
  """With gaps between the boxes, as NLVR has; and the same picture as a whole."""
  name = paint(tmp_path, "a.png", 10, 0, 20, 0, 30)
  record = {"image": name, "sentence": "x", "label": "true"}
  config = files(tmp_path, config, record)
  config.data.arrangement = "boxes"
  (found,) = (rows(config)(Place(0, 0)) for _ in range(1))
  for pixels, shade in zip(found["pixels"], (10, 20, 30), strict=True):
    assert (pixels == shade).all()
  config.data.arrangement = "one"
  assert rows(config)(Place(0, 0))["pixels"].shape == (1, 8, 8, 3)
  with pytest.raises(ValueError, match="times as wide as high, got 29 x 10 of x"):
    cut_boxes(np.zeros((10, 29, 3), np.uint8), "x")


def test_shapes(config):
  """The second picture is another, the label right; half of the statements are true."""
  config.data.pictures.num_valid = 200
  made = rows(config, size=16)
  source = made._made.source
  labels = []
  for i in range(200):
    row = made(Place(i, 0))
    record, _ = source.record(i)
    labels.append(row["label"])
    first, second = record["scene"], source._scene(i + 2**31)
    if i < 3:
      np.testing.assert_array_equal(row["pixels"][0], shapes.render(first, 16))
      np.testing.assert_array_equal(row["pixels"][1], shapes.render(second, 16))
    if record["comparison"].startswith("both pictures have a "):
      word = record["comparison"].rsplit(" ", 1)[1]
      has = [word in {x.shape for x in s.shapes} for s in (first, second)]
      assert row["label"] == all(has)
  assert 70 < sum(labels) < 130


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"image2": None}, "second picture in 'image2', got the fields image, sentence, l"),
    ({"label": "yes"}, "must be true or false in 'label', got 'yes' of "),
    ({"label": None}, "in 'label', got 'no such field' of "),
    (
      {"sentence": None},
      "every picture must have the field 'sentence', got the ",
    ),
  ],
)
def test_bad_lines_are_told_at_once(config, tmp_path, change, message):
  good = {"image": "a.png", "sentence": "x", "label": 1, "image2": "b.png"}
  bad = {key: x for key, x in (good | change).items() if x is not None}
  for split in ("train", "validation"):
    with pytest.raises(ValueError) as error:
      rows(files(tmp_path, config, good, bad), split)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_labels():
  for given, label in (("True", 1), (True, 1), (1, 1), ("false", 0), (0, 0)):
    assert read_label({"x": given}, "x", "line 1") == label
