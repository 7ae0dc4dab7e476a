"""What `mhmoe train` suggests is accepted, and suits the reader's data and folder."""

import shlex

import pytest

from mhmoe_jax.cli import suggestions
from mhmoe_jax.cli.models import parse_train
from tests import reader

TINY = ["--config=configs/tiny.py", "--workdir=runs/my run"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  reader.furnish(tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def suggest(argv):
  """The suggested commands as words, from the verb on."""
  values = parse_train(argv)
  text = suggestions.after_training(argv, values.config, values.workdir, parse_train)
  title, *lines = text.splitlines()
  assert title == "try next"
  commands = [shlex.split(line) for line in lines]
  return [words[words.index("-m") + 2 :] for words in commands]


def test_flags_of_the_run_are_repeated(folder):
  commands = suggest([*TINY, "--config.model.embed_dim=32", "--config.data.seed", "3"])
  flags = ["--config.model.embed_dim=32", "--config.data.seed", "3"]
  longer, smoe, dense = (words for words in commands if words[0] == "train")
  assert longer == ["train", *TINY, *flags, "--config.train.num_steps=4000"]
  for words, ffn in ((smoe, "smoe"), (dense, "dense")):
    where = [f"--config=configs/tiny.py:{ffn}", f"--workdir=runs/my run_{ffn}"]
    assert words == ["train", *where, *flags]
    values = parse_train(words[1:])
    assert values.config.model.ffn == ffn
    assert values.config.model.embed_dim == 32


def test_rows_that_the_config_lacks_are_left_out(folder):
  (folder / "mine.py").write_text(
    "from configs import base\nget_config = base.get_config"
  )
  argv = ["--config=mine.py", "--workdir=x", "--config.train.num_steps=7"]
  trained = [words for words in suggest(argv) if words[0] == "train"]
  assert trained == [["train", *argv[:2], "--config.train.num_steps=14"]]
  # This config names its rows otherwise, and has one of ours.
  argv = ["--config=configs/paper2/redpajama.py:mhmoe_h2", "--workdir=x"]
  configs = [words[1] for words in suggest(argv) if words[0] == "train"]
  rows = [word.partition(":")[2] for word in configs]
  assert rows == ["mhmoe_h2", "smoe", "dense"]
  # A flag that would undo the row.
  argv = [*TINY, "--config.model.ffn=mhmoe"]
  assert sum(words[0] == "train" for words in suggest(argv)) == 1


def test_prompt_and_text_suit_the_data(folder):
  def first_and_second(*argv):
    sample, other = suggest([*TINY, *argv])[:2]
    return sample[2:], other

  prompt, other = first_and_second()
  assert prompt == ["--prompt=ROMEO:"]
  assert other == ["eval", "--workdir=runs/my run", "--text=README.md"]
  text = ["--config.data.train=books/*.txt", "--config.data.valid=held_out.txt"]
  prompt, other = first_and_second("--config.data.source=text", *text)
  assert prompt == ["--num_samples=3"]
  assert other == ["eval", "--workdir=runs/my run", "--text=held_out.txt"]
  (folder / "README.md").unlink()
  _, other = first_and_second()
  assert other[0] == "--logdir"


def test_nothing_of_routing_for_a_dense_model(folder):
  verbs = [words[0] for words in suggest(["--config=configs/tiny.py:dense", TINY[1]])]
  assert verbs == ["sample", "eval", "--logdir", "train", "train", "train"]


def test_pictures_are_traced_with_their_texts(folder):
  here = "--workdir=runs/mm"
  commands = suggest(["--config=configs/tiny_multimodal.py", here])
  assert commands[:3] == [
    ["eval", here],
    ["routing", "trace", here, "--pairs", "--out=runs/mm/trace_500"],
    ["routing", "report", "--trace=runs/mm/trace_500", "--out=runs/mm/routing.html"],
  ]


def test_what_started_from_a_run_has_no_other_rows(folder):
  argv = ["--config=configs/finetune/vqa.py", "--workdir=x"]
  assert sum(words[0] == "train" for words in suggest(argv)) == 3
  argv.append("--config.init=runs/mm")
  trained = [words for words in suggest(argv) if words[0] == "train"]
  assert trained == [["train", *argv, "--config.train.num_steps=1600"]]


def test_a_trace_is_written_once(folder):
  argv = ["--config=configs/tiny.py", "--workdir=run", "--config.train.num_steps=5"]
  verbs = [words[:2] for words in suggest(argv)]
  assert ["routing", "trace"] in verbs
  (folder / "run" / "trace_5").mkdir(parents=True)
  assert [words[:2] for words in suggest(argv)] == [
    words for words in verbs if words != ["routing", "trace"]
  ]
