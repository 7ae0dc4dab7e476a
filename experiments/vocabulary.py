"""The vocabulary of a study: trained by the first run that needs it."""

import pathlib

from ml_collections import ConfigDict

from experiments import work_queue


def set_vocabulary(config: ConfigDict, path: pathlib.Path) -> None:
  """Gives a config the SentencePiece model at `path`, made of its training text.

  Processes that come meanwhile wait for it.
  """
  config.data.vocabulary = str(path)
  with work_queue.claim(path.with_suffix(".lock"), wait=True):
    if path.exists():
      return
    from mhmoe_jax.data import tokenizer, windows
    from mhmoe_jax.train.config import resolve

    texts = windows.iterate_texts(resolve(config).data, "train")
    part = path.with_suffix(".part")
    tokenizer.train_sentencepiece(texts, config.model.vocab_size, str(part))
    part.rename(path)
