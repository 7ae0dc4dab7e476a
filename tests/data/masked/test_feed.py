"""Batches of all kinds: resumed, shared, refused, and each validation example once."""

import json

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.masked.feed import MaskedFeed, eval_batches
from mhmoe_jax.data.masked.rows import Sizes
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import TEXT, small_masked

SIZES = Sizes(picture_size=16, patch_size=4, mask_id=259)
ACCEPT = " With --accept_changed_data the run goes on and begins the data anew."


@pytest.fixture
def config(tmp_path):
  return small_masked(tmp_path)


def make(config, streams=None, codes="abc", sizes=SIZES):
  data = resolve(config).data
  streams = range(data.streams) if streams is None else streams
  return MaskedFeed(data, sizes, 8, streams, codes)


def check_same(found, wanted):
  assert found.keys() == wanted.keys()
  for kind, arrays in wanted.items():
    assert found[kind].keys() == arrays.keys()
    for name, x in arrays.items():
      np.testing.assert_array_equal(found[kind][name], x, f"{kind} {name}")


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_resumed_and_shared(config, streams):
  """Three batches are saved behind; the pictures of pairs are in their second epoch.

  The streams are read by one, by two and again by one.
  """
  config.data.streams = streams
  whole = make(config)
  batches = [next(whole) for _ in range(5)]
  assert len({batch["image"]["masked"].tobytes() for batch in batches}) == 5
  first, second = [0], [*range(1, streams)]
  readers = [make(config, part) for part in (first, second) if part]
  for batch in batches[:3]:
    parts = [next(reader) for reader in readers]
    joined = {
      kind: {n: np.concatenate([p[kind][n] for p in parts]) for n in arrays}
      for kind, arrays in batch.items()
    }
    check_same(joined, batch)
  states = {}
  for reader, part in zip(readers, (first, second), strict=False):
    states |= reader.save(part)
  again = make(config)
  next(again)  # A feed that has begun moves as well.
  assert again.restore(states) == ""
  for batch in batches[3:]:
    check_same(next(again), batch)


def npz(folder, name, shade):
  np.savez(folder / f"{name}.npz", images=np.full((3, 8, 8, 3), shade, np.uint8))
  lines = [json.dumps({"caption": f"{name} {i}"}) for i in range(3)]
  (folder / f"{name}.jsonl").write_text("\n".join(lines))
  return str(folder / f"{name}.npz")


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("images.seed", 7),
    ("images.num_train", 21),
    ("pairs.text_key", "question"),
    ("augment.least_area", 0.6),
    ("pair_augment.jitter", 0.1),
    ("mask.image", 0.3),
    ("mask.patches", "random"),
    ("mask.kept_share", 0.2),
    ("pair_length", 19),
    ("cut_pairs", False),
    ("seed", 1),
    ("text.sequence_length", 15),
    ("text.seed", 1),
  ],
)
def test_other_data_is_refused_by_name(config, key, value):
  states = make(config).save([0])
  *tables, name = key.split(".")
  table = config.data
  for part in tables:
    table = table[part]
  table[name] = value
  now = make(config)
  with pytest.raises(ValueError) as caught:
    now.restore(states)
  problem = (
    f"the data must be that of the checkpoint, got {key.replace('text.', 'text ')} "
  )
  assert str(caught.value).startswith(f"{problem}{value!r}, which was ")
  assert str(caught.value).endswith(ACCEPT)


def test_other_data_may_be_accepted_and_begins_anew(config):
  before = make(config)
  next(before)
  config.data.mask.image = 0.5
  now = make(config)
  assert now.restore(before.save([0]), accept_changes=True) == (
    "the data begins anew: the data must be that of the checkpoint, got mask.image "
    "0.5, which was 0.4."
  )
  check_same(next(now), next(make(config)))


@pytest.mark.parametrize(
  ("sizes", "key"),
  [
    (SIZES._replace(picture_size=32), "model.picture_size"),
    (SIZES._replace(patch_size=8), "model.patch_size"),
    (SIZES._replace(mask_id=300), "model.mask_id"),
  ],
)
def test_another_model_or_vocabulary_is_refused(config, sizes, key):
  states = make(config).save([0])
  with pytest.raises(ValueError, match=f"got {key} "):
    make(config, sizes=sizes).restore(states)


