"""Examples by hand: what is hidden, what it was, and what is never hidden."""

import json

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.images.augment import squash
from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.numbered import Place
from mhmoe_jax.data.images.sources import open_source
from mhmoe_jax.data.masked.rows import Rows, Sizes, sample_pictures
from mhmoe_jax.data.vocabularies import make_vocabulary
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import small_masked

SIZES = Sizes(picture_size=16, patch_size=4, mask_id=259)  # bytes, and [MASK]
MASK, EOS = 259, 1
same = np.testing.assert_array_equal


@pytest.fixture
def config(tmp_path):
  config = small_masked(tmp_path)
  # All that is hidden is [MASK], unless a test asks for more.
  config.data.mask.random_share = config.data.mask.kept_share = 0.0
  return config


def make(config, split="train"):
  return Rows(resolve(config).data, SIZES, split)


def encode(text):
  return make_vocabulary("bytes").encode(text)


def test_the_mask_is_the_token_behind_the_vocabulary():
  assert make_vocabulary("bytes").vocab_size == MASK
  assert make_vocabulary("bytes").eos_id == EOS


@pytest.mark.parametrize("patches", ["blocks", "random"])
def test_a_picture_alone(config, patches):
  """0.4 of 16 patches are 6, in every picture and every epoch, and others."""
  config.data.mask.patches = patches
  rows = make(config)
  found = [rows.image(Place(i, epoch)) for i in range(3) for epoch in range(2)]
  for row in found:
    assert row.keys() == {"pixels", "masked", "patch_places"}
    assert (row["pixels"].shape, row["pixels"].dtype) == ((16, 16, 3), np.uint8)
    assert (row["masked"].sum(), row["masked"].dtype) == (6, bool)
    same(row["patch_places"], np.flatnonzero(row["masked"]))
    assert row["patch_places"].dtype == np.int32
  assert len({row["masked"].tobytes() for row in found}) == 6
  assert len({row["pixels"].tobytes() for row in found}) == 6
  again = rows.image(Place(2, 1))
  assert all((again[name] == found[-1][name]).all() for name in again)


def test_validation_sees_whole_pictures_and_one_mask(config):
  rows = make(config, "validation")
  source = open_source(resolve(config).data.images, "validation", 16)
  same(rows.image(Place(1, 0))["pixels"], source[1].pixels)
  # With another mask than a picture with a text, or than by another seed.
  masks = rows.image(Place(0, 0))["masked"], rows.pair(Place(0, 0))["masked"]
  assert (masks[0] != masks[1]).any()
  config.data.seed = 5
  other = make(config, "validation").image(Place(0, 0))["masked"]
  assert (masks[0] != other).any()
  config.data.seed = 0
  same(
    make(config, "validation").image(Place(1, 0))["masked"],
    rows.image(Place(1, 0))["masked"],
  )
  trained = make(config).image(Place(1, 0))
  assert (trained["masked"] != rows.image(Place(1, 0))["masked"]).any()


@pytest.mark.parametrize("kind", ["image", "pair"])
def test_training_augments_each_kind_as_its_own_table_says(config, kind):
  data = config.data
  mine, other = (data.augment, data.pair_augment)[:: 1 if kind == "image" else -1]
  mine.update({"least_area": 1.0, "flip": False, "jitter": 0.0})
  other.update({"least_area": 0.5, "flip": True, "jitter": 0.4})
  tables = resolve(config).data
  table = tables.images if kind == "image" else tables.pairs
  row = getattr(make(config), kind)(Place(2, 0))
  same(row["pixels"], open_source(table, "train", 16)[2].pixels)


