"""Verbs for models of other people and from old ones: import, export, upcycle."""

from absl import flags
from ml_collections import config_flags

from mhmoe_jax.cli import parsing
from mhmoe_jax.cli.shell import command


def import_(argv: list[str]) -> None:
  """Makes a run of a folder of safetensors."""
  values = parsing.make_flags()
  flags.DEFINE_string("from", None, "folder with safetensors", flag_values=values)
  flags.DEFINE_string("workdir", None, "of the new run", flag_values=values)
  config_flags.DEFINE_config_file(
    "config", "configs/base.py", flag_values=values, sys_argv=["mhmoe", *argv]
  )
  parsing.parse(values, "import", argv, required=("from", "workdir"))

  from mhmoe_jax.interop import importing

  made = importing.import_model(values["from"].value, values.config, values.workdir)
  length = values.config.data.sequence_length
  on = command("sample", [f"--workdir={values.workdir}"])
  print(
    f"wrote {values.workdir}: {made.model_type}, {made.num_parameters:,} parameters, "
    f"vocabulary {made.vocabulary}\n{on}  # tries it"
  )
  if made.max_length not in (0, length):
    print(
      f"sequence_length is {length:,}, the model was made for {made.max_length:,}: "
      f"--config.data.sequence_length={made.max_length} asks for it"
    )


def export(argv: list[str]) -> None:
  """Writes a run's parameters as safetensors."""
  from mhmoe_jax.interop import exporting
  from mhmoe_jax.train.config import resolve

  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_string("out", None, "folder to make", flag_values=values)
  flags.DEFINE_integer("step", None, "of the checkpoint", 0, flag_values=values)
  flags.DEFINE_enum(
    "layout", "auto", exporting.LAYOUTS, "auto, or our own", flag_values=values
  )
  flags.DEFINE_integer("shard_mb", 5_000, "of a file, at most", 1, flag_values=values)
  step = parsing.define_run_config(values, "export", argv)
  parsing.parse(values, "export", argv, required=("out",))
  files = exporting.export_model(
    resolve(values.config),
    values.workdir,
    values.out,
    step,
    values.layout,
    values.shard_mb * 10**6,
  )
  print(f"wrote {values.out}: {files} file{'s' * (files > 1)} of safetensors")


def upcycle(argv: list[str]) -> None:
  """Makes a run with experts of a run without."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a dense model", flag_values=values)
  config_flags.DEFINE_config_file(
    "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
  )
  flags.DEFINE_string("out", None, "of the new run", flag_values=values)
  parsing.parse(values, "upcycle", argv, required=("workdir", "config", "out"))

  from mhmoe_jax.interop import upcycling

  made = upcycling.upcycle(values.workdir, values.config, values.out)
  on = command("train", [f"--workdir={values.out}"])
  print(f"wrote {values.out}: {made}\n{on}  # trains it")
