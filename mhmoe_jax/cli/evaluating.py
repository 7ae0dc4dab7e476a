"""The verb harness: a trained run on the tasks of lm-evaluation-harness."""

import sys

from absl import flags
from etils import epath

from mhmoe_jax.cli import parsing


def harness(argv: list[str]) -> None:
  """Scores a trained model on tasks, and prints the harness's table."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_list(
    "tasks", None, "of lm-eval, mhmoe_paper1, mhmoe_xnli", flag_values=values
  )
  flags.DEFINE_string("data", None, "folder of TASK.jsonl files", flag_values=values)
  flags.DEFINE_integer("limit", None, "records of each task", 1, flag_values=values)
  flags.DEFINE_integer(
    "num_fewshot", None, "solved examples in a prompt", 0, flag_values=values
  )
  flags.DEFINE_integer(
    "max_length",
    None,
    "tokens seen at once, or as trained",
    2,
    flag_values=values,
  )
  flags.DEFINE_integer("step", None, "of the checkpoint", 0, flag_values=values)
  flags.DEFINE_string("out", None, "results as JSON", flag_values=values)
  step = parsing.define_run_config(values, "harness", argv)
  parsing.parse(values, "harness", argv, required=("tasks",))

  from mhmoe_jax.evals import judge

  # What is not there is said before a model is loaded.
  out = epath.Path(values.out or "results.json")
  if out.is_dir() or not out.parent.is_dir():
    raise ValueError(f"--out must be a file in a folder that exists, got {out}.")
  judged = judge.load_harness(values.data)
  suite = judged.Suite(values.tasks, values.data, values.limit, values.num_fewshot)

  import jax

  from mhmoe_jax import sharding
  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.evals.lm import RunLM
  from mhmoe_jax.train.config import resolve

  cfg = resolve(values.config)
  mesh = sharding.make_mesh(
    cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model
  )
  _, params = restore.load_model(values.workdir, values.config, step, mesh)
  is_first = jax.process_index() == 0
  progress = sys.stderr if is_first else None
  results = suite.run(RunLM(cfg, params, mesh, values.max_length, progress))
  if not is_first:
    return
  print(judged.table(results))
  if values.out is not None:
    about = {"workdir": values.workdir, "step": step, "data": values.data}
    judged.save(results, about | {"limit": values.limit}, values.out)
