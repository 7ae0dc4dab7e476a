"""The harness during training, where it is missing, and where there is no network."""

import os
import urllib.error

import pytest

from mhmoe_jax.checkpoints.restore import load_model
from mhmoe_jax.evals import judge
from mhmoe_jax.train import loop
from mhmoe_jax.train.metrics import read_metrics
from tests.evals.records import HUB, write
from tests.train.small import small_config


@pytest.fixture(autouse=True)
def _network(monkeypatch):
  """As before, whatever a test decided."""
  for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    monkeypatch.setenv(name, os.environ.get(name, "0"))


def test_scores_during_training(tmp_path, capfd):
  config = small_config(tmp_path)
  config.data.sequence_length = 64
  config.mesh.data = 2
  config.train.harness_every = 4
  config.train.harness_tasks = "piqa,xnli_sw"
  config.train.harness_data = write(tmp_path / "tasks", HUB)
  workdir = tmp_path / "run"
  loop.train(config, str(workdir))
  rows = [
    row for row in read_metrics(workdir / "metrics.jsonl") if "harness" in str(row)
  ]
  assert [row["step"] for row in rows] == [4, 6]
  assert rows[0].keys() == {
    "step",
    *("harness/piqa/acc", "harness/piqa/acc_norm", "harness/xnli_sw/acc"),
  }
  assert "step 6  harness: piqa/acc " in capfd.readouterr().err
  cfg, params = load_model(str(workdir))
  again = judge.make_judge(cfg, loop.sharding.make_mesh(data=1))
  scores = {k: v for k, v in rows[1].items() if k != "step"}
  assert again(params) == pytest.approx(scores)


def test_training_refuses_first(tmp_path):
  config = small_config(tmp_path)
  config.train.harness_every = 4
  config.train.harness_data = str(tmp_path)
  with pytest.raises(ValueError, match="task arc_challenge needs a file in "):
    loop.train(config, str(tmp_path / "run"))
  config.train.harness_tasks = "piqa"
  write(tmp_path, {"piqa": [HUB["piqa"][0] | {"sol2": "x" * 16}]})
  with pytest.raises(ValueError, match=r"from 1 to 16 tokens, .*, got 17\."):
    loop.train(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_without_the_extra(monkeypatch):
  monkeypatch.setattr(judge.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"-m pip install 'mhmoe_jax\[eval\]'"):
    judge.load_harness(None)


@pytest.mark.parametrize(
  ("error", "offline"),
  [
    (urllib.error.URLError("no such name"), "1"),
    (urllib.error.HTTPError("", 403, "forbidden", {}, None), "0"),
    (TimeoutError(), "1"),
  ],
)
def test_is_the_hub_within_reach(monkeypatch, error, offline):
  def urlopen(request, timeout):
    assert (request.full_url, timeout) == ("https://mirror.example", 5)
    raise error

  monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
  for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # as a test before left them
    monkeypatch.setenv(name, "0")
  monkeypatch.setattr(judge.urllib.request, "urlopen", urlopen)
  judge.load_harness(None)
  assert os.environ["HF_HUB_OFFLINE"] == offline
