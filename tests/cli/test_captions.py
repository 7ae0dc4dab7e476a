"""`mhmoe caption`: a line for each picture, and one for each that is none."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

from mhmoe_jax import cli
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.data.images.augment import squash
from mhmoe_jax.evals import meteor, perplexity
from mhmoe_jax.evals.captioning import Captioner
from mhmoe_jax.evals.captions import score
from mhmoe_jax.tasks.captioning_evaluation import CaptioningEvaluation
from mhmoe_jax.tasks.masked_evaluation import Part
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import small_captioning, small_masked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's folder, and what its model writes of five pictures beside it."""
  folder = tmp_path_factory.mktemp("captioning")
  config, draw = small_captioning(), np.random.RandomState(0)
  task = resolve(config).task
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  params = jax.tree.map(
    lambda x: jax.numpy.asarray(draw.normal(size=x.shape) * 0.4, x.dtype), shapes
  )
  with Checkpoints(folder, 1) as checkpoints:
    checkpoints.save(5, {"params": params}, {0: b""}, config.to_dict())
    checkpoints.wait()
  pictures = [draw.randint(256, size=(20 + i, 30, 3), dtype=np.uint8) for i in range(5)]
  for i, picture in enumerate(pictures):
    Image.fromarray(picture).save(folder / f"{i}.png")
  pixels = np.stack([squash(picture, 16) for picture in pictures])
  tokens_BT, worths_B = jax.jit(task.write)(params, pixels, np.ones(5, bool))
  texts = [" ".join(task.to_text(x).split()) for x in np.asarray(tokens_BT)]
  return folder, texts, np.asarray(worths_B)


def test_captions_of_many_pictures(run, capsys, tmp_path):
  """More than a batch; what cannot be read is named, and the others go on."""
  folder, texts, worths = run
  (folder / "2a.png").write_text("no picture")
  out = tmp_path / "out.jsonl"
  missing = folder / "gone.png"
  words = [f"--workdir={folder}", f"--images={folder}/*.png,{missing}", f"--out={out}"]
  assert cli.main(["caption", *words]) == 1
  said, errors = capsys.readouterr()
  names = [str(folder / f"{i}.png") for i in range(5)]
  assert said.splitlines() == [
    f"{name}\t{text}" for name, text in zip(names, texts, strict=True)
  ]
  assert len(set(texts)) > 1
  errors = [line for line in errors.splitlines() if line.startswith("mhmoe")]
  assert errors == [
    f"mhmoe caption: a picture must be PNG or JPEG, got neither in {folder}/2a.png.",
    f"mhmoe caption: cannot read {missing}: No such file or directory.",
    "mhmoe caption: 2 of 7 pictures could not be read",
  ]
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  assert [line["image"] for line in lines] == names
  assert [" ".join(line["caption"].split()) for line in lines] == texts
  np.testing.assert_allclose([line["score"] for line in lines], worths, atol=1e-4)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (
      ["--images=x/*.png"],
      "pictures must be files that are there, got none for 'x/*.png'.",
    ),
    (
      ["--images=x.png", "--out=no/x.jsonl"],
      "--out must be a file in a folder that exists, got no/x.jsonl.",
    ),
  ],
)
def test_what_is_not_there(run, capsys, words, message):
  assert cli.main(["caption", f"--workdir={run[0]}", *words]) == 1
  assert capsys.readouterr().err == f"mhmoe caption: error: {message}\n"


def test_eval_tells_all_scores(run, capsys, monkeypatch):
  """And METEOR, or what it needs; `meteor.in_words` has the lines."""
  texts, references = ["a dog on a mat"], [["a dog on a mat"]]
  scores = score(texts, references)
  found = CaptioningEvaluation(Part(1.0, 0.5, 10), texts, references, scores, {})
  monkeypatch.setattr(perplexity, "evaluate_model", lambda *args: found)
  monkeypatch.setattr(meteor, "meteor", lambda captions, references: 0.25)
  assert cli.main(["eval", f"--workdir={run[0]}"]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "validation      perplexity 2.718, 50.0% right, over 10 masked tokens",
    "captions        BLEU-4 1.000, ROUGE-L 1.000, CIDEr-D 0.000, of 1 pictures",
    "  written       a dog on a mat",
    "  reference     a dog on a mat",
    "METEOR          0.250 by nltk",
    "SPICE           needs Java, and the network to fetch CoreNLP.",
  ]


def test_a_run_of_another_task(tmp_path):
  cfg = resolve(small_masked(tmp_path))
  with pytest.raises(ValueError, match="needs a run of task captioning, got masked"):
    Captioner(cfg, None)
