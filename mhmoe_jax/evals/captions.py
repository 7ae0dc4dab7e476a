"""BLEU, ROUGE-L and CIDEr-D of captions, to the numbers of COCO's own evaluation.

That is pycocoevalcap, constants and all: BLEU-1 to -4 of all captions together, with
the closest reference's length (Papineni et al., 2002), ROUGE-L with beta 1.2 (Lin,
2004), CIDEr-D with n to 4 and sigma 6, times 10, and document frequencies of the
references given (1411.5726): it says little of a handful of pictures, and 0 of one.

It cuts captions to words with Stanford's tokenizer, in Java. `to_words` has its rules
as far as captions need them. Of others it leaves titles without their point ("Mr."),
"gimme" and words such as "rock'n'roll" whole, and web addresses in pieces.
"""

from collections import Counter
from collections.abc import Sequence
import math
import re

import numpy as np

Words = Sequence[str]

_MOST = 4  # words of an n-gram
_BETA = 1.2
_SIGMA = 6.0
# So that a precision of 0 is one of nearly 0; to be seen where no 4-gram is right.
_SMALL, _TINY = 1e-9, 1e-15

_SPLIT = (
  (re.compile("[\u2018\u2019\u201b`]"), "'"),
  (re.compile(r"(?<=\w)(n't|'(?:s|m|re|ve|d|ll))\b"), r" \1"),
  (re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b"), r"\1\3\5 \2\4\6"),
)
_WORD = re.compile(
  r"""(?:[^\W\d_]\.){2,}                 # p.m.
  | n't\b | '(?:s|m|re|ve|d|ll)\b        # did n't, it 's
  | \d+(?:[.,:/]\d+)*                    # 1,000 and 3:30, unless a letter follows
    (?!\w) (?!-\w)
  | \w+(?:[-/.@']\w+)*                   # well-dressed, and/or, o'clock
  | [^\w\s]""",
  re.VERBOSE,
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-"}
_BRACKETS |= {"{": "-lcb-", "}": "-rcb-"}
_PUNCTUATION = frozenset(".?!,:;'\"-\u2013\u2014\u2026\u201c\u201d")


def to_words(caption: str) -> list[str]:
  """Lower-case words, without punctuation: "A man's dog." to ["a", "man", "'s", "dog"].

  Brackets stay, as words of their own: the official list of punctuation has them in
  capitals, which it never meets.
  """
  text = caption.lower()
  for pattern, becomes in _SPLIT:
    text = pattern.sub(becomes, text)
  words = _WORD.findall(text)
  return [_BRACKETS.get(word, word) for word in words if word not in _PUNCTUATION]


def score(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
  """All scores of captions, each of a picture with one or more references.

  Returns:
    "bleu_1" to "bleu_4", "rouge_l" in [0, 1] and "cider_d" in [0, 10].

  Raises:
    ValueError: there are none, or a picture has no reference.
  """
  if not captions or len(captions) != len(references) or not all(references):
    raise ValueError(
      "every caption must have references, and there must be one, got "
      f"{len(captions)} captions, {sum(map(bool, references))} with references."
    )
  found = [to_words(caption) for caption in captions]
  wanted = [[to_words(text) for text in texts] for texts in references]
  scores = {f"bleu_{n}": float(x) for n, x in enumerate(bleu(found, wanted), 1)}
  scores["rouge_l"] = float(np.mean(list(map(rouge_l, found, wanted))))
  return scores | {"cider_d": float(np.mean(cider_d(found, wanted)))}


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]):
  """BLEU-1 to BLEU-4 of all captions together, (4,)."""
  right_n, made_n = np.zeros((2, _MOST))
  length = closest = 0
  for words, texts in zip(captions, references, strict=True):
    most = Counter()
    for text in texts:
      most |= _count(text)
    for gram, count in _count(words).items():
      right_n[len(gram) - 1] += min(count, most[gram])
      made_n[len(gram) - 1] += count
    length += len(words)
    closest += min((abs(len(text) - len(words)), len(text)) for text in texts)[1]
  precision_n = (right_n + _TINY) / (made_n + _SMALL)
  ratio = (length + _TINY) / (closest + _SMALL)
  brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
  return np.cumprod(precision_n) ** (1 / np.arange(1, _MOST + 1)) * brevity


def rouge_l(caption: Words, references: Sequence[Words]) -> float:
  """ROUGE-L of a caption: of precision and recall, each that of its best reference."""
  common = [_longest_common(caption, text) for text in references]
  precision = max(common) / max(len(caption), 1)
  recall = max(x / max(len(t), 1) for x, t in zip(common, references, strict=True))
  if not precision or not recall:
    return 0.0
  return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]):
  """CIDEr-D of each caption, (captions,)."""
  texts_of = [[_count(text) for text in texts] for texts in references]
  pictures_with = Counter()
  for texts in texts_of:
    pictures_with.update(set().union(*texts))

  def weigh(counts):
    """TF-IDF of the n-grams of a text, and their norm for each n."""
    weights, square_n = {}, np.zeros(_MOST)
    for gram, count in counts.items():
      rarity = math.log(len(captions)) - math.log(max(1, pictures_with[gram]))
      weights[gram] = count * rarity
      square_n[len(gram) - 1] += weights[gram] ** 2
    return weights, np.sqrt(square_n)

  scores = np.zeros(len(captions))
  for i, (words, texts) in enumerate(zip(captions, texts_of, strict=True)):
    mine, my_norm_n = weigh(_count(words))
    for text, counts in zip(references[i], texts, strict=True):
      theirs, norm_n = weigh(counts)
      dot_n = np.zeros(_MOST)
      for gram in mine.keys() & theirs.keys():
        dot_n[len(gram) - 1] += min(mine[gram], theirs[gram]) * theirs[gram]
      norm_n = norm_n * my_norm_n
      cosine_n = np.divide(dot_n, norm_n, out=np.zeros(_MOST), where=norm_n > 0)
      # The official code takes lengths in pairs of words.
      apart = max(len(words) - 1, 0) - max(len(text) - 1, 0)
      scores[i] += cosine_n.mean() * math.exp(-(apart**2) / (2 * _SIGMA**2))
    scores[i] *= 10 / len(texts)
  return scores


def _count(words: Words) -> Counter:
  """How often each n-gram is in a text, n from 1 to 4."""
  return Counter(
    tuple(words[i : i + n])
    for n in range(1, _MOST + 1)
    for i in range(len(words) - n + 1)
  )


def _longest_common(a: Words, b: Words) -> int:
  """Length of the longest common subsequence."""
  lengths = [0] * (len(b) + 1)
  for word in a:
    above_left = 0
    for j, other in enumerate(b, 1):
      above = lengths[j]
      lengths[j] = above_left + 1 if word == other else max(above, lengths[j - 1])
      above_left = above
  return lengths[-1]
