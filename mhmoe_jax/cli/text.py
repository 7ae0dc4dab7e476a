"""Verbs that make something of the texts of a config: tokenizer, prepare."""

from collections.abc import Callable
import sys
import time

from absl import flags
from ml_collections import config_flags

from mhmoe_jax.cli import parsing
from mhmoe_jax.cli.shell import command, name_run, replace

_SECONDS = 5  # between two lines of progress


def tokenizer(argv: list[str]) -> None:
  """Trains a SentencePiece model on the training texts of a config."""
  values = parsing.make_flags()
  config_flags.DEFINE_config_file(
    "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
  )
  flags.DEFINE_integer("vocab_size", None, "pieces", 1, flag_values=values)
  flags.DEFINE_string("out", None, "path of the .model to write", flag_values=values)
  parsing.parse(values, "tokenizer", argv, required=("config", "vocab_size", "out"))

  from mhmoe_jax.data import tokenizer as trainer
  from mhmoe_jax.data import windows
  from mhmoe_jax.train.config import resolve

  cfg = resolve(values.config)
  cfg.need("language", "a tokenizer of text")
  texts = windows.iterate_texts(cfg.data, "train")
  trainer.train_sentencepiece(texts, values.vocab_size, values.out)
  words = replace(
    argv,
    vocab_size=None,
    out=None,
    workdir=name_run(values.out),
    config__data__vocabulary=values.out,
    config__model__vocab_size=values.vocab_size,
  )
  print(f"wrote {values.out}; use it with\n  {command('train', words)}")


def prepare(argv: list[str]) -> None:
  """Turns the texts of a config into tokens once; the same command goes on."""
  values = parsing.make_flags()
  config_flags.DEFINE_config_file(
    "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
  )
  flags.DEFINE_string("out", None, "folder to write", flag_values=values)
  flags.DEFINE_integer(
    "shards", 16, "files of each split; a kill costs one", 1, flag_values=values
  )
  parsing.parse(values, "prepare", argv, required=("config", "out"))

  from mhmoe_jax.data import preparing
  from mhmoe_jax.train.config import resolve

  cfg = resolve(values.config)
  cfg.need("language", "preparing text")
  data = cfg.data
  preparing.prepare(data, values.out, values.shards, _make_report())
  words = replace(
    argv,
    shards=None,
    out=None,
    workdir=name_run(values.out),
    config__data__prepared=values.out,
  )
  print(f"wrote {values.out}; use it with\n  {command('train', words)}")


def _make_report() -> Callable:
  """Prints a line every few seconds, and one at the end of each split."""
  from mhmoe_jax.train.progress import format_duration

  split, began, shown, tokens, start = "", 0.0, 0.0, 0, 0.0

  def report(progress):
    nonlocal split, began, shown, tokens, start
    now = time.monotonic()
    if progress.split != split:
      split, began, shown, tokens, start = progress.split, now, now, 0, 0.0
    tokens += progress.tokens
    if not tokens:  # Shards of an earlier start.
      began, start = now, progress.share
    if now < shown + _SECONDS and progress.share < 1:
      return
    shown, gone, done = now, now - began, progress.share - start
    line = f"{split}  {progress.share:.0%}"
    line += f"  {tokens:,} tokens" if tokens else "  was there"
    if tokens and gone and done:
      left = gone * (1 - progress.share) / done
      line += f"  {tokens / gone:,.0f} tokens/s  {format_duration(left)} left"
    print(line, file=sys.stderr)

  return report
