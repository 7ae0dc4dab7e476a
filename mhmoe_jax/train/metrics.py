"""What a run records while it trains: metrics.jsonl and TensorBoard.

`<workdir>/metrics.jsonl`, one JSON object per log point, is the record that figures
and comparisons read; TensorBoard is for watching.  Which metrics there are is decided
in `tasks/` and `train/report.py`.  The line for a human: `train/progress.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import logging
import math
import time
from typing import Any

from etils import epath
import numpy as np

from mhmoe_jax.moe.telemetry import active_share

_log = logging.getLogger(__name__)


def flatten_metrics(
  metrics: Mapping[str, Any], blocks: Sequence[int]
) -> dict[str, float]:
  """Scalars by name, from the metrics of a step on the host.

  What is stacked over the MoE layers, (N, ...), gives its mean and, as "name/block_3",
  the value of each block.  "router/load_HE" is too much for a record: it gives
  "router/max_load", the load of the busiest expert in units of an even share, 1 / E,
  "router/load_entropy", the entropy of the load over log E, 1 when it is even, and
  "router/active_experts", the share of experts that `active_share` counts. Names may
  have a prefix.

  Args:
    metrics: of `make_train_step`, as numpy arrays.
    blocks: numbers of those that have an MoE layer.
  """
  metrics = {k: v for k, v in metrics.items() if not k.endswith("router/distinct_X")}
  for name in [name for name in metrics if name.endswith("router/load_HE")]:
    load_NE, where = metrics.pop(name).mean(axis=1), name.removesuffix("load_HE")
    metrics[f"{where}max_load"] = load_NE.max(axis=-1) * load_NE.shape[-1]
    metrics[f"{where}load_entropy"] = _evenness(load_NE)
    metrics[f"{where}active_experts"] = active_share(load_NE)
  flat = {}
  for name, value in metrics.items():
    flat[name] = float(np.mean(value))
    if np.ndim(value):
      flat |= {
        f"{name}/block_{i}": float(x) for i, x in zip(blocks, value, strict=True)
      }
  return flat


def _evenness(load_NE: np.ndarray) -> np.ndarray:
  """Entropy over its largest value, (N,), in [0, 1]; 1 for a single expert."""
  if load_NE.shape[-1] == 1:
    return np.ones(len(load_NE))
  entropy_N = -(load_NE * np.log(np.maximum(load_NE, 1e-30))).sum(axis=-1)
  return entropy_N / np.log(load_NE.shape[-1])


class MetricWriter:
  """Writes metrics from process 0; on the others every method does nothing.

  A resumed run continues the record: rows after `resume_step`, which it will write
  once more, are dropped first, and so are a last row cut short by a kill and, with a
  warning, rows that are none.  TensorBoard itself forgets what comes once more.

  Args:
    workdir: local or `gs://` directory of the run; created if missing.
    resume_step: step of the checkpoint the run resumes from; 0 starts the record anew.
    silent: writes nothing at all.
  """

  def __init__(
    self, workdir: epath.PathLike, resume_step: int = 0, *, silent: bool = False
  ):
    self._rows = self._tensorboard = None
    if silent:
      return
    self._path = epath.Path(workdir) / "metrics.jsonl"
    self._path.parent.mkdir(parents=True, exist_ok=True)
    _drop_rows_after(resume_step, self._path)
    self._rows = self._path.open("a")
    self._tensorboard = _TensorBoard(self._path.parent / "tensorboard")

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends one row, handed to the system at return, and tells TensorBoard.

    JSON knows neither NaN nor infinity: they become the strings "nan", "inf" and
    "-inf", which `read_metrics` turns back into floats.
    """
    if self._rows is None:
      return
    values = {name: float(value) for name, value in scalars.items()}
    row = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
    with self._writing():
      self._rows.write(json.dumps({"step": step, **row}) + "\n")
      self._rows.flush()
    self._tensorboard.write_scalars(step, values)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Shows `image`, uint8 of shape (height, width, 3), in TensorBoard."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
      raise ValueError(
        "an image must be uint8 of shape (height, width, 3), "
        f"got {name} of {image.dtype} and shape {image.shape}."
      )
    if self._tensorboard is not None:
      self._tensorboard.write_image(step, name, image)

  def close(self) -> None:
    """Writes what is left and closes the files."""
    if self._rows is None:
      return
    self._tensorboard.close()
    with self._writing():
      self._rows.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:  # which does not say where.
      raise OSError(f"cannot write to {self._path}: {error}") from error


