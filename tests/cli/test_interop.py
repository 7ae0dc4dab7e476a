"""The verbs import, export and upcycle, and training on from what they made."""

import pathlib

import pytest
from safetensors.numpy import load_file

from mhmoe_jax import cli
from mhmoe_jax.checkpoints import saved

ROOT = pathlib.Path(__file__).parent.parent.parent
GOLDEN = "tests/interop/golden/llama"
MOE = [
  "--config=configs/base.py",
  "--config.model.moe_every=1",
  "--config.model.moe.shared_dim=24",
  "--config.mesh.data=1",
  *(
    f"--config.model.{name}={value}"
    for name, value in {
      "vocab_size": 40,
      "num_layers": 2,
      "embed_dim": 16,
      "num_kv_heads": 2,
      "head_dim": 6,
      "activation": "swiglu",
      "norm_epsilon": 1e-3,
      "tie_embeddings": False,
      "scale_embeddings": False,
    }.items()
  ),
]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def test_in_out_and_upcycled(tmp_path, capsys):
  run, out, new = (str(tmp_path / name) for name in ("run", "out", "new"))
  mesh = ["--config.mesh.data=1", "--config.train.seed=3"]
  assert cli.main(["import", f"--from={GOLDEN}", f"--workdir={run}", *mesh]) == 0
  shown = capsys.readouterr().out
  assert f"wrote {run}: llama, 5,968 parameters, vocabulary bytes" in shown
  # Shorter than the default is told as well: it was never trained on so many.
  assert "--config.data.sequence_length=64 asks for it" in shown
  own = [f"--workdir={run}_own", "--config.data.sequence_length=64", *mesh]
  assert cli.main(["import", f"--from={GOLDEN}", *own]) == 0
  assert "the model was made for" not in capsys.readouterr().out
  assert saved.load_config(run)["train"]["seed"] == 3

  assert cli.main(["export", f"--workdir={run}", f"--out={out}", "--shard_mb=1"]) == 0
  assert f"wrote {out}: 1 file of safetensors" in capsys.readouterr().out
  found = load_file(f"{out}/model.safetensors")
  expected = load_file(f"{GOLDEN}/model.safetensors")
  assert found.keys() == expected.keys()
  assert all((found[name] == x).all() for name, x in expected.items())

  assert cli.main(["upcycle", f"--workdir={run}", f"--out={new}", *MOE]) == 0
  shown = capsys.readouterr().out
  assert f"wrote {new}: it computes what the dense model does, to the last bit" in shown
  assert saved.load_config(new)["model"]["ffn"] == "mhmoe"


def test_a_run_is_trained_on_by_its_own_config(tmp_path, capsys):
  """Without --config; what is wrong with its vocabulary is found in that."""
  run = str(tmp_path)
  cli.main(["import", f"--from={GOLDEN}", f"--workdir={run}", "--config.mesh.data=1"])
  assert cli.main(["train", f"--workdir={run}", "--config.train.num_steps=1"]) == 1
  assert "vocab_size=40" in capsys.readouterr().err
  assert cli.main(["train", f"--workdir={run}/other"]) == 1
  assert "train needs --config" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["import", "--workdir=x"], "import needs --from"),
    (["import", "--from=nowhere", "--workdir={}"], "cannot read nowhere/config.json"),
    (["export"], "export needs --workdir"),
    (["export", "--workdir=nowhere", "--out=x"], "no checkpoint under"),
    (["upcycle", "--workdir=x", "--out=y"], "upcycle needs --config"),
    (["upcycle", "--workdir=x", "--out=y", *MOE], "no checkpoint under"),
  ],
)
def test_bad_commands(tmp_path, capsys, argv, message):
  assert cli.main([word.format(tmp_path) for word in argv]) == 1
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert message in line