def test_a_picture_with_a_text(config):
  """Pad begins a text and EOS ends it; neither is hidden, half of the others are."""
  config.data.pair_length = 200
  config.data.mask.pair_image = 0.5
  config.model.text_length = 200
  rows = make(config, "validation")
  source = open_source(resolve(config).data.pairs, "validation", 16)
  for index in range(3):
    row = rows.pair(Place(index, 0))
    (text,) = read_text(source[index].record, "caption", "x")
    whole = np.array([0, *encode(text), EOS] + [0] * 200)[:200]
    count = round(0.5 * len(text))
    same(row["pixels"], source[index].pixels)
    assert row["masked"].sum() == 8
    same(row["positions"], np.arange(200))
    same(row["segments"], np.arange(200) < len(text) + 2)
    hidden = np.flatnonzero(row["tokens"] == MASK)
    assert hidden.min() > 0
    assert hidden.max() <= len(text)
    assert len(hidden) == count
    same(row["token_places"][:count], hidden)
    same(row["targets"][:count], whole[hidden])
    same(row["weights"], np.arange(100) < count)
    same(row["targets"][count:], 0)
    same(np.where(row["tokens"] == MASK, whole, row["tokens"]), whole)
  rows._window._begin = 7  # as of another vocabulary
  assert rows.pair(Place(0, 0))["tokens"][0] == 7


def test_all_of_a_text_that_fits(tmp_path, config):
  """18 tokens in a window of 20 are whole; one more is an error, or cut."""
  records = [{"image": "a.png", "caption": c} for c in ("x" * 18, ["y" * 19, "z"])]
  lines = "".join(json.dumps(record) + "\n" for record in records)
  (tmp_path / "index.jsonl").write_text(lines)
  Image.new("RGB", (9, 5), "red").save(tmp_path / "a.png")
  pairs = config.data.pairs
  pairs.source = "files"
  pairs.train = pairs.valid = str(tmp_path / "index.jsonl")
  config.data.cut_pairs = False
  rows = make(config, "validation")
  row = rows.pair(Place(0, 0))
  assert row["segments"].sum() == 20
  assert (row["tokens"] == MASK).sum() == 9
  same(row["pixels"], squash(np.full((5, 9, 3), (255, 0, 0), np.uint8), 16))
  with pytest.raises(ValueError) as caught:
    rows.pair(Place(1, 0))
  assert str(caught.value) == (
    "a text must fit into data.pair_length with a token before and one behind it, "
    f"unless data.cut_pairs, got 19 tokens, pair_length=20, of {tmp_path}/a.png."
  )
  config.data.cut_pairs = True
  row = make(config, "validation").pair(Place(1, 0))
  assert row["tokens"][19] == EOS
  assert set(row["tokens"][1:19]) == {MASK, *encode("y")}
  assert set(row["targets"][:9]) == set(encode("y"))
  # Training draws one of the texts of a picture anew in every epoch.
  lengths = {make(config).pair(Place(1, e))["segments"].sum() for e in range(20)}
  assert lengths == {20, 3}


BATCH = {
  "inputs": np.array([[0, 11, 12, 13, 14, 0, 21, 22], [0, 31, 32, 0, 0, 0, 0, 0]]),
  "positions": np.array([[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 0, 0, 0, 0, 0]]),
  "segments": np.array([[1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0, 0]]),
}
BATCH = {name: x.astype(np.int32) for name, x in BATCH.items()}


def test_texts(config):
  """Of 6 and of 2 tokens half are hidden, never the first of a text or padding."""
  config.data.mask.text = 0.5
  rows = make(config)
  found = [rows.text(BATCH, [n, n + 1]) for n in range(0, 40, 2)]
  for batch in found:
    for name in ("positions", "segments"):
      same(batch[name], BATCH[name])
    hidden = batch["tokens"] == MASK
    same(hidden.sum(axis=1), [3, 1])
    assert not hidden[(BATCH["positions"] == 0) | (BATCH["segments"] == 0)].any()
    same(np.where(hidden, BATCH["inputs"], batch["tokens"]), BATCH["inputs"])
    same(batch["weights"], [[1, 1, 1, 0], [1, 0, 0, 0]])
    for i, count in enumerate((3, 1)):
      places = batch["token_places"][i, :count]
      same(places, np.flatnonzero(hidden[i]))
      same(batch["targets"][i, :count], BATCH["inputs"][i, places])
  # Every token may be, and what is depends on the number of the row alone.
  ever = np.any([batch["tokens"] == MASK for batch in found], axis=0)
  same(ever, BATCH["positions"] > 0)
  turned = rows.text({n: x[::-1] for n, x in BATCH.items()}, [1, 0])
  for name, x in turned.items():
    same(x[::-1], found[0][name])
  # Numbers of 33 bits, as a long run has them.
  large = rows.text(BATCH, [2**32, 2**32 + 1])
  assert any((large[n] != found[0][n]).any() for n in large)


