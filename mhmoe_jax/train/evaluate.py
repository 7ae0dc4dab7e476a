"""Runs a task's evaluation: adds up what it counts, and asks what that means."""

from collections.abc import Iterable

import jax
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.tasks.task import Batch, Evaluation, Params, Sums, Task


class Evaluator:
  """Evaluates parameters on the validation data of a task, on a mesh.

  Args:
    task: what the model learns.
    batch_size: of all processes together.
    mesh: with the parameters.
    limit: how many batches of a kind at most; 0 for all.
  """

  def __init__(self, task: Task, batch_size: int, mesh: Mesh, limit: int = 0):
    self._task, self._mesh, self._limit = task, mesh, limit
    self._batch_size = batch_size
    readable = sharding.copies(mesh)
    self._count = jax.jit(task.count, out_shardings=readable)
    self._show = task.show and jax.jit(task.show, out_shardings=readable)

  def __call__(self, params: Params, fixed: Params) -> Evaluation:
    """What the task finds; every process must call it, in the same mesh."""
    batches = self._task.eval_batches(self._batch_size)
    return self._task.summarize(
      {name: self._add_up(params, fixed, kind) for name, kind in batches.items()}
    )

  def draw(self, params: Params, fixed: Params) -> dict[str, np.ndarray]:
    """Pictures of what the model makes of the first validation batches, by name."""
    if self._show is None:
      return {}
    kinds = self._task.eval_batches(self._batch_size)
    batches = {name: self._place(next(iter(kind))[0]) for name, kind in kinds.items()}
    return self._task.draw(jax.device_get(self._show(params, fixed, batches)))

  def _add_up(
    self,
    params: Params,
    fixed: Params,
    batches: Iterable[tuple[Batch, dict[str, float]]],
  ) -> Sums:
    sums, counts = None, {}
    for i, (batch, counted) in enumerate(batches):
      if self._limit and i >= self._limit:
        break
      part = self._count(params, fixed, self._place(batch))
      sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
      counts = {name: counts.get(name, 0) + n for name, n in counted.items()}
    return jax.tree.map(np.asarray, sums or {}) | counts

  def _place(self, batch: Batch) -> Batch:
    return sharding.place_batch(batch, self._mesh, self._batch_size)
