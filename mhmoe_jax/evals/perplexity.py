"""Perplexity and bits per byte of a text under a trained model."""

import jax

from mhmoe_jax import sharding
from mhmoe_jax.tasks.task import Evaluation, Params
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.evaluate import Evaluator


def evaluate_model(
  cfg: RunConfig, params: Params, fixed: Params | None = None
) -> Evaluation:
  """The validation split of `cfg.data`, all of it, on one device.

  Args:
    cfg: of a run.
    params: of its model.
    fixed: what its task needs besides, if anything.
  """
  mesh = sharding.make_mesh(data=1)
  evaluate = Evaluator(cfg.task, cfg.train.batch_size, mesh)
  with jax.set_mesh(mesh):
    return evaluate(params, fixed or {})
