"""Multi-modal models in miniature: parity holds, the queue goes on, tables add up."""

import importlib
import json
import math
import pathlib
import sys

import numpy as np
import pytest

from experiments import work_queue
from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.train.config import resolve

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "2612_multimodal"
NAMES = ("config", "run", "report", "references")  # other studies have them, too


@pytest.fixture(scope="module")
def study():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FOLDER)
    for name in NAMES:
      patch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
      del sys.modules[name]


def test_rows_are_as_large_as_they_say(study):
  rows = study["config"]
  totals = {
    name: count_parameters(resolve(rows.get_config(name)).task).total
    for name in rows.ROWS
  }
  for name in ("mhmoe_8", "mhmoe_flops_8", "mhmoe_8_shared", "mhmoe_8_second"):
    assert 0.98 < totals[name] / totals["xmoe_8"] <= 1, name
  assert 0.98 < totals["mhmoe_32"] / totals["xmoe_32"] <= 1
  with pytest.raises(ValueError, match=r"one of dense, xmoe_8.*got 'xmoe'"):
    rows.get_config("xmoe")


def fake(job, loss):
  parts = dict.fromkeys(("image", "text", "pair/image", "pair/text"), loss)
  return job._asdict() | {
    "parameters": 10,
    "macs_per_token": 5.0,
    "valid": {"loss": loss, **{f"{name}/loss": x for name, x in parts.items()}},
    "curve": [[1, loss + 1], [2, loss]],
    "seconds_per_step": 0.5,
    "active_experts": {} if job.row == "dense" else {"image": 1.0, "text": 0.5},
  }


def test_the_queue_does_each_job_once_and_goes_on(study, tmp_path):
  run, done = study["run"], []

  def train(job, config, workdir):
    assert config.optimizer.learning_rate == 0.004
    assert config.data.seed == config.data.text.seed == config.train.seed == job.seed
    done.append(job)
    return fake(job, 1.0) if len(done) != 3 else None

  jobs = run.make_jobs(2, 0.004)
  assert len(jobs) == len({*jobs}) == 20
  run.work(jobs, tmp_path, tmp_path, train)  # The third is stopped by a signal.
  assert done == jobs[:3]
  run.work(jobs, tmp_path, tmp_path, train)
  assert done[3:] == jobs[2:]
  results = work_queue.read_results(tmp_path / "results" / "runs.jsonl")
  assert [run.job_of(r) for r in results] == jobs


def test_tables(study, tmp_path, monkeypatch, capsys):
  run, report = study["run"], study["report"]
  losses = {"xmoe_8": (1.0, 1.1, 1.2), "mhmoe_8": (0.9, 1.0, 1.1)}
  losses["dense"] = (1.4, 1.0, 1.0)
  with (tmp_path / "runs.jsonl").open("w") as file:
    for name, values in losses.items():
      for seed, loss in enumerate(values):
        file.write(json.dumps(fake(run.Job(name, seed, 2, 0.004), loss)) + "\n")
  entropies = {"unigram": math.log(8), "left neighbour": math.log(4)}
  about = {name: entropies | {"same as left": 0.25} for name in ("image", "pair/image")}
  (tmp_path / "references.json").write_text(json.dumps(about))
  monkeypatch.setattr(sys, "argv", ["report.py", f"--results={tmp_path}"])
  report.main()
  text = (tmp_path / "tables.md").read_text()
  assert "| mhmoe_8 | -0.1000 ± 0.0000, better |" in text
  assert "| dense | +0.0333 ± 0.7985, not told apart |" in text
  assert f"| xmoe_8 | 10 | 5 | 3 | {math.exp(1.1):.2f} |" in text
  assert "| image | 8.0 | 4.0 | 25.0% |" in text
  assert "32 experts" not in text  # of which there is no result
  assert (tmp_path / "curves.png").exists()
  assert text in capsys.readouterr().out


def test_entropies_by_hand(study):
  references = study["references"]
  train = np.array([[[0, 1], [0, 1]]])
  valid = np.array([[[0, 1]]])
  # Counts of 2 and 2, and one added to each of three codes.
  assert references.unigram(train, valid, 3) == pytest.approx(-math.log(3 / 7))
  given = (2 + 4 * 3 / 7) / (2 + 4)
  assert references.neighbour(train, valid, 3) == pytest.approx(-math.log(given))
