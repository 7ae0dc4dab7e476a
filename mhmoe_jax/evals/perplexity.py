"""Perplexity and bits per byte of a text under a trained model."""

import jax

from mhmoe_jax import sharding
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.evaluate import (
  Evaluation,
  evaluate_split,
  make_eval_step,
)


def evaluate_model(cfg: RunConfig, params) -> Evaluation:
  """The validation split of `cfg.data`, all of it, on one device."""
  mesh = sharding.make_mesh(data=1)
  eval_step = jax.jit(make_eval_step(cfg.model))
  with jax.set_mesh(mesh):
    return evaluate_split(eval_step, params, cfg.data, cfg.train.batch_size, mesh)
