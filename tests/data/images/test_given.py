"""Pictures that a user names: found in order, and what cannot be read is told."""

import json

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.images import given
from mhmoe_jax.data.images.shapes import Scene, make_scene, render


def draw(path, grey):
  Image.fromarray(np.full((4, 6, 3), grey, np.uint8)).save(path)


def read(*patterns, text_key=""):
  problems = []
  paths = given.find_pictures(",".join(map(str, patterns)), text_key)
  return list(given.iterate_pictures(paths, text_key, problems.append)), problems


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "cats").mkdir()
  for name, grey in (("b.png", 20), ("a.png", 10), ("c.jpg", 30)):
    draw(tmp_path / "cats" / name, grey)
  (tmp_path / "cats" / "bad.png").write_text("no picture")
  lines = [
    {"image": "cats/a.png", "text": ["a cat", "one cat"]},
    {"image": "cats/bad.png", "text": "what"},
    {"image": "cats/b.png", "text": "a mat"},
  ]
  (tmp_path / "pets.jsonl").write_text("\n".join(map(json.dumps, lines)))
  images = np.full((2, 4, 4, 3), 7, np.uint8)
  np.savez(tmp_path / "some.npz", images=images)
  return tmp_path


def test_files_of_globs_in_order(folder):
  found, problems = read(folder / "cats/*.png", folder / "cats/c.jpg")
  assert [one.name for one in found] == [
    f"{folder}/cats/{name}" for name in ("a.png", "b.png", "c.jpg")
  ]
  assert [int(one.pixels[0, 0, 0]) for one in found] == [10, 20, 30]
  assert {(one.label, one.text) for one in found} == {("cats", "")}
  assert problems == [
    f"a picture must be PNG or JPEG, got neither in {folder}/cats/bad.png."
  ]


def test_indices_and_arrays(folder):
  found, problems = read(folder / "pets.jsonl", text_key="text")
  assert [(one.label, one.text) for one in found] == [
    ("pets", "a cat"),
    ("pets", "a mat"),
  ]
  assert len(problems) == 1
  found, problems = read(folder / "some.npz")
  assert [one.label for one in found] == ["some", "some"]
  assert not problems
  # Arrays without texts, of which texts are wanted, are one problem; others go on.
  found, problems = read(folder / "some.npz", folder / "pets.jsonl", text_key="text")
  assert len(found) == 2
  assert problems[0].startswith("texts must be in lines beside the pictures, got no ")


def test_each_once_and_the_missing_when_it_is_read(folder):
  found, problems = read(folder / "cats/c.jpg", folder / "cats/c.*", folder / "no.png")
  assert [one.name for one in found] == [f"{folder}/cats/c.jpg"]
  assert problems == [f"cannot read {folder}/no.png: No such file or directory."]


def test_what_is_not_there(folder):
  with pytest.raises(ValueError, match=r"files that are there, got none for '.*x\*'"):
    given.find_pictures(f"{folder}/x*")
  with pytest.raises(ValueError, match=r"files that are there, got none for ''"):
    given.find_pictures("")
  with pytest.raises(ValueError, match=r"^pictures with a text must be in an index"):
    given.find_pictures(f"{folder}/cats/a.png", "text")


def test_the_generator(folder):
  first, second = given.iterate_shapes(3, 2, 16, with_texts=True)
  np.testing.assert_array_equal(
    first.pixels, render(make_scene(3, "validation", 0), 16)
  )
  assert first.text.startswith("a ")
  assert first.text != second.text
  assert isinstance(first.record["scene"], Scene)
  (plain,) = given.iterate_shapes(3, 1, 16, with_texts=False)
  assert plain.text == ""