def test_pairs_come_in_an_order_of_their_own(config):
  """Should they be the same pictures as those alone."""
  config.data.images.num_train = config.data.pairs.num_train
  feeds = make(config)._pictures
  orders = [[feeds[kind].place(n) for n in range(12)] for kind in ("image", "pair")]
  assert orders[0] != orders[1]
  assert sorted(orders[0]) == sorted(orders[1])


def test_other_codes_are_always_refused(config):
  states = make(config).save([0])
  for accept in (False, True):
    with pytest.raises(ValueError) as caught:
      make(config, codes="other").restore(states, accept)
    assert str(caught.value) == (
      "a run must go on with the visual vocabulary that it began with, got other, "
      "which was abc."
    )


def test_other_files_are_refused(config, tmp_path):
  """Pictures that changed, and texts beside pictures that did not."""
  for part in (config.data.images, config.data.pairs):
    part.source = "npz"
    part.train = part.valid = npz(tmp_path, "a", 1)
  states = make(config).save([0])
  make(config).restore(states)
  (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() + " ")
  with pytest.raises(ValueError, match=r"got \w+\.file .*/a\.jsonl '"):
    make(config).restore(states)
  npz(tmp_path, "a", 2)
  with pytest.raises(ValueError, match=r"got \w+\.file .*/a\.npz '"):
    make(config).restore(states)


def test_fewer_streams(config):
  config.data.streams = 2
  states = make(config).save([0])  # and none of stream 1
  with pytest.raises(ValueError) as caught:
    make(config).restore(states)
  assert str(caught.value) == (
    f"data.streams must stay what it was when a run began, got no state of stream 1."
    f"{ACCEPT}"
  )
  config.data.streams = 1
  with pytest.raises(ValueError, match="got streams 1, which was 2"):
    make(config).restore(states)


def test_streams_must_divide_the_batch(config):
  config.data.streams = 3
  with pytest.raises(ValueError, match=r"data\.streams must divide batch_size, got"):
    make(config)


def test_validation_has_every_example_once(config):
  """5 pictures, 3 pairs and some rows of text, twice the same, in batches of 4."""
  data = resolve(config).data
  first, second = (
    {kind: list(batches) for kind, batches in eval_batches(data, SIZES, 4).items()}
    for _ in range(2)
  )
  for kind, batches in first.items():
    for a, b in zip(batches, second[kind], strict=True):
      check_same({kind: a}, {kind: b})
    assert len({x.shape for batch in batches for x in [*batch.values()][:1]}) == 1
  images, pairs = first["image"], first["pair"]
  assert [batch["real"].tolist() for batch in images] == [[1] * 4, [1, 0, 0, 0]]
  assert [batch["real"].tolist() for batch in pairs] == [[1, 1, 1, 0]]
  assert len({x.tobytes() for batch in images for x in batch["pixels"]}) == 6
  for name in ("segments", "weights", "tokens", "masked"):
    assert not pairs[0][name][3].any()
    assert pairs[0][name][:3].any(axis=1).all()
  # All of the text but the last token of each window is seen or asked for.
  found = bytearray()
  for batch in first["text"]:
    for i, tokens in enumerate(batch["tokens"]):
      used = batch["weights"][i] > 0
      tokens[batch["token_places"][i][used]] = batch["targets"][i][used]
      begins = (batch["positions"][i] == 0) & (batch["segments"][i] > 0)
      tokens[begins] = ord("~") + 3  # of bytes token 3 is the first
      found += bytes((tokens[batch["segments"][i] > 0] - 3).tolist())
  text = (TEXT * 2).encode()
  windows = [text[i : i + 16] for i in range(0, len(text) + 1, 16)]
  wanted = [b"~" + window[:15] for window in windows[:-1]] + [b"~" + windows[-1]]
  assert found == b"".join(wanted)


def test_a_picture_that_cannot_be_read_is_named(config, tmp_path):
  (tmp_path / "index.jsonl").write_text('{"image": "a.png"}\n{"image": "b.png"}\n')
  Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
  (tmp_path / "b.png").write_bytes(b"hello")
  config.data.images.source = "files"
  config.data.images.train = config.data.images.valid = str(tmp_path / "index.jsonl")
  with pytest.raises(ValueError, match=r"^a picture must be PNG or JPEG, .*/b\.png\.$"):
    next(make(config))
