"""Perplexity and bits per byte of a text under a trained model."""

import jax

from mhmoe_jax import sharding
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.evaluate import (
  Evaluation,
  evaluate,
  evaluation_batches,
  make_eval_step,
)


def evaluate_model(cfg: RunConfig, params) -> Evaluation:
  """The validation split of `cfg.data`, all of it, on one device."""
  mesh = sharding.make_mesh(data=1)
  batches = evaluation_batches(cfg.data, cfg.train.batch_size, mesh)
  with jax.set_mesh(mesh):
    return evaluate(jax.jit(make_eval_step(cfg.model)), params, batches, limit=0)
