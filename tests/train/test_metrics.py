import contextlib
import json
import math
import pathlib
import time

from clu import metric_writers
import numpy as np
import pytest
import tensorflow as tf

from mhmoe_jax.train import metrics
from mhmoe_jax.train.metrics import MetricWriter, flatten_metrics, read_metrics


@contextlib.contextmanager
def writer(workdir, **kwargs):
  with contextlib.closing(MetricWriter(workdir, **kwargs)) as opened:
    yield opened


def events(workdir):
  for path in (workdir / "tensorboard").iterdir():
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        yield event.step, value.tag, value.tensor


# metrics.jsonl.


def test_rows_come_back(tmp_path):
  with writer(tmp_path) as w:
    w.write(1, {"loss": np.float32(2.5), "router/entropy": 1})
    w.write(20, {"valid/loss": 2.25})
    # On disk at once: a killed run has its last row.
    assert read_metrics(tmp_path / "metrics.jsonl") == [
      {"step": 1, "loss": 2.5, "router/entropy": 1.0},
      {"step": 20, "valid/loss": 2.25},
    ]


def test_nan_and_inf_are_json_and_come_back(tmp_path):
  with writer(tmp_path) as w:
    w.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})

  def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")

  text = (tmp_path / "metrics.jsonl").read_text()
  row = json.loads(text, parse_constant=refuse)
  assert row == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
  (found,) = read_metrics(tmp_path / "metrics.jsonl")
  assert math.isnan(found["a"])
  assert (found["b"], found["c"]) == (math.inf, -math.inf)


def log(writer, steps):
  for step in steps:
    writer.write(step, {"loss": 10 / step})
    if step % 2 == 0:
      writer.write(step, {"valid/loss": 11 / step})


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', '{"step": 6}'])
def test_resumed_file_equals_an_uninterrupted_one(tmp_path, torn):
  straight, resumed = tmp_path / "straight", tmp_path / "resumed"
  with writer(straight) as w:
    log(w, range(1, 9))
  with writer(resumed) as w:
    log(w, range(1, 6))
  with (resumed / "metrics.jsonl").open("a") as file:
    file.write(torn)
  with writer(resumed, resume_step=4) as w:
    log(w, range(5, 9))
  files = [d / "metrics.jsonl" for d in (straight, resumed)]
  assert files[0].read_bytes() == files[1].read_bytes()
  assert sorted(p.name for p in resumed.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_without_a_checkpoint_the_file_starts_anew(tmp_path):
  for _ in range(2):
    with writer(tmp_path) as w:
      w.write(0, {"valid/loss": 9.0})
      w.write(1, {"loss": 8.0})
  assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_kill_while_dropping_rows_keeps_the_file(tmp_path, monkeypatch):
  with writer(tmp_path) as w:
    log(w, range(1, 6))
  before = (tmp_path / "metrics.jsonl").read_bytes()

  def killed(self, content):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "write_bytes", killed)
    patch.setattr(type(metrics.epath.Path("x")), "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
      MetricWriter(tmp_path, resume_step=2)
  assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_reader_leaves_out_a_row_under_way(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


DAMAGES = {
  "blank": b"",
  "half": b'{"step": 2, "lo',
  "NULs of a power loss": b"\0\0\0\0{}",
  "not UTF-8": b'{"step": 2, "\xff": 1}',
  "no object": b"[2]",
  "a number": b"2",
  "without step": b'{"loss": 1.0}',
  "step of another type": b'{"step": "2"}',
  "step true": b'{"step": true}',
  "no numbers": b'{"step": 2, "loss": [1.0]}',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_named_and_dropped(tmp_path, caplog, damage):
  path = tmp_path / "metrics.jsonl"
  rows = [b'{"step": 1, "loss": 4.0}', DAMAGES[damage], b'{"step": 3, "loss": "nan"}']
  path.write_bytes(b"\n".join(rows) + b"\n")
  before = path.read_bytes()
  assert [row["step"] for row in read_metrics(path)] == [1, 3]
  assert path.read_bytes() == before
  assert [record.getMessage() for record in caplog.records] == [
    f"{path}: 1 damaged rows of 3 left out."
  ]
  with writer(tmp_path, resume_step=3) as w:
    w.write(4, {"loss": 1.0})
  assert path.read_bytes() == b"\n".join(
    [rows[0], rows[2], b'{"step": 4, "loss": 1.0}\n']
  )


def test_a_directory_in_the_place_of_the_record(tmp_path, caplog):
  (tmp_path / "metrics.jsonl").mkdir()
  (tmp_path / "metrics.jsonl" / "of whom").write_text("?")
  with writer(tmp_path, resume_step=3) as w:
    w.write(4, {"loss": 1.0})
  assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 4, "loss": 1.0}]
  (aside,) = tmp_path.glob("metrics.jsonl.*")
  assert (aside / "of whom").read_text() == "?"
  assert f"was a directory: it is {aside.name} now." in caplog.text


def test_a_full_disk_is_named(tmp_path):
  w = MetricWriter(tmp_path)
  w._rows.close()
  w._rows = open("/dev/full", "w")  # noqa: SIM115
  message = f"cannot write to {tmp_path}/metrics.jsonl: .*No space left"
  with pytest.raises(OSError, match=message):
    w.write(1, {"loss": 1.0})
  with pytest.raises(OSError, match=message):
    w.close()


def test_other_processes_write_nothing(tmp_path):
  with writer(tmp_path / "run", silent=True) as w:
    w.write(1, {"loss": 1.0})
    w.write_image(1, "load", np.zeros((2, 2, 3), np.uint8))
  assert not (tmp_path / "run").exists()


# TensorBoard.


def test_tensorboard_gets_scalars_and_images(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
  with writer(tmp_path) as w:
    w.write(3, {"loss": 2.5})
    w.write_image(3, "routing/load", image)
  found = {(step, tag): tensor for step, tag, tensor in events(tmp_path)}
  assert set(found) == {(3, "loss"), (3, "routing/load")}
  assert tf.make_ndarray(found[3, "loss"]) == 2.5
  width, height, png = tf.make_ndarray(found[3, "routing/load"])
  assert (int(width), int(height)) == (6, 4)
  np.testing.assert_array_equal(tf.io.decode_png(png).numpy(), image)


def test_without_tensorboard_a_run_goes_on(tmp_path, caplog):
  (tmp_path / "tensorboard").write_text("in the way")
  with writer(tmp_path) as w:
    w.write(3, {"loss": 2.5})
    w.write_image(3, "routing/load", np.zeros((2, 2, 3), np.uint8))
  assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 2.5}]
  (warning,) = caplog.records
  where = f"{tmp_path}/tensorboard"
  assert warning.getMessage().startswith(f"going on without TensorBoard in {where}: ")


