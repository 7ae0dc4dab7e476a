"""The papers' tables in miniature: parity holds, the queue goes on, reports add up."""

import importlib
import json
import math
import pathlib

import numpy as np
import pytest

from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.plan import matching
from mhmoe_jax.tasks.language import LanguageEvaluation
from mhmoe_jax.train import loop, metrics
from mhmoe_jax.train.config import resolve

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "2611_small_tables"


@pytest.fixture(scope="module")
def modules():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FOLDER)
    yield [importlib.import_module(name) for name in ("config", "run", "report")]


@pytest.fixture(scope="module")
def rows(modules):
  return modules[0]


@pytest.fixture(scope="module")
def run(modules):
  return modules[1]


@pytest.fixture(scope="module")
def report(modules):
  return modules[2]


def layer(rows, name) -> MoeConfig:
  return resolve(rows.get_config(name)).model.layer


def test_rows_build_and_a_wrong_one_is_named(rows):
  for name in rows.ROWS:
    resolve(rows.get_config(name))
    assert rows.kind_of(name) in rows.KINDS
  assert rows.get_config("dense,multilingual").model.vocab_size == 4096
  with pytest.raises(ValueError, match=r"one of dense, smoe_8.*got 'smoe'"):
    rows.get_config("smoe")


@pytest.mark.parametrize("count", [8, 32, 256])
def test_sizes_and_work_are_equal(rows, count):
  def parameters(name):
    return matching.parameters(layer(rows, f"{name}_{count}"), rows.EMBED_DIM)

  def macs(name):
    return matching.macs(layer(rows, f"{name}_{count}"), rows.EMBED_DIM)

  for name in ("smoe", "fine"):
    assert parameters(name) == parameters("xmoe")
    assert macs(name) == macs("xmoe")
  for name in ("mhmoe", "mhmoe_flops"):  # at most one step of width or number less
    assert 0.97 < parameters(name) / parameters("xmoe") <= 1
  assert macs("mhmoe_flops") == macs("xmoe")
  assert 3.9 < macs("mhmoe") / macs("xmoe") < 4.3


def test_heads_have_one_size(rows):
  sizes = [
    matching.parameters(layer(rows, f"heads_{h}"), rows.EMBED_DIM) for h in rows.HEADS
  ]
  assert min(sizes) / max(sizes) > 0.99


def made_up(run, job, loss):
  return job._asdict() | {
    "parameters": 1_000,
    "learning_rate": 0.008,
    "macs_per_token": 2_000.0,
    "valid_loss": loss,
    "perplexity": 2.0,
    "bits_per_byte": loss / 2,
    "curve": [[1, loss + 1], [2, loss]],
    "active_experts": None,
  }


def test_a_queue_goes_on_where_it_stopped(run, rows, tmp_path, monkeypatch):
  monkeypatch.setattr(run, "make_config", lambda job, rate, *_: rate)
  done = []

  def train(job, rate, workdir):
    if len(done) == 4 and not workdir.exists():
      workdir.mkdir(parents=True)
      return None  # as a signal does
    done.append((job, rate))
    return made_up(run, job, abs((job.rate or 0) - 0.004))

  jobs = [
    job for job in run.make_jobs("1", 10) if rows.kind_of(job.row) in ("dense", "smoe")
  ]
  run.work(jobs, tmp_path, tmp_path, train=train)
  assert len(done) == 4
  run.work(jobs, tmp_path, tmp_path, train=train)
  assert [job for job, _ in done] == jobs
  assert {rate for job, rate in done if job.rate is None} == {0.004}
  run.work(jobs, tmp_path, tmp_path, train=train)
  assert len(done) == len(jobs) == 14
  other = tmp_path / "other"
  run.work(jobs[-1:], tmp_path, other, 0.01, train)
  assert done[-1] == (jobs[-1], 0.01)


def test_what_a_result_tells(run, tmp_path, monkeypatch):
  (tmp_path / "english.model").touch()
  job = run.Job("mhmoe_8", "english", 3, 12, None)
  config = run.make_config(job, 0.004, tmp_path / "data", tmp_path)
  assert config.data.valid == str(tmp_path / "data" / "english" / "valid.txt")
  assert (config.train.seed, config.data.seed) == (3, 3)
  (tmp_path / "multilingual.model").touch()
  other = run.Job("dense", "multilingual", 0, 12, None)
  files = run.make_config(other, 0.004, tmp_path / "data", tmp_path).data.mixture
  assert files["sw"]["valid"] == str(tmp_path / "data/multilingual/sw.valid.txt")
  assert (config.train.eval_every, config.optimizer.warmup_steps) == (2, 1)
  speeds = ({"tokens_per_second": x} for x in (math.nan, 512.0, 1024.0, 4096.0))
  found = [{"step": 6, "valid/loss": 2.0}, *speeds, {"step": 12, "valid/loss": 1.0}]
  load_NHE = np.full((2, 4, 8), 1 / 8)
  evaluation = LanguageEvaluation(1.0, 0.5, 10, 20, load_NHE)
  result = loop.Result(12, {}, evaluation, {}, 1024.0)
  monkeypatch.setattr(loop, "train", lambda *_: result)
  monkeypatch.setattr(metrics, "read_metrics", lambda _: found)
  told = run.train(job, config, tmp_path / "run")
  assert told["tokens"] == 12 * 1024
  assert told["curve"] == [[6, 2.0], [12, 1.0]]
  assert told["seconds_per_step"] == 1.0
  assert told["active_experts"] == 1.0
  assert run.job_of(json.loads(json.dumps(told))) == job
  monkeypatch.setattr(loop, "train", lambda *_: result._replace(evaluation=None))
  assert run.train(job, config, tmp_path / "run") is None


def test_a_report_from_made_up_results(run, report, tmp_path):
  jobs = [job for job in run.make_jobs("1", 10) if job.row in ("xmoe_8", "mhmoe_8")]
  base = {"xmoe_8": 3.0, "mhmoe_8": 2.9}
  results = [made_up(run, job, base[job.row] + 0.01 * job.seed) for job in jobs]
  results[-1]["valid_loss"] += 0.01
  text = "".join(json.dumps(result) + "\n" for result in results)
  (tmp_path / "runs.jsonl").write_text(text)
  text = report.write(tmp_path)
  assert (
    "| mhmoe_8 | 1,000 | 2,000 | 3 | 1.4550 ± 0.0050 | 2.0 | -0.0967 ± 0.0143 |"
    in (text)
  )
  assert "| better |" in text
  assert (tmp_path / "english_8_experts.png").stat().st_size > 1_000
  assert report.judge(0.1, 0.2) == "not told apart"
  assert report.judge(0.1, 0.05) == "worse"
