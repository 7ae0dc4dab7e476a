"""Which tokens of a caption are hidden, and which of its captions is taken."""

import dataclasses
import json

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.images.numbered import Place
from mhmoe_jax.data.pictured.captions import (
  CaptionRows,
  UncaptionedRows,
  read_captions,
)
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import small_captioning

MASK, BEGIN, END = 259, 0, 1


def make(**changes):
  data = resolve(small_captioning()).data
  return dataclasses.replace(data, **changes)


def test_a_share_of_the_tokens_is_masked_the_end_among_them():
  cfg = make(mask_share=0.7, random_share=0.0, kept_share=0.0, cut_texts=True)
  rows, ends, last = CaptionRows(cfg, 16, MASK, "train"), 0, 0
  for index in range(20):
    row = rows(Place(index, 0))
    length = row["segments"].sum()
    used = row["weights"] > 0
    places, targets = row["token_places"][used], row["targets"][used]
    assert len(places) == round(0.7 * (length - 1))
    assert ((places > 0) & (places < length)).all()
    assert len(set(places.tolist())) == len(places)
    whole = row["tokens"].copy()
    assert (whole[places] == MASK).all()
    whole[places] = targets
    assert not (whole == MASK).any()
    assert (whole[0], whole[length - 1]) == (BEGIN, END)
    assert not whole[length:].any()
    ends += END in targets
    last += length - 1 in places
  assert ends == last
  assert 8 <= ends < 20  # of 20 captions 14, give or take


def test_of_several_captions_one_is_drawn(tmp_path):
  """In training; validation has the first. References are all of them."""
  texts = ["a", "bb", "ccc"]
  Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
  lines = [{"image": "x.png", "text": texts}, {"image": "x.png", "text": "dddd"}]
  index = tmp_path / "index.jsonl"
  index.write_text("".join(json.dumps(line) + "\n" for line in lines))
  cfg = make()
  files = {"source": "files", "train": str(index), "valid": str(index)}
  pictures = dataclasses.replace(cfg.pictures, **files, text_key="text")
  cfg = dataclasses.replace(cfg, pictures=pictures)

  def lengths(split):
    rows = CaptionRows(cfg, 16, MASK, split)
    return [int(rows(Place(0, epoch))["segments"].sum()) - 2 for epoch in range(20)]

  assert set(lengths("train")) == {1, 2, 3}
  assert set(lengths("validation")) == {1}
  assert read_captions(cfg, 9) == [texts, ["dddd"]]
  assert read_captions(cfg, 1) == [texts]


def test_pictures_to_write_captions_of():
  rows = UncaptionedRows(make(), 16, 5)
  assert [len(rows), len(UncaptionedRows(make(), 16, 99))] == [5, 7]
  row = rows(Place(3, 0))
  assert row.keys() == {"pixels", "number"}
  assert row["number"] == 3
  same = CaptionRows(make(), 16, MASK, "validation")(Place(3, 0))
  np.testing.assert_array_equal(row["pixels"], same["pixels"])


def test_a_caption_longer_than_its_window():
  rows = CaptionRows(make(cut_texts=False), 16, MASK, "train")
  with pytest.raises(ValueError) as error:
    rows(Place(0, 0))
  message = str(error.value)
  assert message.startswith("a text must fit into data.text_length with a token before")
  assert message.endswith("text_length=20, of picture 0 of the train shapes.")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"mask_share": 0.0}, "mask_share must be between 0 and 1, got mask_share=0.0."),
    ({"kept_share": 0.95}, "got random_share=0.1, kept_share=0.95."),
  ],
)
def test_bad_shares(changes, message):
  with pytest.raises(ValueError) as error:
    make(**changes)
  assert message in str(error.value)
