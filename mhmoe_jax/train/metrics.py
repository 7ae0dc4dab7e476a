"""What a run says while it trains: metrics.jsonl, TensorBoard and a progress line.

`<workdir>/metrics.jsonl`, one JSON object per log point, is the record that figures
and comparisons read; TensorBoard is for watching.  Which metrics there are is decided
in `train/objective.py` and `train/loop.py`.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import math
import sys
import time
from typing import Any, TextIO

from etils import epath
import numpy as np

from mhmoe_jax.moe.telemetry import active_share


def flatten_metrics(metrics: Mapping[str, Any], period: int) -> dict[str, float]:
  """Scalars by name, from the metrics of a step on the host.

  What is stacked over the MoE layers, (N, ...), gives its mean and, as "name/block_3",
  the value of each block.  "router/load_HE" is too much for a record: it gives
  "router/max_load", the load of the busiest expert in units of an even share, 1 / E,
  "router/load_entropy", the entropy of the load over log E, 1 when it is even, and
  "router/active_experts", the share of experts that `active_share` counts.

  Args:
    metrics: of `lm_loss`, as numpy arrays.
    period: `TransformerConfig.period`; the last of each period of blocks has the MoE.
  """
  metrics = {k: v for k, v in metrics.items() if k != "router/distinct_X"}
  if "router/load_HE" in metrics:
    load_NE = metrics.pop("router/load_HE").mean(axis=1)
    metrics["router/max_load"] = load_NE.max(axis=-1) * load_NE.shape[-1]
    metrics["router/load_entropy"] = _evenness(load_NE)
    metrics["router/active_experts"] = active_share(load_NE)
  flat = {}
  for name, value in metrics.items():
    flat[name] = float(np.mean(value))
    if np.ndim(value):
      blocks = range(period - 1, period * len(value), period)
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
  once more, are dropped first, and so is a last row cut short by a kill.  TensorBoard
  itself forgets what comes once more.

  Args:
    workdir: local or `gs://` directory of the run; created if missing.
    process_index: of this process.
    resume_step: step of the checkpoint the run resumes from; 0 starts the record anew.
  """

  def __init__(
    self, workdir: epath.PathLike, process_index: int = 0, resume_step: int = 0
  ):
    self._rows = self._tensorboard = None
    if process_index != 0:
      return
    # Here, because it loads tensorflow, which readers of metrics.jsonl do without.
    from clu import metric_writers

    directory = epath.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    _drop_rows_after(resume_step, directory / "metrics.jsonl")
    self._rows = (directory / "metrics.jsonl").open("a")
    self._tensorboard = metric_writers.AsyncWriter(
      metric_writers.SummaryWriter(str(directory / "tensorboard"))
    )

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends one row, handed to the system at return, and tells TensorBoard.

    JSON knows neither NaN nor infinity: they become the strings "nan", "inf" and
    "-inf", which `read_metrics` turns back into floats.
    """
    if self._rows is None:
      return
    values = {name: float(value) for name, value in scalars.items()}
    row = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
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
      self._tensorboard.write_images(step, {name: image[None]})

  def close(self) -> None:
    """Writes what is left and closes the files."""
    if self._rows is not None:
      self._rows.close()
      self._tensorboard.close()


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
  """Rows of a metrics.jsonl, `{"step": int, name: float, ...}`, in the order written.

  The run may be going on: a last row not yet whole is left out.
  """
  rows = [json.loads(line) for line in _whole_lines(epath.Path(path))]
  return [{k: v if k == "step" else float(v) for k, v in r.items()} for r in rows]


def _whole_lines(path: epath.Path) -> list[str]:
  return path.read_text().split("\n")[:-1]


def _drop_rows_after(step: int, path: epath.Path) -> None:
  if not path.exists():
    return
  # A run without a checkpoint writes everything once more, a row of step 0 included.
  lines = _whole_lines(path) if step > 0 else []
  kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
  # A kill in between must leave the old file or the new one.
  rewritten = path.with_suffix(".tmp")
  rewritten.write_text("".join(kept))
  rewritten.replace(path)


class ProgressLine:
  """One line for a human: how far, how good, how fast, how long still.

      step  150/1000  loss 2.313  ppl 10.1  15.2k tok/s  2m10s gone  12m17s left

  On a terminal a line overwrites the one before; in a log file they follow each other.

  Args:
    total_steps: of the whole run, resumed or not.
    tokens_per_step: of all processes together.
    process_index: only process 0 prints.
    stream: where to; standard error by default.
    clock: returns seconds, since any moment.
  """

  def __init__(
    self,
    total_steps: int,
    tokens_per_step: int,
    *,
    process_index: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total_steps = total_steps
    self._tokens_per_step = tokens_per_step
    self._silent = process_index != 0
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._began = clock()
    self._paused_for = 0.0
    self._first = self._last = None  # (step, seconds of training), of tick and show
    self._width = 0  # of the line on the terminal that the next one overwrites

  def tick(self, step: int) -> None:
    """Says that a step is over.  The first one, which compiles, starts the clock."""
    if self._first is None:
      self._first = self._last = (step, self._training_time())

  def show(self, step: int, loss: float) -> float:
    """Prints the line.

    Returns:
      Tokens per second since the line before, or since the first `tick`; NaN if no
      step was timed yet.
    """
    self.tick(step)
    now = (step, self._training_time())
    speed, self._last = self._speed(self._last, now), now
    steps_left = self._total_steps - step
    text = progress_text(
      step,
      self._total_steps,
      loss,
      tokens_per_second=speed,
      gone=self._clock() - self._began,
      left=steps_left * self._tokens_per_step / self.tokens_per_second,
    )
    self._print(text, overwritable=steps_left > 0)
    return speed

  def note(self, text: str) -> None:
    """Prints a line that stays."""
    self._print(text, overwritable=False)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time spent inside, as in an evaluation, does not count as training."""
    start = self._clock()
    try:
      yield
    finally:
      self._paused_for += self._clock() - start

  @property
  def tokens_per_second(self) -> float:
    """From the first tick to the last line; NaN before there is one."""
    return math.nan if self._first is None else self._speed(self._first, self._last)

  def _training_time(self) -> float:
    return self._clock() - self._paused_for

  def _speed(self, start: tuple[int, float], end: tuple[int, float]) -> float:
    steps, seconds = end[0] - start[0], end[1] - start[1]
    return steps * self._tokens_per_step / seconds if steps and seconds else math.nan

  def _print(self, text: str, overwritable: bool) -> None:
    if self._silent:
      return
    if self._stream.isatty():
      end = "" if overwritable else "\n"
      self._stream.write(f"\r{text:<{self._width}}{end}")
      self._width = len(text) if overwritable else 0
    else:
      self._stream.write(text + "\n")
    self._stream.flush()


def progress_text(
  step: int,
  total_steps: int,
  loss: float,
  *,
  tokens_per_second: float,
  gone: float,
  left: float,
) -> str:
  """The line that `ProgressLine` prints; times in seconds, NaN for not yet known."""
  perplexity = math.inf if loss > 700 else math.exp(loss)  # exp overflows from 710 on.
  parts = [
    f"step {step:>{len(str(total_steps))}}/{total_steps}",
    f"loss {loss:.3f}",
    f"ppl {_short(perplexity)}",
  ]
  if math.isfinite(tokens_per_second):
    parts.append(f"{_short(tokens_per_second)} tok/s")
  parts.append(f"{format_duration(gone)} gone")
  if math.isfinite(left):
    parts.append(f"{format_duration(left)} left")
  return "  ".join(parts)


def _short(number: float) -> str:
  for unit in ("", "k", "M", "G"):
    if not 999.5 <= number < math.inf:
      return f"{number:.3g}{unit}"
    number /= 1000
  return f"{number:.3g}T"


def format_duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}h{minutes:02}m"
  return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
