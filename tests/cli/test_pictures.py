"""`mhmoe image-tokenizer`: from the pictures of a config to a folder."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from mhmoe_jax import cli
from mhmoe_jax.codes import saved

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
  "model.picture_size": 16,
  "model.patch_size": 4,
  "model.num_codes": 16,
  "data.codes.num_pictures": 60,
  "data.codes.steps": 3,
}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def run(out, **changes):
  words = SMALL | {name.replace("__", "."): x for name, x in changes.items()}
  flags = [f"--config.{name}={x}" for name, x in words.items()]
  config = "--config=configs/tiny_multimodal.py"
  return cli.main(["image-tokenizer", config, f"--out={out}", *flags])


def test_shapes(tmp_path, capsys):
  out = tmp_path / "codes"
  assert run(out) == 0
  shown = capsys.readouterr()
  assert "step 3/3" in shown.err
  line = r"16 codes in use, code perplexity \d+\.\d, PSNR \d+\.\d dB in 60 pictures\n"
  assert re.match(line, shown.out)
  assert f"{out}/reconstructions.png" in shown.out
  assert (out / "reconstructions.png").exists()
  found = saved.load(str(out))
  assert f"fingerprint {found.fingerprint}" in shown.out
  words = shlex.split(shown.out.splitlines()[-1])
  assert words[words.index("train") + 1 :] == [
    "--config=configs/tiny_multimodal.py",
    *[f"--config.{name}={x}" for name, x in SMALL.items()],
    "--workdir=runs/codes",
    f"--config.data.codes.path={out}",
  ]

  assert run(out) == 1
  assert "must have a folder of its own" in capsys.readouterr().err


def test_pictures_of_ones_own(tmp_path):
  """Every picture is used once, whatever its size."""
  draw = np.random.RandomState(0)
  images = draw.randint(0, 256, (9, 20, 24, 3)).astype(np.uint8)
  path = tmp_path / "own.npz"
  np.savez(path, images=images)
  (tmp_path / "own.jsonl").write_text("\n".join([json.dumps({"id": 0})] * 9))
  own = {"source": "npz", "train": path, "valid": path}
  own = {
    f"data__{k}__{name}": x for k in ("images", "pairs") for name, x in own.items()
  }
  out = tmp_path / "codes"
  assert run(out, data__codes__kind="vqvae", **own) == 0
  found = saved.load(str(out))
  assert found.statistics.pictures == 18
  assert found.vocabulary.kind == "vqvae"
  assert found.fitted_to["images"]["source"] == "npz"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model__patch_size": 5}, "patch_size"),
    ({"model__num_codes": 999}, "as codes, got num_codes=999, 960 patches in 60 pictu"),
    ({"data__codes__kind": "vae"}, "kind must be one of kmeans, vqvae, got"),
    ({"data__images__source": "npz"}, "source='npz' needs train and valid, got train="),
    ({"out": ""}, "image-tokenizer needs --out"),
  ],
)
def test_mistakes(tmp_path, capsys, changes, message):
  assert run(**({"out": tmp_path / "codes"} | changes)) == 1
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not (tmp_path / "codes").exists()


def test_a_config_without_pictures(tmp_path, capsys):
  words = ["--config=configs/tiny.py", f"--out={tmp_path}"]
  assert cli.main(["image-tokenizer", *words]) == 1
  message = "image-tokenizer needs a run of task masked, got language.\n"
  assert capsys.readouterr().err.endswith(message)
