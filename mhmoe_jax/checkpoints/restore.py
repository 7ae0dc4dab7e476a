"""A trained model from a workdir."""

from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mhmoe_jax import allocator, sharding
from mhmoe_jax.checkpoints.saved import load_config, restore_params, with_own_answers
from mhmoe_jax.tasks.task import Params
from mhmoe_jax.train.config import RunConfig, resolve


def load_fixed(workdir: str, cfg: RunConfig, step: int | None = None) -> dict:
  """What the task of a run needs besides parameters, on the first device."""
  if not cfg.task.fixed_shapes():
    return {}
  layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return restore_params(workdir, layout, step, entry="fixed")


def load_model(
  workdir: str,
  config: ConfigDict | None = None,
  step: int | None = None,
  mesh: Mesh | None = None,
) -> tuple[RunConfig, dict]:
  """The config and the parameters of a checkpoint.

  Args:
    workdir: of a run.
    config: replaces the config saved with the checkpoint, such as for other data.
    step: of the checkpoint; None for the newest.
    mesh: to lay the parameters out on, as in training; None: on the first device.

  Raises:
    ValueError: there is no such checkpoint, or it is of another model.
  """
  allocator.keep_freed_memory()
  saved_config = load_config(workdir, step)
  own = ConfigDict(with_own_answers(saved_config, workdir))
  cfg = resolve(own if config is None else config)
  same = config is None or config.model.to_dict() == saved_config["model"]
  layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  if same and mesh is None:
    return cfg, restore_params(workdir, layout, step)
  shapes = jax.eval_shape(lambda: cfg.task.init(jax.random.key(0)))
  if mesh is None:
    layouts = jax.tree.map(lambda _: layout, shapes)
    return cfg, _restore(workdir, shapes, layouts, step)
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  return cfg, restore_on(mesh, rules, workdir, shapes, step)


def load_run(workdir: str, step: int | None = None) -> RunConfig:
  """The config of a checkpoint, checked."""
  return resolve(ConfigDict(load_config(workdir, step)))


def restore_on(
  mesh: Mesh, rules: sharding.AxisRules, workdir: str, shapes: Params, step: int | None
) -> Params:
  """The parameters of a checkpoint on a mesh; their names say how they are split."""
  layouts = sharding.tree_shardings(shapes, mesh, rules)
  return _restore(workdir, shapes, layouts, step)


def _restore(workdir: str, shapes: Params, layouts: Any, step: int | None) -> Params:
  abstract = jax.tree.map(
    lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
    shapes,
    layouts,
  )
  return restore_params(workdir, abstract, step)