def test_tensorboard_that_fails_in_its_thread(tmp_path, caplog, monkeypatch):
  def full(self, step, scalars):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left")

  with monkeypatch.context() as patch:
    patch.setattr(metric_writers.SummaryWriter, "write_scalars", full)
    with writer(tmp_path) as w:
      for step in range(1, 200):
        w.write(step, {"loss": 2.5})
        time.sleep(0.001)
  assert len(read_metrics(tmp_path / "metrics.jsonl")) == 199
  (warning,) = caplog.records
  where = f"{tmp_path}/tensorboard"
  wanted = f"going on without TensorBoard in {where}: ResourceExhaustedError."
  assert warning.getMessage() == wanted


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((2, 2, 3), np.float32),
    np.zeros((2, 2), np.uint8),
    np.zeros((2, 2, 4), "u1"),
  ],
)
def test_image_of_another_kind_is_refused(tmp_path, image):
  with pytest.raises(ValueError, match="uint8 of shape") as error:
    MetricWriter(tmp_path, silent=True).write_image(1, "load", image)
  assert str(image.shape) in str(error.value)


# From a step's metrics to scalars.


def test_flatten_metrics():
  load_NHE = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
  found = flatten_metrics(
    {
      "loss": np.float32(2.0),
      "balance_loss": np.array([1.0, 3.0], np.float32),
      "router/load_HE": load_NHE,
      "router/distinct_X": np.array([[0.5, 0.5], [1.0, 0.0]]),  # for a picture
    },
    blocks=[1, 3],
  )
  assert found == {
    "loss": 2.0,
    "balance_loss": 2.0,
    "balance_loss/block_1": 1.0,
    "balance_loss/block_3": 3.0,
    "router/max_load": 1.75,
    "router/max_load/block_1": 1.5,  # Expert 0 has 3/4 of all choices, not 1/2.
    "router/max_load/block_3": 2.0,
    "router/load_entropy": pytest.approx(0.4056, abs=1e-4),
    "router/load_entropy/block_1": pytest.approx(0.8113, abs=1e-4),  # of 3/4 and 1/4
    "router/load_entropy/block_3": pytest.approx(0, abs=1e-9),
    "router/active_experts": 0.75,
    "router/active_experts/block_1": 1.0,
    "router/active_experts/block_3": 0.5,
  }
  assert {type(x) for x in found.values()} == {float}


def test_flatten_metrics_of_other_models():
  assert flatten_metrics({"loss": np.float32(2.0)}, blocks=range(1)) == {"loss": 2.0}
  one = flatten_metrics({"router/load_HE": np.ones((1, 2, 1))}, blocks=range(1))
  assert one["router/load_entropy"] == 1  # a single expert
  even = flatten_metrics({"router/load_HE": np.full((1, 2, 4), 0.25)}, blocks=range(1))
  assert even["router/load_entropy"] == pytest.approx(1)