class _TensorBoard:
  """Event files under a directory; as they are for watching, no failure stops a run."""

  def __init__(self, directory: epath.Path):
    # Here, because it loads tensorflow, which readers of metrics.jsonl do without; and
    # clu's after ours, which is quiet and leaves accelerators alone.
    from mhmoe_jax.data.quiet import tf  # isort: skip
    from clu import asynclib, metric_writers

    self._directory = directory
    self._failures = (OSError, asynclib.AsyncError, tf.errors.OpError)
    self._writer = None
    with self._watching():
      writer = metric_writers.SummaryWriter(str(directory))
      self._writer = metric_writers.AsyncWriter(writer)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    with self._watching():
      if self._writer:
        self._writer.write_scalars(step, scalars)

  def write_image(self, step: int, name: str, image: np.ndarray) -> None:
    with self._watching():
      if self._writer:
        self._writer.write_images(step, {name: image[None]})

  def close(self) -> None:
    with self._watching():
      if self._writer:
        self._writer.close()

  @contextlib.contextmanager
  def _watching(self) -> Iterator[None]:
    try:
      yield
    except self._failures as error:
      self._writer = None
      while error.__cause__:
        error = error.__cause__
      reason = type(error).__name__  # Messages of TensorFlow have several lines.
      _log.warning("going on without TensorBoard in %s: %s.", self._directory, reason)


def _is_not_chatter(record: logging.LogRecord) -> bool:
  return "/clu/" not in record.pathname


# What clu logs from its thread, with a traceback, it raises as well.
logging.getLogger("absl").addFilter(_is_not_chatter)


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
  """Rows of a metrics.jsonl, `{"step": int, name: float, ...}`, in the order written.

  The run may be going on: a last row not yet whole is left out.  Rows that are none, as
  a power loss leaves them, are left out with one warning.
  """
  return [row for _, row in _whole_rows(epath.Path(path))]


def _whole_rows(path: epath.Path) -> list[tuple[bytes, dict[str, Any]]]:
  """Each line with what it says; a warning if some of them say nothing."""
  lines = path.read_bytes().split(b"\n")[:-1]
  rows = [(line, row) for line in lines if (row := _parse(line)) is not None]
  if len(rows) < len(lines):
    damaged = len(lines) - len(rows)
    _log.warning("%s: %d damaged rows of %d left out.", path, damaged, len(lines))
  return rows


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line.decode())
    if type(row["step"]) is not int:
      return None
    return {k: v if k == "step" else float(v) for k, v in row.items()}
  except (ValueError, TypeError, KeyError, IndexError):
    return None


def _drop_rows_after(step: int, path: epath.Path) -> None:
  if path.is_dir():
    aside = path.with_name(f"{path.name}.{time.time_ns()}")
    path.rename(aside)
    _log.warning("%s was a directory: it is %s now.", path, aside.name)
  if not path.exists():
    return
  # A run without a checkpoint writes everything once more, a row of step 0 included.
  rows = _whole_rows(path) if step > 0 else []
  kept = [line + b"\n" for line, row in rows if row["step"] <= step]
  # A kill in between must leave the old file or the new one.
  rewritten = path.with_suffix(".tmp")
  rewritten.write_bytes(b"".join(kept))
  rewritten.replace(path)
