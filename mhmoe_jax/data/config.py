"""What to read, with which vocabulary, cut to which length: plain values only.

Defaults live in configs/base.py. What needs a look at the disk (does a pattern match a
file, is the file UTF-8) is checked when the source is opened, in sources.py.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import re

SOURCES = ("bundled", "text", "jsonl", "tfds")
# What a member of a mixture may have of its own.
_OF_MEMBERS = ("source", "name", "train", "valid", "text_key")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where text comes from and how it becomes sequences of tokens.

  Attributes:
    source: "bundled" (Tiny Shakespeare), "text" (plain text, a file is a document),
      "jsonl" (a line is a document) or "tfds" (TensorFlow Datasets).
    name: TFDS name with its version, such as "lm1b:1.1.0" or "wiki40b/en:1.3.0"; other
      sources ignore it. TFDS looks in $TFDS_DATA_DIR.
    train: for text and jsonl a path or glob, or several with commas between them, local
      or gs://; for tfds a split such as "train[:99%]"; ignored for bundled.
    valid: the same for validation.
    text_key: the JSON or TFDS field that holds the text; other sources ignore it.
    mixture: several texts in place of one, such as languages: from a name to those of
      source, name, train, valid and text_key in which it differs from the above.
    mixture_exponent: a window is of member l with probability n_l ** exponent over
      their sum, n_l the bytes (of tfds, the records) of its training text; from 0, all
      alike, to 1, in proportion. The reciprocal of what is called temperature.
    vocabulary: "bytes", "cl100k", the path of a SentencePiece model, "xlmr:PATH", a
      model with the ids of XLM-R, or "hf:DIR", a folder with Hugging Face's tokenizer.
    prepared: folder of tokens that `mhmoe prepare` made of this text, read in its
      place; of a mixture, with a folder for each member. Empty: none.
    sequence_length: tokens per example, at least 2.
    shuffle_buffer: examples, each of up to sequence_length tokens, from which training
      draws at random, in each stream. They are tokenised before the first batch of
      every epoch.
    streams: independent readers that the training text is dealt to. Each yields
      batch_size / streams rows of every batch, so that what is in a batch does not
      depend on how many processes share the streams.
    seed: seed of all shuffling.
  """

  source: str
  name: str
  train: str
  valid: str
  text_key: str
  mixture: dict
  mixture_exponent: float
  vocabulary: str
  prepared: str
  sequence_length: int
  shuffle_buffer: int
  streams: int
  seed: int

  def __post_init__(self):
    if self.mixture:
      self._check_mixture()
    else:
      self._check_source()
    if not self.vocabulary:
      raise ValueError(
        "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH', 'hf:DIR' or a "
        f"SentencePiece model's path, got vocabulary={self.vocabulary!r}."
      )
    length = self.sequence_length
    if length < 2:
      raise ValueError(
        f"sequence_length must be at least 2, got sequence_length={length}."
      )
    if self.shuffle_buffer < 1:
      raise ValueError(
        f"shuffle_buffer must be at least 1, got shuffle_buffer={self.shuffle_buffer}."
      )
    if self.streams < 1:
      raise ValueError(f"streams must be at least 1, got streams={self.streams}.")
    if self.seed < 0:
      raise ValueError(f"seed must be at least 0, got seed={self.seed}.")

  def members(self) -> dict[str, "DataConfig"]:
    """Returns the texts of the mixture by name, each a config; without one, none."""
    return {name: self._member(name) for name in self.mixture}

  def _member(self, name: str) -> "DataConfig":
    prepared = self.prepared and os.path.join(self.prepared, name)
    own = self.mixture[name] | {"prepared": prepared}
    return dataclasses.replace(self, **own, mixture={})

  def _check_source(self):
    if self.source not in SOURCES:
      raise ValueError(
        f"source must be one of {', '.join(SOURCES)}, got source={self.source!r}."
      )
    if self.source != "bundled" and not (self.train and self.valid):
      raise ValueError(
        f"source={self.source!r} needs train and valid, got train={self.train!r}, "
        f"valid={self.valid!r}."
      )
    if self.source in ("jsonl", "tfds") and not self.text_key:
      raise ValueError(
        f"source={self.source!r} needs a text_key, got text_key={self.text_key!r}."
      )
    if self.source == "tfds" and ":" not in self.name:
      raise ValueError(
        "name must be a TFDS name with its version, such as lm1b:1.1.0, got "
        f"name={self.name!r}."
      )

  def _check_mixture(self):
    for name, own in self.mixture.items():
      if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(
          f"names in mixture must be of letters, digits, - and _, got {name!r}."
        )
      unknown = sorted(own.keys() - {*_OF_MEMBERS})
      if unknown:
        raise ValueError(
          f"members of mixture may have {', '.join(_OF_MEMBERS)}, got {unknown[0]!r} "
          f"in {name!r}."
        )
    if not 0 <= self.mixture_exponent <= 1:
      raise ValueError(
        "mixture_exponent must be from 0 to 1, got "
        f"mixture_exponent={self.mixture_exponent}."
      )
    for name in self.mixture:
      with named(name):
        self._member(name)  # It checks itself.


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
  """Adds the name of a member of a mixture to what is wrong with it."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{str(error).removesuffix('.')}, in mixture {name!r}.") from None
