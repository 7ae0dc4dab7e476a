"""What the models read: XNLI, their own validation text, and words in context.

A text is a list of documents with one label; a trace of several texts is cut by it.
"""

import collections
from collections.abc import Sequence
import csv
import lzma
import pathlib
import re

import numpy as np

from mhmoe_jax.analysis.statistics import words
from mhmoe_jax.analysis.traces.trace import Trace
from mhmoe_jax.data.documents import Document

# fmt: off
LANGUAGES = (
  "ar", "bg", "de", "el", "en", "es", "fr", "hi",
  "ru", "sw", "th", "tr", "ur", "vi", "zh",
)
# fmt: on
NOVEL_BYTES = 150_000
SENTENCES_PER_SENSE = 16
FREQUENCY_BYTES = 20_000_000

Context = tuple[str, int, int, str, str]


def xnli(data: pathlib.Path, language: str, label: str) -> list[Document]:
  """Every premise and hypothesis of the dev part, once."""
  path = data / "xnli" / f"dev.{language}.tsv.xz"
  with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
  texts = [row[part] for part in ("premise", "hypothesis") for row in rows]
  return [Document(label, text) for text in dict.fromkeys(texts) if text]


def lines(path: pathlib.Path, label: str, most_bytes: int) -> list[Document]:
  """Lines from all over a file, about so many bytes of them."""
  texts = [line for line in path.read_text().split("\n") if line.strip()]
  every = max(1, round(sum(len(text.encode()) for text in texts) / most_bytes))
  return [Document(label, text) for text in texts[::every]]


def homographs(data: pathlib.Path) -> list[Context]:
  """Labelled sentences, as many of each sense of a word, of words with two senses.

  Only one sentence of a text is kept, since a document is found by its text.
  """
  counts, seen, kept = collections.Counter(), set(), []
  for context in words.load_homographs(str(data / "words" / "homographs.tsv.xz")):
    sentence, _, _, word, sense = context
    if counts[word, sense] < SENTENCES_PER_SENSE and sentence not in seen:
      counts[word, sense] += 1
      seen.add(sentence)
      kept.append(context)
  senses = collections.Counter(word for (word, _), n in counts.items() if n > 1)
  return [context for context in kept if senses[context[3]] > 1]


def english(data: pathlib.Path) -> tuple[list[Document], list[Context]]:
  """What an English model reads, and the words in context that are part of it."""
  contexts = homographs(data)
  return [
    *xnli(data, "en", "xnli"),
    *lines(data / "english" / "valid.txt", "novel", NOVEL_BYTES),
    *(Document("homographs", context[0]) for context in contexts),
  ], contexts


def multilingual(data: pathlib.Path) -> list[Document]:
  """What a multilingual model reads: XNLI by language, and the Spanish validation."""
  documents = [d for name in LANGUAGES for d in xnli(data, name, name)]
  path = data / "multilingual" / "es.valid.txt"
  return documents + lines(path, "es_valid", NOVEL_BYTES)


def count_words(path: pathlib.Path) -> collections.Counter:
  """How often words come in the beginning of a training text."""
  with path.open("rb") as file:
    text = file.read(FREQUENCY_BYTES).decode(errors="ignore")
  return collections.Counter(re.findall(r"\w+", text.lower()))


def take(trace: Trace, labels: Sequence[str]) -> Trace:
  """The part of a trace that is of documents with these labels."""
  return trace.select(np.isin(trace.label_T.astype(str), labels))
