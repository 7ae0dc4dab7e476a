"""Sources of pictures: what they give, and one line for what is wrong with them."""

import json

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.sources import (
  PictureConfig,
  open_source,
)

BASE = {
  "source": "shapes",
  "name": "",
  "train": "",
  "valid": "",
  "text_key": "caption",
  "num_train": 10,
  "num_valid": 4,
  "seed": 0,
}


def config(**changes):
  return PictureConfig(**BASE | changes)


def write_files(folder, count=3):
  records = []
  for i in range(count):
    Image.new("RGB", (4 + i, 4), (i, 0, 0)).save(folder / f"{i}.png")
    records.append({"image": f"{i}.png", "caption": f"picture {i}", "id": i})
  index = folder / "index.jsonl"
  index.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(index)


def write_npz(folder, count=3, name="set"):
  images = np.full((count, 8, 8, 3), np.arange(count)[:, None, None, None], np.uint8)
  np.savez(folder / f"{name}.npz", images=images)
  rows = [json.dumps({"caption": f"{name} {i}"}) for i in range(count)]
  (folder / f"{name}.jsonl").write_text("\n".join(rows))
  return str(folder / f"{name}.npz")


def test_shapes_are_what_they_say():
  train, valid = (open_source(config(), split, 32) for split in ("train", "validation"))
  assert (len(train), len(valid)) == (10, 4)
  picture = train[3]
  assert picture.pixels.shape == (32, 32, 3)
  (text,) = read_text(picture.record, "caption", picture.name)
  for shape in picture.record["scene"].shapes:
    assert f"{shape.color} " in text
    assert shape.shape in text
  assert (train[3].pixels == picture.pixels).all()
  assert (train[2].pixels != picture.pixels).any()


def test_files(tmp_path):
  index = write_files(tmp_path)
  source = open_source(config(source="files", train=index, valid=index), "train", 32)
  assert len(source) == 3
  assert source[2].pixels.shape == (4, 6, 3)
  assert source[2].pixels[0, 0].tolist() == [2, 0, 0]
  assert source[2].record["id"] == 2


def test_several_npz_are_one_after_the_other(tmp_path):
  both = ",".join(write_npz(tmp_path, n, name) for n, name in [(3, "a"), (2, "b")])
  one = both.split(",")[0]
  source = open_source(config(source="npz", train=one, valid=both), "validation", 32)
  assert len(source) == 5
  texts = [read_text(source[i].record, "caption", "x")[0] for i in range(5)]
  assert texts == ["a 0", "a 1", "a 2", "b 0", "b 1"]
  assert source[4].pixels[0, 0, 0] == 1


def test_texts_in_lists_and_fields():
  record = {"names": {"de": "Ring"}, "captions": {"text": [b"a", b"b"]}}
  assert read_text(record, "names/de", "x") == ["Ring"]
  assert read_text(record, "captions/text", "x") == ["a", "b"]
  for key, words in [
    ("names/fr", "the fields names, captions"),
    ("names", "must be text"),
  ]:
    with pytest.raises(ValueError, match=words):
      read_text(record, key, "x")


