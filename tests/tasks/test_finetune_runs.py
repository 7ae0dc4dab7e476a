"""Runs of questions through the loop: from a run of masked modelling, and on."""

import json
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from mhmoe_jax import cli
from mhmoe_jax.checkpoints import restore
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.evals import asking
from mhmoe_jax.train import loop
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.metrics import read_metrics
from tests.tasks.pictures import noise_params, small_finetune, small_start


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
  """The folder of a run of masked modelling that was never trained, its parameters."""
  folder = tmp_path_factory.mktemp("masked")
  config = small_start(folder)
  params = noise_params(resolve(config).task, 0.1)
  with Checkpoints(folder, 1) as checkpoints:
    state = {"params": jax.tree.map(jax.numpy.asarray, params)}
    checkpoints.save(5, state, {0: b""}, config.to_dict())
    checkpoints.wait()
  return folder, params


@pytest.fixture(scope="module")
def whole(masked, tmp_path_factory):
  """A run of 4 steps from it: its config, its folder, what it returned."""
  folder = tmp_path_factory.mktemp("whole")
  config = small_finetune(folder, "vqa")
  config.init = str(masked[0])
  config.optimizer.schedule = "constant"  # So that its length changes nothing.
  config.optimizer.layer_decay = 0.5
  config.model.drop_path = 0.1
  return config, folder / "run", loop.train(config, str(folder / "run"))


@pytest.fixture
def config(whole):
  return whole[0].copy_and_resolve_references()


def same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(x, y)


def test_what_a_run_leaves(whole, masked):
  config, folder, result = whole
  record = json.loads((folder / "init.json").read_text())
  assert (record["workdir"], record["step"]) == (str(masked[0]), 5)
  assert list(record["taken"]) == ["encoder"]
  assert list(record["new"]) == ["answer_head"]
  assert record["adapted"] == {"encoder/text/position_LD": "from 20 places to 62"}
  norms = [
    f"encoder/{m}_final_norm/{p}_D"
    for m in ("image", "text")
    for p in ("bias", "scale")
  ]
  assert record["left_out"] == [*norms, "image_head", "text_head"]
  assert record["changed"] == [
    "drop_path was 0.0, is 0.1",
    "text_length was 20, is 62",
  ]
  answers = json.loads((folder / "answers.json").read_text())["answers"]
  assert len(answers) == config.model.num_answers
  rows = read_metrics(folder / "metrics.jsonl")
  last = rows[-1]
  for name, x in result.evaluation.scalars().items():
    assert last[f"valid/{name}"] == pytest.approx(x)
  for name in ("accuracy", "text/router/max_load", "image/local_entropy"):
    assert np.isfinite(rows[0][name])
  # Weights that are not used by [CLS] in the only block stay what they were, but for
  # weight decay; those that are used move.
  old, new = masked[1]["encoder"]["picture"], result.params["encoder"]["picture"]
  np.testing.assert_array_equal(new["mask_D"], old["mask_D"])
  assert (np.asarray(new["cls_D"]) != old["cls_D"]).all()


def test_goes_on_as_if_nothing_had_been(whole, config, masked, tmp_path, capsys):
  """Killed behind step 2; the run that it started from is gone by then."""
  _, _, result = whole
  source = shutil.copytree(masked[0], tmp_path / "source")
  config.init = str(source)
  config.train.num_steps = 2
  loop.train(config, str(tmp_path / "run"))
  assert f"starting from step 5 of {source}: encoder (" in capsys.readouterr().err
  shutil.rmtree(source)
  config.train.num_steps = 4
  again = loop.train(config, str(tmp_path / "run"))
  assert "starting from" not in capsys.readouterr().err
  same(again.params, result.params)
  assert again.evaluation.scalars() == result.evaluation.scalars()


def test_eight_devices_as_one(whole, config, tmp_path):
  """Parameters over `data`, experts over `expert`."""
  _, _, result = whole
  config.mesh.update({"data": 4, "expert": 2, "fsdp": True})
  found = loop.train(config, str(tmp_path / "run"))
  for x, y in zip(
    jax.tree.leaves(found.params), jax.tree.leaves(result.params), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)
  assert found.evaluation.scalars() == pytest.approx(
    result.evaluation.scalars(), rel=1e-3
  )


