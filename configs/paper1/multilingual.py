"""The multilingual language models of 2404.15045: the English ones on other data.

  mhmoe plan --config configs/paper1/multilingual.py:mhmoe_32

Rows dense, xmoe_N and mhmoe_N of `english.py`, with its readings and recipes; the paper
trains those with 8 and 32 experts (Tables 1 and 11), on Wikipedia in many languages,
following XLM, and prints no more of the data. Taken:

* XLM's 15 languages (1901.07291), those of XNLI, on which the paper evaluates. One JSON
  record a line, a file for each language and split; bring them. Other reading: more of
  them, in `LANGUAGES`. From TFDS, after `get_config`:
    config.data.source = "tfds"
    config.data.mixture = {
      x: {"name": f"wikipedia/20230601.{x}:1.0.0"} for x in multilingual.LANGUAGES
    }
    config.data.train, config.data.valid = "train[:99%]", "train[99%:]"
* A window is of a language with probability size ** 0.5 over the sum, the exponent that
  XLM prints for the sentences of its vocabulary. Other reading:
  data.mixture_exponent = 0.3, XLM-R's.
"""

from configs.paper1 import english

LANGUAGES = (
  *("ar", "bg", "de", "el", "en", "es", "fr", "hi"),
  *("ru", "sw", "th", "tr", "ur", "vi", "zh"),
)


def get_config(row: str = "mhmoe_8"):
  """The config of a row, such as "mhmoe_8" or "mhmoe_8,logged"."""
  name = row.partition(",")[0]
  if name not in english.MAIN_ROWS:
    raise ValueError(
      f"the row must be one of {', '.join(english.MAIN_ROWS)}, with nothing, "
      f"',printed' or ',logged' after it, got {row!r}."
    )
  config = english.get_config(row)
  config.data.train = config.data.valid = ""
  config.data.mixture = {
    x: {
      "train": f"data/wikipedia/{x}.train.jsonl",
      "valid": f"data/wikipedia/{x}.valid.jsonl",
    }
    for x in LANGUAGES
  }
  config.data.mixture_exponent = 0.5
  return config
