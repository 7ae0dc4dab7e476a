"""Runs of masked modelling through the loop: resumed, sharded, drawn, refused."""

import json
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from mhmoe_jax import cli
from mhmoe_jax.analysis.traces.trace import load_trace
from mhmoe_jax.checkpoints import restore
from mhmoe_jax.codes import saved
from mhmoe_jax.sharding import FSDP, make_mesh
from mhmoe_jax.train import loop
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.metrics import read_metrics
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import abstract_state
from tests.tasks.pictures import small_masked

PARTS = ("image", "text", "pair/image", "pair/text")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of 4 steps: its config, its folder, what it returned."""
  folder = tmp_path_factory.mktemp("whole")
  config = small_masked(folder)
  config.optimizer.schedule = "constant"  # So that its length changes nothing.
  result = loop.train(config, str(folder / "run"))
  return config, folder / "run", result


@pytest.fixture
def config(whole):
  return whole[0].copy_and_resolve_references()


def same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(x, y)


def test_what_a_run_leaves(whole):
  _, folder, result = whole
  assert list(result.pictures) == ["filled_in_image", "filled_in_pair"]
  for picture in result.pictures.values():
    assert picture.dtype == np.uint8
    assert picture.std() > 10
  last = read_metrics(folder / "metrics.jsonl")[-1]
  for name in PARTS:
    for metric in ("loss", "perplexity", "accuracy"):
      key = f"{name}/{metric}"
      assert last[f"valid/{key}"] == pytest.approx(result.evaluation.scalars()[key])
  rows = [r for r in read_metrics(folder / "metrics.jsonl") if "loss" in r]
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  for name in PARTS:
    for metric in ("loss", "accuracy", "local_entropy", "router/max_load"):
      assert np.isfinite(rows[-1][f"{name}/{metric}"])
  assert {modality: x.shape for modality, x in result.evaluation.loads.items()} == {
    "image": (1, 2, 4),
    "text": (1, 2, 4),
  }
  assert saved.load(str(folder / "image_tokenizer")).fitted_to["picture_size"] == 16


def test_goes_on_as_if_nothing_had_been(whole, config, tmp_path, capsys):
  """Killed behind the visual vocabulary, then behind step 2; it is fitted once."""
  _, folder, result = whole
  workdir = tmp_path / "run"
  shutil.copytree(folder / "image_tokenizer", workdir / "image_tokenizer")
  (workdir / "image_tokenizer.begun").mkdir()
  written = (workdir / "image_tokenizer" / "arrays.npz").stat().st_mtime_ns
  config.train.num_steps = 2
  loop.train(config, str(workdir))
  assert (workdir / "image_tokenizer" / "arrays.npz").stat().st_mtime_ns == written
  shutil.rmtree(workdir / "image_tokenizer")  # It is in the checkpoint.
  config.train.num_steps = 4
  again = loop.train(config, str(workdir))
  assert "image tokenizer" not in capsys.readouterr().err
  same(again.params, result.params)
  assert again.evaluation.scalars() == result.evaluation.scalars()
  same(again.pictures, result.pictures)


def test_another_vocabulary(whole, config, tmp_path):
  """Of a run that has begun: refused, even where other data would be accepted."""
  _, folder, _ = whole
  run = shutil.copytree(folder, tmp_path / "run")
  codes = str(run / "image_tokenizer")
  config.data.codes.path = codes
  config.train.num_steps = 6
  for accept in (False, True):
    with pytest.raises(ValueError, match="must go on with the visual vocabulary that"):
      loop.train(config, str(run), accept)
  # At the beginning: of other patches, of another size, damaged, of another config.
  fresh = str(tmp_path / "fresh")
  for change, message in [
    ({"patch_size": 8}, "got patch_size=4 in .*image_tokenizer, patch_size=8."),
    ({"num_codes": 9}, "got num_codes=8 in .*image_tokenizer, num_codes=9."),
  ]:
    other = config.copy_and_resolve_references()
    other.model.update(change)
    with pytest.raises(ValueError, match=message):
      loop.train(other, fresh)
  config.data.codes.kind = "vqvae"
  with pytest.raises(ValueError, match="got 'vqvae' and 'kmeans' of"):
    loop.train(config, fresh)
  config.data.codes.kind, config.data.codes.path = "kmeans", ""
  shutil.copytree(codes, f"{fresh}/image_tokenizer")
  config.data.codes.steps = 2
  with pytest.raises(
    ValueError, match=r"must be that of its config, got codes {.*remov"
  ):
    loop.train(config, fresh)
  arrays = tmp_path / "fresh" / "image_tokenizer" / "arrays.npz"
  arrays.write_bytes(arrays.read_bytes()[:-1])
  with pytest.raises(ValueError, match="is damaged; fit it again"):
    loop.train(config, fresh)


def test_eight_devices_as_one(whole, config, tmp_path):
  """Parameters over `data`, experts over `expert`."""
  _, folder, result = whole
  workdir = tmp_path / "run"
  shutil.copytree(folder / "image_tokenizer", workdir / "image_tokenizer")
  config.mesh.update({"data": 4, "expert": 2, "fsdp": True})
  found = loop.train(config, str(workdir))
  for x, y in zip(
    jax.tree.leaves(found.params), jax.tree.leaves(result.params), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)
  assert found.evaluation.scalars() == pytest.approx(
    result.evaluation.scalars(), rel=1e-3
  )


def test_every_parameter_is_split(config):
  """Over `data` all matrices, over `expert` all experts, over `model` heads."""
  cfg = resolve(config)
  mesh = make_mesh(data=2, expert=2, model=2)
  optimizer = make_optimizer(cfg.optimizer, 4)
  state = abstract_state(cfg.task, optimizer, mesh, FSDP)
  for path, x in jax.tree_util.tree_leaves_with_path(state["params"]):
    name = jax.tree_util.keystr(path)
    axes = {a for axis in x.sharding.spec for a in (axis if axis else ())} | {
      axis for axis in x.sharding.spec if isinstance(axis, str)
    }
    letters = path[-1].key.rsplit("_", 1)[-1]
    if len(letters) == 1:
      continue  # Vectors stay whole.
    for letter, axis in {
      "E": "expert",
      "A": "model",
      "F": "model",
      "D": "data",
    }.items():
      assert (letter not in letters) or axis in axes, name
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state["fixed"]))


def test_the_verbs(whole, tmp_path, capfd):
  """Evaluated again it is the same; what needs a language model says so in a line."""
  _, folder, result = whole
  run = f"--workdir={folder}"
  assert cli.main(["eval", run]) == 0
  assert capfd.readouterr().out.splitlines() == result.evaluation.in_words()
  (tmp_path / "text.txt").write_text("a fox\n")
  text, out = tmp_path / "text.txt", f"--out={tmp_path / 'out'}"
  for verb, *more in (
    ["sample"],
    ["eval", f"--text={text}"],
    ["export", out],
    ["routing", "trace", f"--data={text}", out],
  ):
    assert cli.main([verb, *more, run]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "needs a run of task language, got masked." in line, verb
  params = restore.load_model(str(folder))[1]
  same(params, result.params)


def mistakes(folder):
  """By name: flags, and what the line says."""
  Image.new("RGB", (9, 5)).save(folder / "a.png")
  (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nhello")

  def index(name, *records):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / name).write_text(lines)
    path = folder / name
    return [
      "--config.data.pairs.source=files",
      f"--config.data.pairs.train={path}",
      f"--config.data.pairs.valid={path}",
    ]

  good = {"image": "a.png", "caption": "a fox"}
  return {
    "picture size": (
      ["--config.model.picture_size=18"],
      "patch_size must divide picture_size, got patch_size=4, picture_size=18.",
    ),
    "mask ratio": (
      ["--config.data.mask.image=1.5"],
      "mask ratios must be between 0 and 1, got image=1.5.",
    ),
    "vocabulary": (
      ["--config.model.vocab_size=259"],
      "got model.vocab_size=259, 259 tokens in 'bytes'.",
    ),
    "window": (
      ["--config.model.text_length=60"],
      "got text_length=60, sequence_length=64, pair_length=216.",
    ),
    "no vocabulary": (
      [f"--config.data.codes.path={folder}/codes"],
      f"as the verb image-tokenizer writes it, got {folder}/codes.",
    ),
    "no index": (
      [*index("x.jsonl", good), f"--config.data.pairs.valid={folder}/none.jsonl"],
      f"cannot read the index {folder}/none.jsonl",
    ),
    "no picture": (
      index("0.jsonl", {"caption": "a"}),
      f"must have a path in 'image', got the fields caption in line 1 of {folder}",
    ),
    "no text": (
      index("1.jsonl", good, {"image": "a.png"}),
      f"the field 'caption', got the fields image of line 2 of {folder}/1.jsonl.",
    ),
    "missing": (
      index("2.jsonl", {"image": "c.png", "caption": "a"}),
      f"cannot read {folder}/c.png: No such file or directory.",
    ),
    "damaged": (
      index("3.jsonl", {"image": "b.png", "caption": "a"}),
      f"a picture must be PNG or JPEG, got neither in {folder}/b.png.",
    ),
    "long": (
      [*index("4.jsonl", good | {"caption": "x" * 215})],
      f"got 215 tokens, pair_length=216, of {folder}/a.png.",
    ),
  }


def test_mistakes_are_one_line(tmp_path, capfd):
  """Before anything is compiled or written."""
  run = tmp_path / "run"
  command = ["train", "--config=configs/tiny_multimodal.py", f"--workdir={run}"]
  for name, (flags, message) in mistakes(tmp_path).items():
    assert cli.main([*command, "--config.mesh.data=1", *flags]) == 1, name
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line, name
  assert not run.exists()


def test_its_pictures_are_traced(whole, tmp_path, capsys):
  """With the generator's captions, and of files, of which one cannot be read."""
  _, folder, _ = whole
  trace = ["routing", "trace", f"--workdir={folder}"]
  pairs = tmp_path / "pairs"
  assert cli.main([*trace, f"--out={pairs}", "--pairs", "--max_pictures=3"]) == 0
  assert "3 pictures of run, step 4" in capsys.readouterr().out
  made = load_trace(pairs)
  assert made.meta.pools == ("image", "text")
  assert len(made.documents) == 3
  assert made.documents[0].text.startswith("a ")
  assert np.isfinite(made.pictures.texture_URC).all()

  files = tmp_path / "files"
  files.mkdir()
  for name, size in (("b", 20), ("c", 31)):
    Image.fromarray(np.full((size, 16, 3), size, np.uint8)).save(files / f"{name}.png")
  (files / "a.png").write_bytes(b"")
  out = tmp_path / "some"
  assert cli.main([*trace, f"--out={out}", f"--images={files}/*.png"]) == 1
  shown = capsys.readouterr()
  assert f"wrote {out}: 2 pictures of run" in shown.out
  first, last = shown.err.splitlines()
  assert first.endswith(f"a picture must not be empty, got 0 bytes in {files}/a.png.")
  assert last == "mhmoe routing: 1 could not be read; they are named above."
  assert load_trace(out).pictures.names == [f"{files}/b.png", f"{files}/c.png"]
  assert {document.label for document in load_trace(out).documents} == {"files"}

  for flags, message in (
    (
      [f"--images={files}/*.jpg"],
      "pictures must be files that are there, got none for",
    ),
    (["--images="], "pictures must be files that are there, got none for ''."),
    ([f"--images={files}/a.png"], "a trace must have at least one picture, got none."),
    (
      [f"--images={files}/b.png", "--pairs"],
      "pictures with a text must be in an index",
    ),
    ([f"--images={files}/b.png", "--data=x"], "takes --data or --images, got both."),
    (["--data=README.md"], "a trace of text needs a run of task language, got masked."),
  ):
    assert cli.main([*trace, f"--out={tmp_path / 'no'}", *flags]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1], flags
  assert not (tmp_path / "no").exists()
