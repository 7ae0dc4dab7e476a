"""Runs as lanes of one program are the runs of the training loop."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

STUDY = pathlib.Path(__file__).parents[2] / "experiments" / "2612_when_it_pays"


@pytest.fixture
def study(monkeypatch):
  """The study with small models of a small vocabulary."""
  monkeypatch.syspath_prepend(STUDY)
  names = ["config", "run", "starts", "batches", "at_once"]
  for name in names:
    monkeypatch.delitem(sys.modules, name, raising=False)
  rows, run, _, batches, at_once = map(importlib.import_module, names)
  make = rows.get_config

  def get_config(row, steps):
    config = make(row, steps)
    config.data.sequence_length, config.data.shuffle_buffer = 16, 50
    config.train.batch_size, config.train.eval_batches = 8, 2
    config.model.num_layers, config.model.vocab_size = 2, 320
    return config

  monkeypatch.setattr(rows, "get_config", get_config)
  monkeypatch.setattr(run, "LONG", 10)
  yield rows, run, batches, at_once
  for name in names:
    sys.modules.pop(name, None)


def write_texts(rows, folder):
  """Of made-up words, as English and as every language."""
  folder.mkdir()
  letters = np.random.default_rng(0).choice([*"abcdefghij "], 6_000)
  for name in ("", *(f"{x}." for x in rows.LANGUAGES)):
    for split in ("train", "valid"):
      (folder / f"{name}{split}.txt").write_text(name + "".join(letters))
  return folder


def test_jobs_of_equally_many_steps_share_a_program(study):
  _, run, _, at_once = study
  jobs = [run.Job("split", 0), run.Job("smoe_192", 0), run.Job("split", 1, rate=0.002)]
  jobs += [run.Job("split", 0, 7)]
  programs = at_once.make_programs(jobs)
  assert [program.jobs for program in programs] == [jobs[::2], jobs[1:2], jobs[3:]]
  assert len({program.name for program in programs}) == 3


def test_lanes_are_the_runs_of_the_loop(study, tmp_path, monkeypatch):
  """Seeds, learning rates, starts and languages; a table goes on where it stopped."""
  rows, run, batches, at_once = study
  data, out = write_texts(rows, tmp_path / "data"), tmp_path / "out"
  start = "start=unit_variance"
  tables = {
    "one": [run.Job(start, 0, 5), run.Job(start, 1, 5, 0.002)],
    "two": [run.Job("languages,dense_192", 0, 5)],
  }
  monkeypatch.setattr(run, "TABLES", tables)
  flags = ["--data", str(data), "--out", str(out)]
  monkeypatch.setattr("sys.argv", ["batches.py", *flags])
  batches.main()
  flags = ["--batches", str(out), "--out", str(out)]
  monkeypatch.setattr("sys.argv", ["at_once.py", "--table", "one", *flags])
  at_once.main()
  monkeypatch.setattr("sys.argv", ["at_once.py", *flags])
  at_once.main()
  lines = (out / "results" / "runs.jsonl").read_text().splitlines()
  found = {run.job_of(result): result for result in map(json.loads, lines)}
  assert sorted(map(run.job_of, map(json.loads, lines))) == sorted(
    [*tables["one"], *tables["two"]]
  )
  for job in [*tables["one"][1:], *tables["two"]]:
    config = run.make_config(job, data, out)
    wanted = run.train(job, config, tmp_path / run.name_of(job))
    steps, losses = zip(*wanted["curve"], strict=True)
    assert [step for step, _ in found[job]["curve"]] == [*steps] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(
      [loss for _, loss in found[job]["curve"]], losses, rtol=1e-5, err_msg=job.row
    )
    for name in ("valid_loss", "bits_per_byte"):
      np.testing.assert_allclose(found[job][name], wanted[name], rtol=1e-5)
    for name in ("parameters", "macs_per_token", "tokens", "active_experts"):
      assert found[job][name] == wanted[name]


def test_a_token_that_does_not_fit_is_refused(study):
  batches = study[2]
  fits = {"targets": np.array([[65_535]])}
  assert batches.stack([fits, fits])["targets"].tolist() == [[[65_535]]] * 2
  with pytest.raises(ValueError, match=r"targets must be in 0 .* got"):
    batches.stack([fits, {"targets": np.array([[65_536]])}])
