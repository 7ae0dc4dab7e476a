"""Writes captions.json: captions and what pycocoevalcap says of them.

  python -m pip install pycocoevalcap==1.2    (and Java, for Stanford's tokenizer)
  python tests/golden/make_captions.py

The captions are made up here: of unlike lengths, with words and whole captions that
repeat, one that is right to the word, one of which nothing is right, one empty.
"""

import contextlib
import io
import json
import pathlib

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

PICTURES = [
  (
    "A man's dog runs across the green grass.",
    [
      "A dog is running across the grass.",
      "The man's dog runs over a green field!",
      "A brown dog, running.",
    ],
  ),
  (
    "a small red circle and a large blue square",
    ["a small red circle and a large blue square"],
  ),
  (
    "Two women (in red) can't wait for the 3:30 p.m. train",
    [
      "Two well-dressed women in red cannot wait for the train.",
      "Women who don't want to wait; the train comes at 3:30 p.m.",
      '"The train\'s late", say two women.',
      "two women",
    ],
  ),
  ("zebra zebra zebra zebra", ["A black-and-white zebra stands still.", "one zebra"]),
  (
    "the the the the the the the",
    ["A red square in the top left.", "There is a red square in the top left corner"],
  ),
  ("", ["A bowl of fruit on a table...", "Fruit"]),
  (
    "purple giraffes sing",
    ["A bowl of 1,000 oranges costs $5.50 or 50%", "oranges / lemons & limes"],
  ),
  (
    "a man riding a wave on top of a surfboard",
    [
      "a man riding a wave on a surfboard in the ocean",
      "A surfer rides a large wave -- he's good at it.",
      "a person on a surfboard rides a wave",
      "a man on top of a wave",
      "Surfer on a wave in the o'clock sun",
    ],
  ),
  (
    "a circle",
    ["a small red circle and a large blue square and a tiny pink star and more of it"],
  ),
  (
    "a large blue square and a small red circle on the left of a green ring at the top",
    ["a square and a circle", "a large blue square and a circle on the left"],
  ),
]


def official(captions, references):
  """Scores of tokenised captions, {number: [text]}, as of `captions.score`."""
  with contextlib.redirect_stdout(io.StringIO()):
    bleus, _ = Bleu(4).compute_score(references, captions, verbose=0)
  scores = {f"bleu_{n}": float(x) for n, x in enumerate(bleus, 1)}
  scores["rouge_l"] = float(Rouge().compute_score(references, captions)[0])
  return scores | {"cider_d": float(Cider().compute_score(references, captions)[0])}


def tokenize(texts):
  """{number: [text]} by Stanford's tokenizer."""
  wrapped = {i: [{"caption": text} for text in found] for i, found in texts.items()}
  return PTBTokenizer().tokenize(wrapped)


def main():
  captions = tokenize({i: [caption] for i, (caption, _) in enumerate(PICTURES)})
  references = tokenize({i: texts for i, (_, texts) in enumerate(PICTURES)})
  golden = {
    "captions": [caption for caption, _ in PICTURES],
    "references": [texts for _, texts in PICTURES],
    "words of captions": [text.split() for (text,) in captions.values()],
    "words of references": [[t.split() for t in ts] for ts in references.values()],
    "scores": official(captions, references),
    "cider_d": Cider().compute_score(references, captions)[1].tolist(),
    "rouge_l": Rouge().compute_score(references, captions)[1].tolist(),
  }
  path = pathlib.Path(__file__).parent / "captions.json"
  path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
  main()
