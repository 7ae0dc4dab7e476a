"""How a run begins: what is fixed is made, parameters are fresh or another run's."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
import optax

from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.inherit import inherit
from mhmoe_jax.train.processes import all_or_none
from mhmoe_jax.train.state import State, init_state


def begin(
  cfg: RunConfig,
  optimizer: optax.GradientTransformation,
  abstract: State,
  mesh: Mesh,
  workdir: str,
  say: Callable[[str], None],
) -> State:
  """The state before the first step; every process must call it.

  Args:
    cfg: of the run.
    optimizer: of it.
    abstract: the state as jax.ShapeDtypeStruct, laid out on `mesh`.
    mesh: of the run.
    workdir: of the run.
    say: tells the user a line.

  Raises:
    ValueError: what the task needs cannot be made, or `config.init` does not fit.
  """
  # Before anything is made that would be in vain.
  inherited = inherit(cfg, abstract["params"], mesh) if cfg.init else None
  with all_or_none():
    if jax.process_index() == 0:
      cfg.task.prepare(workdir, say)
  state = init_state(cfg.task, optimizer, cfg.train.seed, abstract, workdir)
  if inherited is None:
    return state
  state = inherited.put(state)
  inherited.about.tell(workdir, say)
  return state
