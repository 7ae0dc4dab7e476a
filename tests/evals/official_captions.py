"""Caption scores beside pycocoevalcap's own computation, where that is installed.

Not of the suite, since it is 104 MB and Java:

  python -m pip install pycocoevalcap==1.2
  python -m pytest tests/evals/official_captions.py
"""

import json
import pathlib

import numpy as np
import pytest

from mhmoe_jax.evals import captions
from tests.golden import make_captions


@pytest.mark.parametrize("seed", range(20))
def test_captions_of_random_words(seed):
  draw = np.random.RandomState(seed)

  def text():
    return " ".join(map(str, draw.randint(0, 12, draw.randint(0, 15))))

  made = {i: [text()] for i in range(30)}
  references = {
    i: [f"{text()} 0".strip() for _ in range(draw.randint(1, 6))] for i in made
  }
  found = captions.score([t for (t,) in made.values()], list(references.values()))
  for name, score in make_captions.official(made, references).items():
    np.testing.assert_allclose(found[name], score, atol=1e-6, rtol=0, err_msg=name)


def test_the_golden_numbers_are_of_today(tmp_path):
  path = pathlib.Path(make_captions.__file__).parent / "captions.json"
  golden = json.loads(path.read_text())
  texts = dict(enumerate(golden["references"]))
  words = make_captions.tokenize(texts)
  assert [[t.split() for t in w] for w in words.values()] == golden[
    "words of references"
  ]
