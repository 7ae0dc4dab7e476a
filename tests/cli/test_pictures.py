"""`mhmoe image-tokenizer`: from pictures to a folder, and one line for mistakes."""

import json
import re

import numpy as np
import pytest

from mhmoe_jax import cli
from mhmoe_jax.codes import saved

SMALL = ["--picture_size=16", "--patch_size=4", "--codes=16", "--steps=3"]


def run(out, *more):
  return cli.main(["image-tokenizer", f"--out={out}", *SMALL, *more])


def test_shapes(tmp_path, capsys):
  out = tmp_path / "codes"
  assert run(out, "--num_pictures=60") == 0
  shown = capsys.readouterr()
  assert "step 3/3" in shown.err
  line = r"16 codes in use, code perplexity \d+\.\d, PSNR \d+\.\d dB\n"
  assert re.search(line, shown.out)
  assert f"{out}/reconstructions.png" in shown.out
  found = saved.load(str(out))
  assert f"fingerprint {found.fingerprint}" in shown.out
  assert (out / "reconstructions.png").exists()

  assert run(out, "--num_pictures=60") == 1
  assert "must have a folder of its own" in capsys.readouterr().err


def test_pictures_of_ones_own(tmp_path, capsys):
  """Every picture is used once, whatever its size; --kind=vqvae."""
  draw = np.random.RandomState(0)
  images = draw.randint(0, 256, (9, 20, 24, 3)).astype(np.uint8)
  np.savez(tmp_path / "own.npz", images=images)
  lines = [json.dumps({"id": i}) for i in range(9)]
  (tmp_path / "own.jsonl").write_text("\n".join(lines))
  out = tmp_path / "codes"
  options = ["--source=npz", f"--train={tmp_path / 'own.npz'}", "--kind=vqvae"]
  assert run(out, *options) == 0
  found = saved.load(str(out))
  assert found.statistics.pictures == 9
  assert found.vocabulary.kind == "vqvae"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--patch_size=5"], "a multiple of patch_size, got patch_size=5, height=16, wid"),
    (["--codes=999"], "as many patches as codes, got num_codes=999, 320 patches in 20"),
    (["--source=npz", "--train=nothing.npz"], "cannot read nothing.npz: "),
    (["--source=npz"], "source='npz' needs train and valid, got train=''"),
    (["--kind=vae"], "--kind=vae: value should be one of <kmeans|vqvae>"),
    (["--out="], "image-tokenizer needs --out"),
  ],
)
def test_mistakes(tmp_path, capsys, flags, message):
  assert run(tmp_path / "codes", "--num_pictures=20", *flags) == 1
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not (tmp_path / "codes").exists()
