"""The verb plan: what a config costs, before it is paid for."""

from absl import flags
from ml_collections import config_flags

from mhmoe_jax.cli import parsing


def plan(argv: list[str]) -> None:
  """Counts what a config costs; with a topology, compiles its step for a pod."""
  values = parsing.make_flags()
  config_flags.DEFINE_config_file(
    "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
  )
  flags.DEFINE_string("topology", None, "TPU chips, v5p:4x4x4", flag_values=values)
  flags.DEFINE_integer("slices", 1, "of that topology", 1, flag_values=values)
  flags.DEFINE_string("mesh", None, "such as data=8,expert=8", flag_values=values)
  flags.DEFINE_integer(
    "rounds", 1, 'to count of dispatch="rounds"', 1, flag_values=values
  )
  flags.DEFINE_bool(
    "optimize", False, "compile as a run does: slower, less memory", flag_values=values
  )
  flags.DEFINE_list(
    "sweep", [], "mesh,capacity,remat,accumulate,batch", flag_values=values
  )
  flags.DEFINE_bool("json", False, "for programs", flag_values=values)
  parsing.parse(values, "plan", argv, required=("config",))

  import jax

  from mhmoe_jax import sharding
  from mhmoe_jax.plan import report, sweep
  from mhmoe_jax.train.config import resolve

  # Planning needs no accelerator, and takes none from a job that runs on it.
  jax.config.update("jax_platforms", "cpu")

  config = values.config
  config.mesh.replica = max(config.mesh.replica, values.slices)
  config.mesh.update(report.parse_mesh(values.mesh or ""))
  cfg, topology = resolve(config), values.topology
  mesh = cfg.mesh  # Without a topology there is none to be made.
  sharding.check_sizes(mesh.replica, mesh.data, mesh.expert, mesh.model)
  if topology is None:
    if values.slices > 1 or values.sweep or values.rounds > 1:
      raise ValueError("--slices, --sweep and --rounds need a --topology, got none.")
    made = report.plan_model(cfg)
  elif values.sweep:
    made = sweep.sweep(cfg, topology, values.slices, values.sweep)
  else:
    quick = not values.optimize
    made = report.plan_step(cfg, topology, values.slices, quick, values.rounds)
  print(made.json() if values.json else made.text())
