"""A run that begins with given parameters, for every verb that takes a workdir.

Its checkpoint is of step 0: the optimizer is fresh, and no text has been read.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from mhmoe_jax import sharding
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.train.config import RunConfig, resolve
from mhmoe_jax.train.lock import hold
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import State, abstract_state, fresh_state


def lay_out(cfg: RunConfig) -> State:
  """Shapes, dtypes and shardings of the run's state on its mesh."""
  mesh = sharding.make_mesh(
    cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model
  )
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  return abstract_state(cfg.task, optimizer, mesh, rules)


def check_new(workdir: str) -> None:
  """Raises ValueError if a run lives in `workdir`."""
  with hold(workdir), Checkpoints(workdir, 1) as checkpoints:
    if checkpoints.steps():
      raise ValueError(
        f"a new run needs a folder without one, got {workdir} with checkpoints "
        f"{checkpoints.steps()}."
      )


def start_run(config: ConfigDict, workdir: str, params: Any) -> None:
  """Writes a run of `config` that begins with `params`, laid out as `lay_out` says."""
  cfg = resolve(config)
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  layout = jax.tree.map(lambda x: x.sharding, lay_out(cfg))
  make = jax.jit(
    lambda params: fresh_state(params, optimizer, cfg.train.seed), out_shardings=layout
  )
  with hold(workdir), Checkpoints(workdir, 1) as checkpoints:
    checkpoints.save(0, make(params), {}, config.to_dict())
    checkpoints.wait()