def test_asked_and_evaluated_again(whole, tmp_path, capfd):
  """The run's own answers are known without its training questions."""
  _, folder, result = whole
  run = f"--workdir={folder}"
  assert cli.main(["eval", run, "--config.data.pictures.num_train=1"]) == 0
  assert capfd.readouterr().out.splitlines() == result.evaluation.in_words()
  cfg, params = restore.load_model(str(folder))
  same(params, result.params)
  Image.new("RGB", (9, 5), (40, 90, 200)).save(tmp_path / "a.png")
  ask = ["ask", run, f"--image={tmp_path}/a.png", "--question=what color is it?"]
  assert cli.main(ask) == 0
  told = capfd.readouterr().out.splitlines()
  found = asking.ask(cfg, params, f"{tmp_path}/a.png", "what color is it?", 99)
  assert len(found) == cfg.model.num_answers
  best = sorted(found, key=lambda x: -x.probability)[:5]
  assert told == [f"{x.probability:6.1%}  {x.answer}" for x in best]
  assert all(0 < x.probability < 1 for x in found)
  (tmp_path / "b.png").write_bytes(b"hello")
  for flags, message in (
    (["--question= "], "a question must have words, got ' '."),
    (["--question=" + "x" * 61], "got 61 tokens, text_length=62, of the question."),
    ([f"--image={tmp_path}/c.png"], f"cannot read {tmp_path}/c.png: No such file or"),
    ([f"--image={tmp_path}/b.png"], "must be PNG or JPEG, got neither in"),
  ):
    assert cli.main([*ask, *flags]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


def mistakes(folder):
  """By name: flags, and what the line says."""
  Image.new("RGB", (9, 5)).save(folder / "a.png")

  def index(name, *records):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / name).write_text(lines)
    path, where = folder / name, "--config.data.pictures."
    return [
      f"{where}source=files",
      f"{where}train={path}",
      f"{where}valid={path}",
      "--config.data.answers.key=answers",
      "--config.model.num_answers=1",
    ]

  good = {"image": "a.png", "question": "?", "answers": ["red"] * 10}

  def without(key):
    return {name: x for name, x in good.items() if name != key}

  return {
    "no answers": (
      index("0.jsonl", good, without("answers")),
      "text or a list of it, in 'answers', got the fields image, question of ",
    ),
    "no question": (
      index("1.jsonl", good, without("question")),
      "every picture must have the field 'question', got the fields image, answers of",
    ),
    "no picture": (
      index("2.jsonl", without("image")),
      "must have a path in 'image', got the fields question, answers in line 1 of ",
    ),
    "type": (
      index("3.jsonl", good | {"answer_type": "color"}),
      "answer_type must be one of yes/no, number, other, got 'color' of ",
    ),
    "number of answers": (
      [*index("4.jsonl", good), "--config.model.num_answers=7"],
      "got num_answers=7, and 1 answers of at least 1 training questions each.",
    ),
    "no such answers": (
      [*index("5.jsonl", good), f"--config.data.answers.path={folder}/none.json"],
      f"must be a file that a run wrote, got {folder}/none.json (FileNotFoundError",
    ),
    "long": (
      index("6.jsonl", good | {"question": "x" * 63}),
      f"got 63 tokens, text_length=64, of {folder}/a.png.",
    ),
    "no run": (
      [f"--config.init={folder}/none"],
      f"no checkpoint under {folder}/none/checkpoints.",
    ),
  }


def test_mistakes_are_one_line(tmp_path, capfd):
  """Before anything is compiled."""
  run = tmp_path / "run"
  command = ["train", "--config=configs/finetune/vqa.py", f"--workdir={run}"]
  small = ["--config.mesh.data=1", "--config.data.pictures.num_train=900"]
  for name, (flags, message) in mistakes(tmp_path).items():
    assert cli.main([*command, *small, *flags]) == 1, name
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line, name
  command[1] = "--config=configs/finetune/nlvr.py"
  where = "--config.data.pictures."
  path = tmp_path / "0.jsonl"  # which has no second pictures
  files = [f"{where}source=files", f"{where}train={path}", f"{where}valid={path}"]
  for flags, message in (
    (["--config.data.arrangement=three"], "must be one of one, two, boxes, got arrang"),
    ([*files, f"{where}text_key=question"], "must be true or false in 'label', got"),
  ):
    assert cli.main([*command, *small, *flags]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
