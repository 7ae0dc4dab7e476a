"""Lists of ambiguous words, from files with tab-separated columns.

The formats are those of the Wikipedia Homograph Data (sentences with a labelled word),
of counts of WordNet senses, and of Spanish and Portuguese false friends.
"""

import csv
import lzma


def load_homographs(path: str) -> list[tuple[str, int, int, str, str]]:
  """Sentence, bytes where the word starts and stops, word, sense, of every row.

  Columns: homograph, wordid (the sense), sentence, start, end.
  """
  rows = _read(path, ("homograph", "wordid", "sentence", "start", "end"))
  return [(s, int(a), int(b), word, sense) for word, sense, s, a, b in rows]


def load_sense_counts(path: str) -> dict[str, int]:
  """Number of senses of every lemma, summed over parts of speech.

  Columns: lemma, pos, n_senses. Lemmas of several words are left out.
  """
  counts: dict[str, int] = {}
  for lemma, count in _read(path, ("lemma", "n_senses")):
    if lemma.isalpha():
      counts[lemma.lower()] = counts.get(lemma.lower(), 0) + int(count)
  return counts


def load_false_friends(
  path: str,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
  """Pairs of words that look alike: false friends (label 0), and cognates (label 1).

  The columns es, pt and a last one with the label.
  """
  with _open(path) as file:
    rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
  pairs: dict[str, list[tuple[str, str]]] = {"0": [], "1": [], "-1": []}
  for row in rows:
    *_, label = row.values()
    pairs[label].append((row["es"], row["pt"]))
  return pairs["0"], pairs["1"]


def _read(path: str, names: tuple[str, ...]) -> list[tuple[str, ...]]:
  with _open(path) as file:
    reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = set(names) - set(reader.fieldnames or ())
    if missing:
      raise ValueError(
        f"a word list must have the columns {', '.join(names)}, got no "
        f"{', '.join(sorted(missing))} in {path}."
      )
    return [tuple(row[name] for name in names) for row in reader]


def _open(path: str):
  opener = lzma.open if path.endswith(".xz") else open
  return opener(path, "rt", encoding="utf-8", newline="")
