"""Batches of questions: resumed, shared, refused, and every validation example once."""

import numpy as np
import pytest

from configs import base_finetune, base_masked
from mhmoe_jax.data.images.numbered import Place
from mhmoe_jax.data.pictured.answers import Answers, find_answers
from mhmoe_jax.data.pictured.feed import PicturedFeed, read_all
from mhmoe_jax.data.pictured.vqa import VqaRows
from mhmoe_jax.train.config import resolve

ACCEPT = " With --accept_changed_data the run goes on and begins the data anew."


@pytest.fixture
def config():
  config = base_finetune.tune(base_masked.get_config(), "vqa")
  config.data.pictures.num_train = 21
  config.data.pictures.num_valid = 5
  config.data.augment.least_area = 0.5
  return config


def make(config, streams=None, answers=None, size=8):
  data = resolve(config).data
  answers = answers or find_answers(data.pictures, data.answers)
  streams = range(data.streams) if streams is None else streams
  rows = VqaRows(data, size, "train", answers)
  return PicturedFeed(rows, data, size, 8, streams, {"answers": answers.fingerprint})


def check_same(found, wanted):
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_array_equal(found[name], x, name)


@pytest.mark.parametrize("streams", [1, 4])
def test_resumed_and_shared(config, streams):
  """Three batches are saved behind, in the second epoch; read by two, then by one."""
  config.data.streams = streams
  whole = make(config)
  batches = [next(whole) for _ in range(5)]
  assert len({batch["pixels"].tobytes() for batch in batches}) == 5
  assert len({pixels.tobytes() for pixels in batches[0]["pixels"]}) == 8
  parts = [part for part in ([0], [*range(1, streams)]) if part]
  readers = [make(config, part) for part in parts]
  for batch in batches[:3]:
    found = [next(reader) for reader in readers]
    check_same({n: np.concatenate([p[n] for p in found]) for n in batch}, batch)
  states = {}
  for reader, part in zip(readers, parts, strict=True):
    states |= reader.save(part)
  again = make(config)
  next(again)  # A feed that has begun moves as well.
  assert again.restore(states) == ""
  for batch in batches[3:]:
    check_same(next(again), batch)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("pictures.seed", 7),
    ("augment.flip", True),
    ("text_length", 63),
    ("cut_texts", True),
    ("seed", 1),
  ],
)
def test_other_data_is_refused_by_name(config, key, value):
  answers = Answers(["yes", "no"])
  states = make(config, answers=answers).save([0])
  *tables, name = key.split(".")
  table = config.data
  for part in tables:
    table = table[part]
  table[name] = value
  now = make(config, answers=answers)
  with pytest.raises(ValueError) as caught:
    now.restore(states)
  problem = f"the data must be that of the checkpoint, got {key} {value!r}, which was "
  assert str(caught.value).startswith(problem)
  assert str(caught.value).endswith(ACCEPT)
  note = now.restore(states, accept_changes=True)
  assert note.startswith(f"the data begins anew: {problem}")
  check_same(next(now), next(make(config, answers=answers)))


def test_other_answers_are_refused_for_good(config):
  """The head's rows belong to those that it was trained on."""
  states = make(config, answers=Answers(["yes", "no"])).save([0])
  now = make(config, answers=Answers(["no", "yes"]))
  for accept in (False, True):
    with pytest.raises(ValueError, match="go on with the answers that it began"):
      now.restore(states, accept)


def test_what_training_cannot_learn_is_left_out(config):
  """Questions without a known answer; in validation they count, as wrong."""
  data = resolve(config).data
  known = Answers(["yes", "no"])
  train = VqaRows(data, 8, "train", known)
  source = train._made.source
  wanted = [i for i in range(21) if source.record(i)[0]["answer"] in ("yes", "no")]
  assert 0 < len(wanted) < 21
  assert len(train) == len(wanted)
  for nth, i in enumerate(wanted):
    right = [float(source.record(i)[0]["answer"] == word) for word in known.words]
    np.testing.assert_array_equal(train(Place(nth, 0))["targets"], right)
  (batch, _), *rest = read_all(VqaRows(data, 8, "validation", known), 8)
  assert not rest
  np.testing.assert_array_equal(batch["real"], [1, 1, 1, 1, 1, 0, 0, 0])
  for i in range(5):
    record, _ = VqaRows(data, 8, "validation", known)._made.source.record(i)
    right = [float(record["answer"] == word) for word in known.words]
    np.testing.assert_array_equal(batch["accuracies"][i], right)
    assert ("yes/no", "number", "other")[batch["type"][i]] == record["answer_type"]
  with pytest.raises(ValueError, match="21 questions, none with any of 1 answers"):
    VqaRows(data, 8, "train", Answers(["a zebra"]))


def test_a_long_question(config):
  config.data.text_length = 12
  with pytest.raises(ValueError, match=r"data\.text_length .* unless data\.cut_t"):
    next(make(config))
  config.data.cut_texts = True
  batch = next(make(config))
  assert batch["tokens"].shape == (8, 12)
  np.testing.assert_array_equal(batch["tokens"][:, -1], 1)  # the last token is kept
