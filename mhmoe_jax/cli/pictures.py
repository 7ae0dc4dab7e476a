"""Verbs about pictures: image-tokenizer, ask."""

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


def ask(argv: list[str]) -> None:
  """Prints the likeliest answers to a question about a picture."""
  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.evals import asking

  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a run of task vqa", flag_values=values)
  flags.DEFINE_string("image", None, "a PNG or JPEG", flag_values=values)
  flags.DEFINE_string("question", None, "about it", flag_values=values)
  flags.DEFINE_integer("step", None, "of the checkpoint", 0, flag_values=values)
  step = parsing.define_run_config(values, "ask", argv)
  parsing.parse(values, "ask", argv, required=("image", "question"))
  cfg, params = restore.load_model(values.workdir, values.config, step)
  for answer, probability in asking.ask(cfg, params, values.image, values.question):
    print(f"{probability:6.1%}  {answer}")
