"""Verbs that make something of the training texts: tokenizer."""

from absl import flags
from ml_collections import config_flags

from mhmoe_jax.cli import parsing


def tokenizer(argv: list[str]) -> None:
  """Trains a SentencePiece model on the training texts of a config."""
  values = parsing.make_flags()
  config_flags.DEFINE_config_file(
    "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
  )
  flags.DEFINE_integer("vocab_size", None, "pieces", 1, flag_values=values)
  flags.DEFINE_string("out", None, "path of the .model to write", flag_values=values)
  parsing.parse(values, "tokenizer", argv, required=("config", "vocab_size", "out"))

  from mhmoe_jax.data import tasks
  from mhmoe_jax.data import tokenizer as trainer
  from mhmoe_jax.train.config import resolve

  texts = tasks.iterate_texts(resolve(values.config).data, "train")
  trainer.train_sentencepiece(texts, values.vocab_size, values.out)
  print(
    f"wrote {values.out}; use it with --config.data.vocabulary={values.out} "
    f"--config.model.vocab_size={values.vocab_size}"
  )
