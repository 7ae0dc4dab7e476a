"""What a run tells, step by step, by a record worked out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.tasks.language import LanguageEvaluation
from mhmoe_jax.train import report
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.metrics import read_metrics
from mhmoe_jax.train.report import Report


@pytest.fixture
def cfg(config):
  config.train.num_steps = 7
  config.train.log_every = 3
  config.train.image_every = 2
  config.optimizer.learning_rate = 0.5
  config.optimizer.warmup_steps = 4
  config.optimizer.schedule = "constant"
  return resolve(config)


def metrics(loss=2.0, grad_norm=1.0):
  load_HE = jnp.array([[0.75, 0.25], [0.25, 0.75]])  # of the only MoE layer
  values = {"loss": loss, "grad_norm": grad_norm}
  return {name: jnp.float32(x) for name, x in values.items()} | {
    "router/load_HE": load_HE[None],
    "router/distinct_X": jnp.array([[0.0, 1.0]]),
  }


def rows(directory, *names):
  found = read_metrics(directory / "metrics.jsonl")
  return [{name: row[name] for name in ("step", *names)} for row in found]


def test_log_points_are_every_third_step_and_the_last(cfg, tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    report.MetricWriter, "write_image", lambda self, *image: drawn.append(image)
  )
  with Report(cfg, str(tmp_path), 0) as told:
    for step in range(1, 8):
      told.step(step, metrics(loss=10.0 - step))
  # Warm-up in four steps to 0.5: step 3 is at three quarters of it.
  assert rows(tmp_path, "loss", "learning_rate", "router/max_load") == [
    {"step": 3, "loss": 7.0, "learning_rate": 0.375, "router/max_load": 1.0},
    {"step": 6, "loss": 4.0, "learning_rate": 0.5, "router/max_load": 1.0},
    {"step": 7, "loss": 3.0, "learning_rate": 0.5, "router/max_load": 1.0},
  ]
  names = ["router/load", "router/distinct_experts"]
  assert [(step, name) for step, name, _ in drawn] == [
    (step, name) for step in (2, 4, 6) for name in names
  ]
  assert all(image.dtype == np.uint8 for _, _, image in drawn)


def test_speed_is_of_all_tokens_and_a_line_names_the_most_rounds(cfg, tmp_path):
  with Report(cfg, str(tmp_path), 0) as told:
    shown = []
    told.progress.show = lambda step, loss, rounds, right: shown.append(rounds) or 1.0
    assert told.progress._tokens_per_step == 8 * 16
    for more in ({}, {"a/router/rounds": [3.0], "b/router/rounds": [2.0]}):
      values = {name: jnp.array(x) for name, x in more.items()}
      told.step(3, metrics() | values)
  assert shown == [1.0, 3.0]


def test_pictures_are_of_all_heads_and_drawn_by_one_process(cfg, tmp_path, monkeypatch):
  loads = []
  picture = np.zeros((1, 1, 3), np.uint8)
  monkeypatch.setattr(
    report.images, "draw_load", lambda x, blocks: loads.append(x.tolist()) or picture
  )
  heads = metrics() | {"router/load_HE": jnp.array([[[1.0, 0.0], [0.5, 0.5]]])}
  with Report(cfg, str(tmp_path / "a"), 0) as told:
    told.step(2, heads)
  assert loads == [[[0.75, 0.25]]]
  monkeypatch.setattr(report.jax, "process_index", lambda: 1)
  with Report(cfg, str(tmp_path / "b"), 0) as told:
    told.step(2, heads)
  assert len(loads) == 1
  assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
  ("loss", "grad_norm"), [(math.nan, 1.0), (2.0, math.inf), (-math.inf, math.nan)]
)
def test_what_is_not_finite_is_written_and_then_ends_the_run(
  cfg, tmp_path, loss, grad_norm
):
  wanted = f"got loss={loss}, grad_norm={grad_norm} at step 1.$"
  told = Report(cfg, str(tmp_path), 0)
  with told, pytest.raises(FloatingPointError, match=wanted):
    told.step(1, metrics(loss, grad_norm))
  (row,) = read_metrics(tmp_path / "metrics.jsonl")
  np.testing.assert_equal([row["loss"], row["grad_norm"]], [loss, grad_norm])


def test_an_evaluation_and_its_members(cfg, tmp_path, capfd):
  a = LanguageEvaluation(
    loss=math.log(4), bits_per_byte=1.5, num_tokens=3, num_bytes=4, load_NHE=None
  )
  both = a._replace(loss=math.log(2), bits_per_byte=1.25, members={"a": a})
  with Report(cfg, str(tmp_path), 0) as told:
    told.evaluation(5, both, {})
  (row,) = read_metrics(tmp_path / "metrics.jsonl")
  assert row == {
    "step": 5,
    "valid/loss": math.log(2),
    "valid/perplexity": pytest.approx(2.0),
    "valid/bits_per_byte": 1.25,
    "valid/a/loss": math.log(4),
    "valid/a/perplexity": pytest.approx(4.0),
    "valid/a/bits_per_byte": 1.5,
  }
  wanted = "step 5  validation: loss 0.6931  bits per byte 1.2500\n"
  assert capfd.readouterr().err == wanted


def test_pictures_and_scores_of_an_evaluation(cfg, tmp_path, capfd, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    report.MetricWriter, "write_image", lambda self, *image: drawn.append(image)
  )
  picture = np.zeros((2, 2, 3), np.uint8)
  with Report(cfg, str(tmp_path), 0) as told:
    told.evaluation(5, LanguageEvaluation(1.0, 2.0, 3, 4, None), {"filled": picture})
    told.harness(5, {"harness/piqa/acc": 0.5, "harness/copa/acc": 0.25})
  assert drawn == [(5, "valid/filled", picture)]
  row = read_metrics(tmp_path / "metrics.jsonl")[-1]
  assert row == {"step": 5, "harness/piqa/acc": 0.5, "harness/copa/acc": 0.25}
  assert capfd.readouterr().err.endswith(
    "step 5  harness: piqa/acc 0.500  copa/acc 0.250\n"
  )


def test_a_finished_run_touches_nothing(cfg, tmp_path, capfd):
  with Report(cfg, str(tmp_path / "run"), 7) as told:
    told.evaluation(7, LanguageEvaluation(1.0, 2.0, 3, 4, None), {})
  assert "step 7  validation: loss 1.0000" in capfd.readouterr().err
  assert not (tmp_path / "run").exists()


def test_a_full_disk_does_not_hide_why_a_run_ends(cfg, tmp_path):
  def full():
    raise OSError(28, "No space left on device")

  told = Report(cfg, str(tmp_path), 0)
  told._writer.close()
  told._writer.close = full
  with pytest.raises(OSError, match="No space left"), told:
    pass
  with pytest.raises(FloatingPointError, match="the reason"), told:
    raise FloatingPointError("the reason")
