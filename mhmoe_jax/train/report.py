"""What a run tells while it trains: metrics, pictures, progress, a stop at NaN."""

from collections.abc import Mapping
import contextlib
import math

import jax
import numpy as np

from mhmoe_jax.tasks.task import Evaluation
from mhmoe_jax.train import images
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.metrics import MetricWriter, flatten_metrics
from mhmoe_jax.train.optimizer import make_schedule
from mhmoe_jax.train.progress import ProgressLine


class Report:
  """The record of one run; a context manager, which closes its files.

  Args:
    cfg: of the run.
    workdir: of the run.
    start: the step it resumes from; rows after it are written anew.  If it is the last
      one, there is nothing to add, and no file is touched.
  """

  def __init__(self, cfg: RunConfig, workdir: str, start: int):
    self._cfg = cfg
    self._learning_rate = make_schedule(cfg.optimizer, cfg.train.num_steps)
    silent = jax.process_index() > 0 or start >= cfg.train.num_steps
    self._writer = MetricWriter(workdir, start, silent=silent)
    self.progress = ProgressLine(
      cfg.train.num_steps,
      cfg.train.batch_size * cfg.task.tokens_per_example,
      process_index=jax.process_index(),
    )

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    # What cannot be written any more must not hide why the run ends.
    with contextlib.suppress(OSError) if error else contextlib.nullcontext():
      self._writer.close()

  def step(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Waits for the metrics of a step, and writes them at log points.

    Raises:
      FloatingPointError: if the loss or a gradient is not finite; the row is written.
    """
    loss, grad_norm = map(
      float, jax.device_get((metrics["loss"], metrics["grad_norm"]))
    )
    self.progress.tick(step)
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    last = step == self._cfg.train.num_steps
    if step % self._cfg.train.log_every == 0 or last or not finite:
      row = flatten_metrics(jax.device_get(metrics), self._cfg.model.moe_blocks)
      row["learning_rate"] = float(self._learning_rate(step - 1))
      rounds = [x for name, x in row.items() if name.endswith("router/rounds")]
      row["tokens_per_second"] = self.progress.show(
        step, loss, max(rounds, default=1.0), row.get("accuracy", math.nan)
      )
      self._writer.write(step, row)
    every = self._cfg.train.image_every
    if every and step % every == 0:
      self._draw(step, metrics)
    if not finite:
      raise FloatingPointError(
        f"loss and gradients must be finite, got loss={loss}, grad_norm={grad_norm} "
        f"at step {step}."
      )

  def _draw(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Shows the routing of a step, on process 0 alone: nothing here may be of jax."""
    if jax.process_index() != 0:
      return
    blocks = self._cfg.model.moe_blocks
    for name in metrics:
      if not name.endswith("router/load_HE"):
        continue
      where = name.removesuffix("load_HE")
      load_NHE, distinct_NX = jax.device_get(
        (metrics[name], metrics[f"{where}distinct_X"])
      )
      image = images.draw_load(load_NHE.mean(axis=1), blocks)
      self._writer.write_image(step, f"{where}load", image)
      image = images.draw_distinct(distinct_NX, blocks)
      self._writer.write_image(step, f"{where}distinct_experts", image)

  def evaluation(
    self, step: int, result: Evaluation, pictures: Mapping[str, np.ndarray]
  ) -> None:
    """Writes and shows an evaluation, and pictures of it."""
    self._writer.write(step, {f"valid/{k}": x for k, x in result.scalars().items()})
    for name, picture in pictures.items():
      self._writer.write_image(step, f"valid/{name}", picture)
    self.progress.note(f"step {step}  validation: {result.in_short()}")

  def harness(self, step: int, scalars: dict[str, float]) -> None:
    """Writes and shows scores on tasks."""
    self._writer.write(step, scalars)
    shown = (f"{k.removeprefix('harness/')} {v:.3f}" for k, v in scalars.items())
    self.progress.note(f"step {step}  harness: {'  '.join(shown)}")
