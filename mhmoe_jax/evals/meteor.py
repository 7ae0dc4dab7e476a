"""What of COCO's caption scores needs more than numpy: METEOR, and SPICE, in words.

METEOR is nltk's (the extra `eval`), which matches words, stems and, by WordNet,
synonyms. It is not METEOR 1.5 of COCO's evaluation, which also matches paraphrases and
weighs otherwise: do not compare the two. SPICE parses captions with Stanford's CoreNLP.
"""

from collections.abc import Sequence

from mhmoe_jax.evals.captions import to_words


def in_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
  """A line for METEOR and one for SPICE: the score, or what it needs."""
  try:
    found = f"{meteor(captions, references):.3f} by nltk"
  except ValueError as error:
    found = str(error).removeprefix("METEOR ")
  spice = "needs Java, and the network to fetch CoreNLP."
  return [f"METEOR          {found}", f"SPICE           {spice}"]


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
  """The mean of METEOR over captions, each by its best reference.

  Raises:
    ValueError: nltk is not installed, or has no WordNet.
  """
  try:
    from nltk.translate.meteor_score import meteor_score
  except ImportError:
    raise ValueError("METEOR needs nltk, of the extra eval.") from None
  try:
    scores = [
      meteor_score([to_words(text) for text in texts], to_words(caption))
      for caption, texts in zip(captions, references, strict=True)
    ]
  except LookupError:  # nltk's own message has thirty lines.
    raise ValueError(
      "METEOR needs WordNet, which nltk does not bring: python -m nltk.downloader "
      "wordnet."
    ) from None
  return sum(scores) / len(scores)
