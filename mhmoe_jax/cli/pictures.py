"""The verb that makes something of the pictures of a config: image-tokenizer."""

import sys

from absl import flags
from ml_collections import config_flags

from mhmoe_jax.cli import parsing
from mhmoe_jax.cli.shell import command, name_run, replace


def image_tokenizer(argv: list[str]) -> None:
  """Fits a visual vocabulary to the training pictures of a config."""
  values = parsing.make_flags()
  config_flags.DEFINE_config_file(
    "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
  )
  flags.DEFINE_string("out", None, "folder to write", flag_values=values)
  parsing.parse(values, "image-tokenizer", argv, required=("config", "out"))

  from mhmoe_jax.codes import build, saved
  from mhmoe_jax.codes.measure import describe
  from mhmoe_jax.tasks import run_codes
  from mhmoe_jax.train.config import resolve

  cfg = resolve(values.config)
  cfg.need("masked", "image-tokenizer")
  saved.check_free(values.out)  # Before pictures are read, which takes a while.
  made = run_codes.fit(
    cfg.data,
    cfg.task.codes,
    cfg.model.picture_size,
    values.out,
    tell=lambda line: print(line, file=sys.stderr),
  )
  words = replace(
    argv, out=None, workdir=name_run(values.out), config__data__codes__path=values.out
  )
  print(f"{describe(made.statistics)} in {made.statistics.pictures:,} pictures")
  print(f"originals beside what their codes look like: {values.out}/{build.SHEET}")
  print(f"wrote {values.out}, fingerprint {made.fingerprint}; use it with")
  print(f"  {command('train', words)}")