def test_shares_of_what_is_seen(config):
  config.data.mask.text = 0.9
  config.data.mask.random_share = 0.5
  config.data.mask.kept_share = 0.25
  rows, length = make(config), 4000
  inputs = np.full((1, length), 7, np.int32)
  places = np.arange(length, dtype=np.int32)[None]
  text = {"inputs": inputs, "positions": places, "segments": places * 0 + 1}
  row = {name: x[0] for name, x in rows.text(text, [0]).items()}
  seen = row["tokens"][row["token_places"][row["weights"] > 0]]
  assert len(seen) == round(0.9 * 3999)
  same(row["targets"][: len(seen)], 7)
  shares = [(seen == x).mean() for x in (MASK, 7)]
  np.testing.assert_allclose(shares, [0.25, 0.25 + 0.5 / 259], atol=0.03)
  assert len(set(seen)) > 200


def test_pictures_for_the_visual_vocabulary(config):
  """Of both kinds, each at most once."""
  data = resolve(config).data
  found = sample_pictures(data, 16)
  assert found.shape == (30, 16, 16, 3)
  assert len({x.tobytes() for x in found}) == 30
  known = [
    {source[i].pixels.tobytes() for i in range(len(source))}
    for source in (open_source(x, "train", 16) for x in (data.images, data.pairs))
  ]
  counts = [sum(x.tobytes() in of for x in found) for of in known]
  assert sum(counts) == 30
  assert 18 <= counts[0] <= 20
  config.data.seed = 3
  assert (sample_pictures(resolve(config).data, 16) != found).any()
  config.data.codes.num_pictures = 1000
  assert len(sample_pictures(resolve(config).data, 16)) == 32


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("mask.image", 0.0, "mask ratios must be between 0 and 1, got image=0.0."),
    ("mask.pair_text", 1.0, "mask ratios must be between 0 and 1, got pair_text=1.0."),
    ("mask.text", float("nan"), "mask ratios must be between 0 and 1, got text=nan."),
    ("mask.kept_share", 1.5, "at most 1 together, got random_share=0.0, kept_share=1"),
    ("mask.pair_image", 0.0, "mask ratios must be between 0 and 1, got pair_image=0.0"),
    (
      "mask.random_share",
      -0.1,
      "must be at least 0 and at most 1 together, got random",
    ),
    ("codes.num_pictures", 0, "num_pictures must be at least 1, got num_pictures=0."),
    ("mask.patches", "rows", "patches must be one of blocks, random, got 'rows'."),
    ("codes.kind", "dvae", "kind must be one of kmeans, vqvae, got 'dvae'."),
    ("codes.steps", -1, "steps must be at least 0, got steps=-1."),
    ("pair_length", 2, "pair_length must be at least 3, for a token between the first"),
    ("pair_length", 21, "got text_length=20, sequence_length=16, pair_length=21."),
    ("text.sequence_length", 1, "sequence_length must be at least 2, got sequen"),
    ("pairs.text_key", "", "data.pairs needs a text_key, got text_key=''."),
    ("seed", 2**32 - 1, "data.seed must be in [0, 2**32 - 1), got seed=4294967295."),
    ("seed", -1, "data.seed must be in [0, 2**32 - 1), got seed=-1."),
    ("augment.flip", 1, "config.data.augment.flip must be of type bool, got 1 of typ"),
  ],
)
def test_bad_values(config, key, value, message):
  *tables, name = key.split(".")
  table = config.data
  for part in tables:
    table = table[part]
  with config.ignore_type():
    table[name] = value
  with pytest.raises(ValueError) as caught:
    resolve(config)
  assert message in str(caught.value)