def broken(folder, problem):
  index, npz = write_files(folder), write_npz(folder)
  path = folder / "index.jsonl"
  if problem == "no index":
    path.unlink()
  elif problem == "empty index":
    path.write_text("")
  elif problem == "no text":
    path.write_text('{"image": "0.png", "caption": "a"}\n{"image": "0.png"}\n')
  elif problem == "empty text":
    path.write_text('{"image": "0.png", "caption": " "}\n')
  elif problem == "no JSON":
    path.write_text('{"image": "0.png", "caption": "a"}\nhello\n')
  elif problem == "no object":
    path.write_text("[1]\n")
  elif problem == "no path":
    path.write_text('{"picture": "0.png", "caption": "a"}\n')
  elif problem == "no picture":
    (folder / "0.png").unlink()
  elif problem == "no npz":
    (folder / "set.npz").write_bytes(b"hello")
  elif problem == "other array":
    np.savez(npz, pictures=np.zeros(3))
  elif problem == "damaged array":
    content = bytearray((folder / "set.npz").read_bytes())
    content[200] ^= 1
    (folder / "set.npz").write_bytes(content)
  elif problem == "damaged, compressed":
    np.savez_compressed(npz, images=np.arange(3 * 192).astype(np.uint8))
    content = bytearray((folder / "set.npz").read_bytes())
    content[60:160] = bytes(100)
    (folder / "set.npz").write_bytes(content)
  elif problem == "no picture in it":
    np.savez(npz, images=np.zeros((0, 8, 8, 3), np.uint8))
  elif problem == "npz without texts":
    (folder / "set.jsonl").unlink()
  elif problem == "grey array":
    np.savez(npz, images=np.zeros((3, 8, 8), np.uint8))
  elif problem == "float array":
    np.savez(npz, images=np.zeros((3, 8, 8, 3), np.float32))
  elif problem == "long index of npz":
    (folder / "set.jsonl").write_text('{"caption": "one"}\n' * 4)
  elif problem == "short index":
    (folder / "set.jsonl").write_text('{"caption": "one"}\n')
  return index, npz


@pytest.mark.parametrize(
  ("problem", "message"),
  [
    ("no index", "cannot read the index "),
    ("empty index", "an index must have a line, got none in "),
    ("no text", "must have the field 'caption', got the fields image of line 2 of "),
    ("empty text", "must be text, or a list of it, got ' ' of line 1 of "),
    ("no JSON", "'Expecting value' in line 2 of "),
    ("no object", "must be a JSON object, got '[1]' in line 1 of "),
    (
      "no path",
      "must have a path in 'image', got the fields picture, caption in line 1 of ",
    ),
    ("no picture", "cannot read "),
    ("no npz", "cannot read "),
    ("other array", "pictures must be in 'images', got pictures in "),
    (
      "grey array",
      "must be uint8 of shape (pictures, height, width, 3), got uint8 (3, ",
    ),
    ("float array", "must be uint8 of shape (pictures, height, width, 3), got float32"),
    ("long index of npz", "a line for every picture, got 4 lines in "),
    ("damaged array", "cannot read "),
    ("damaged, compressed", "cannot read "),
    ("no picture in it", "must be uint8 of shape (pictures, height, width, 3), got"),
    ("npz without texts", "texts must be in lines beside the pictures, got no "),
    ("short index", "a line for every picture, got 1 lines in "),
  ],
)
def test_bad_files(tmp_path, problem, message):
  index, npz = broken(tmp_path, problem)
  kinds = {"files": index, "npz": npz}
  of_npz = ("npz", "array", "compressed", "short index", "picture in it")
  kind = "npz" if any(words in problem for words in of_npz) else "files"
  with pytest.raises(ValueError) as caught:
    open_source(config(source=kind, train=kinds[kind], valid="x"), "train", 32)[0]
  assert message in str(caught.value)
  assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"source": "zip"}, "source must be one of shapes, files, npz, tfds, got"),
    ({"source": "npz"}, "source='npz' needs train and valid, got train=''"),
    ({"source": "npz", "train": "a"}, "needs train and valid, got train='a', valid=''"),
    ({"num_valid": 0}, "num_valid must be at least 1, got num_valid=0."),
    ({"num_train": 0}, "num_train must be at least 1, got num_train=0."),
    ({"seed": 2**32}, "seed must be in [0, 2**32), got seed=4294967296."),
    (
      {"source": "tfds", "name": "caltech101", "train": "train", "valid": "test"},
      "such as caltech101:3.0.2, got name='caltech101'.",
    ),
  ],
)
def test_bad_configs(changes, message):
  with pytest.raises(ValueError) as caught:
    config(**changes)
  assert message in str(caught.value)
