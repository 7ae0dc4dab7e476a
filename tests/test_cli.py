"""The commands of the README, and one clear line for whatever a user gets wrong."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from mhmoe_jax import cli
from mhmoe_jax.analysis.figures import figures
from mhmoe_jax.analysis.traces.trace import load_trace
from mhmoe_jax.evals import sampling
from tests.evals.records import HUB, write
from tests.reader import SMALL, TEXT

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def text(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text(TEXT * 20)
  return [
    "--config.data.source=text",
    f"--config.data.train={path}",
    f"--config.data.valid={path}",
  ]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def train(workdir, *more):
  config = ["--config=configs/tiny.py", f"--workdir={workdir}"]
  return cli.main(["train", *config, *SMALL, *more])


@pytest.mark.parametrize("ffn", ["mhmoe", "dense"])
def test_train_sample_eval(tmp_path, text, capsys, ffn):
  workdir = tmp_path / "run"
  assert train(workdir, f"--config.model.ffn={ffn}", *text) == 0
  shown = capsys.readouterr().out
  for word in ("parameters", "bits per byte", "tokens/s", "samples", "try next"):
    assert word in shown
  assert (workdir / "expert_load.png").exists() == (ffn == "mhmoe")
  assert ("active experts" in shown) == (ffn == "mhmoe")

  options = ["--prompt=the ", "--num_tokens=5", "--num_samples=2", "--top_k=9"]
  assert cli.main(["sample", f"--workdir={workdir}", *options]) == 0
  assert capsys.readouterr().out.count("the ") >= 2

  other = tmp_path / "other.txt"
  other.write_text("pack my box with five dozen liquor jugs\n")
  assert cli.main(["eval", "--workdir", str(workdir), f"--text={other}"]) == 0
  shown = capsys.readouterr().out
  assert "bits per byte" in shown
  assert "40 bytes" in shown

  traced = tmp_path / "traced"
  command = ["routing", "trace", f"--workdir={workdir}", f"--data={other}"]
  status = cli.main([*command, f"--out={traced}", "--step=2", "--unit=line"])
  if ffn == "dense":
    assert status == 1
    assert "a trace needs a model with MoE layers" in capsys.readouterr().err
    return
  assert status == 0
  shown = capsys.readouterr()
  assert "39 tokens of run, step 2" in shown.out
  assert "98% of the text" in shown.err  # the line end belongs to no document
  assert "".join(load_trace(traced).text_T) == other.read_text().strip()

  drawn = tmp_path / "drawn"
  assert cli.main(["routing", "figures", f"--trace={traced}", f"--out={drawn}"]) == 0
  assert "wrote activation.png, run_load.png" in capsys.readouterr().out
  assert (drawn / "activation.png").exists()

  page = tmp_path / "report.html"
  command = ["routing", "report", f"--trace={traced}", f"--compare={traced}"]
  assert cli.main([*command, f"--out={page}"]) == 0
  assert f"wrote {page}" in capsys.readouterr().out
  assert (
    "<title>Routing of run step 2 (0) and run step 2 (1)</title>" in page.read_text()
  )
  assert cli.main([*command, f"--earlier={traced}", f"--out={page}"]) == 1
  assert "different steps, got steps [2, 2]" in capsys.readouterr().err


LIGHT = """
import sys
from mhmoe_jax import cli

run = {run!r}
assert cli.main(["sample", run, "--num_tokens=2"]) == 0
assert cli.main(["eval", run, "--text=" + {text!r}]) == 0
assert cli.main(["routing", "trace", run, "--data=" + {text!r}, "--out={out}/a"]) == 0
assert not {{"tensorflow", "seqio", "matplotlib"}} & sys.modules.keys()
assert cli.main(["routing", "report", "--trace={out}/a", "--out={out}/a.html"]) == 0
assert cli.main(["routing", "figures", "--trace={out}/a", "--out={out}/b"]) == 0
assert not {{"tensorflow", "seqio", "matplotlib.pyplot"}} & sys.modules.keys()
"""


def test_what_comes_after_training(tmp_path, text, capsys, monkeypatch):
  """It cannot fail a run that is trained, nor does it wait for tensorflow."""

  def fail(*args, **kwargs):
    raise KeyError(263)

  monkeypatch.setattr(sampling, "sample_texts", fail)
  monkeypatch.setattr(figures, "draw_load", fail)
  assert train(tmp_path / "run", *text) == 0
  shown = capsys.readouterr()
  assert [x for x in shown.err.splitlines() if "warning" in x] == [
    "mhmoe train: warning: the figure of expert load failed: KeyError: 263",
    "mhmoe train: warning: samples failed: KeyError: 263",
  ]
  assert "try next" in shown.out

  path = text[1].partition("train=")[2]
  script = LIGHT.format(run=f"--workdir={tmp_path}/run", text=path, out=tmp_path)
  # A plotting backend that is not there.
  env = os.environ | {"MPLBACKEND": "none_such", "JAX_NUM_CPU_DEVICES": "1"}
  run = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, env=env
  )
  assert run.returncode == 0, run.stderr


def test_tokenizer_then_prepare_then_train_with_both(tmp_path, text, capsys):
  model = tmp_path / "small.model"
  config = ["--config=configs/tiny.py", *text]
  command = ["tokenizer", *config, "--vocab_size=300", f"--out={model}"]
  assert cli.main(command) == 0
  assert str(model) in capsys.readouterr().out
  vocabulary = f"--config.data.vocabulary={model}"
  assert train(tmp_path / "a", vocabulary, *text) == 1
  error = capsys.readouterr().err
  assert "model.vocab_size must be at least the vocabulary's size, got" in error
  ready = tmp_path / "ready"
  assert cli.main(["prepare", *config, vocabulary, f"--out={ready}"]) == 0
  shown = capsys.readouterr()
  assert f"--config.data.prepared={ready}" in shown.out
  assert "train  100%" in shown.err
  assert " tokens/s  0s left" in shown.err
  more = [vocabulary, f"--config.data.prepared={ready}", *text]
  assert train(tmp_path / "b", *more, "--config.model.vocab_size=300") == 0


def last_error(capsys):
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith("mhmoe ")
  return error.split("error: ", 1)[1]


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    (
      "model.moe.num_heads=3",
      "num_heads must divide embed_dim, got num_heads=3, embed_dim=16.",
    ),
    (
      "model.moe.top_k=17",
      "top_k must be at most num_experts, got top_k=17, num_experts=16.",
    ),
    (
      "model.moe.capacity_factor=0.0",
      "capacity_factor must be positive, got capacity_factor=0.0.",
    ),
    (
      "model.vocab_size=100",
      "model.vocab_size must be at least the vocabulary's size, got",
    ),
    ("mesh.data=16", "the mesh must not be larger than the number of devices, got"),
    ("mesh.data=3", "replica * data * expert of the mesh must divide batch_size, got"),
    (
      "data.sequence_length=1",
      "sequence_length must be at least 2, got sequence_length=1.",
    ),
    ("modle.ffn=dense", "modle"),
    ("model.widht=3", "widht"),
    ("model.embed_dim=wide", "wide"),
  ],
)
def test_impossible_settings(tmp_path, capsys, flag, message):
  assert train(tmp_path / "run", f"--config.{flag}") == 1
  assert message in last_error(capsys)


def test_a_mistyped_row_of_a_config(tmp_path, capsys):
  config = "--config=configs/paper2/redpajama.py:smoo"
  assert cli.main(["train", config, f"--workdir={tmp_path}"]) == 1
  error = last_error(capsys)
  assert error.startswith("the row must be one of dense, smoe, finegrained, mhmoe_h2, ")
  assert error.endswith("got 'smoo'.")


@pytest.mark.parametrize("problem", ["missing", "empty", "not UTF-8"])
def test_bad_data_files(tmp_path, capsys, problem):
  path = tmp_path / "bad.txt"
  if problem == "empty":
    path.write_bytes(b"")
  elif problem == "not UTF-8":
    path.write_bytes(b"fine so far \xff\xfe")
  files = [f"--config.data.{split}={path}" for split in ("train", "valid")]
  assert train(tmp_path / "run", "--config.data.source=text", *files) == 1
  error = last_error(capsys)
  assert str(path) in error
  if problem == "not UTF-8":
    assert "12" in error  # the offset


def test_checkpoint_of_another_model(tmp_path, text, capsys):
  assert train(tmp_path / "run", *text) == 0
  capsys.readouterr()
  assert train(tmp_path / "run", "--config.model.moe.expert_dim=12", *text) == 1
  error = last_error(capsys)
  assert "is of another model" in error
  assert "(2, 16, 4, 8)" in error
  assert "(2, 16, 4, 12)" in error


def test_unwritable_workdir(tmp_path, capsys):
  (tmp_path / "file").write_text("in the way")
  run = tmp_path / "file" / "run"
  assert train(run) == 1
  assert last_error(capsys) == f"cannot write to {run}: Not a directory."


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["train"], "train needs --config"),
    (["train", "--config=configs/none.py", "--workdir=x"], "configs/none.py"),
    (["sample", "--workdir=nowhere"], "no checkpoint under "),
    (["eval"], "eval needs --workdir"),
    (["harness"], "harness needs --workdir"),
    (["sample", "--workdir=x", "--top_p=2"], "top_p"),
    (
      ["plan", "--config=configs/tiny.py", "--mesh=data=0"],
      "mesh sizes must be at least 1 (or data=-1), got replica=1, data=0, ",
    ),
    (["plan", "--config=configs/tiny.py", "--mesh=expert=-2"], "data=-1, expert=-2, "),
    (["plan", "--config=configs/tiny.py", "--config.mesh.model=0"], "model=0."),
    (["train", "config", "--config=configs/tiny.py", "--workdir=x"], "'config'"),
    (["sample", "--wrokdir=x"], "wrokdir"),
  ],
)
def test_bad_commands(capsys, argv, message):
  assert cli.main(argv) == 1
  assert message in last_error(capsys)


@pytest.mark.parametrize("argv", [[], ["fly"], ["help"]])
def test_usage(capsys, argv):
  assert cli.main(argv) == (argv != ["help"])
  assert "mhmoe VERB" in capsys.readouterr().out


def test_config_is_kept_with_the_checkpoint(tmp_path, text):
  assert train(tmp_path / "run", *text) == 0
  about = tmp_path / "run" / "checkpoints" / "2" / "run" / "about.json"
  assert json.loads(about.read_text())["config"]["model"]["embed_dim"] == 16


def test_harness(tmp_path, text, capsys):
  workdir, out = tmp_path / "run", tmp_path / "results.json"
  assert train(workdir, *text) == 0
  data = write(tmp_path / "tasks", {task: HUB[task] for task in ("piqa", "xnli_sw")})
  capsys.readouterr()
  command = ["harness", f"--workdir={workdir}", f"--data={data}"]
  options = ["--tasks=piqa,xnli_sw", "--limit=1", "--max_length=64", f"--out={out}"]
  assert cli.main([*command, *options, "--config.mesh.data=2"]) == 0
  shown = capsys.readouterr()
  assert "Tasks" in shown.out
  assert "acc_norm" in shown.out
  assert "5 of 5 requests" in shown.err
  saved = json.loads(out.read_text())
  assert saved["run"]["step"] == 2
  assert saved["results"]["piqa"]["sample_len"] == 1

  def refuses(message, *options):
    assert cli.main([*command, *options]) == 1
    assert message in last_error(capsys)

  refuses("got 'piqua'; near it are ", "--tasks=piqua")
  refuses(f"task rte needs a file in {data}, looked for rte.jsonl, as", "--tasks=rte")
  refuses("no checkpoint 1 under ", "--tasks=piqa", "--step=1")
  refuses("harness needs --tasks")
  write(tmp_path / "tasks", {"piqa": [HUB["piqa"][0] | {"sol1": "x" * 16}]})
  refuses("a continuation must have from 1 to 16 tokens, the", "--tasks=piqa")


def test_plan(capsys):
  command = ["plan", "--config=configs/tiny.py:dense", *SMALL[:5]]
  assert cli.main([*command, "--json", "--mesh=data=2,expert=4,fsdp=true"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert list(found) == ["parameters", "flops_per_token", "bytes", "rivals"]
  assert found["rivals"][0]["name"] == "dense"
  assert cli.main([*command, "--mesh=data=2,experts=4"]) == 1
  assert "got 'experts=4'" in capsys.readouterr().err


def test_plan_for_a_pod(capsys):
  command = ["plan", "--config=configs/tiny.py:dense", *SMALL[:5], "--mesh=data=4"]
  assert cli.main([*command, "--topology=v5e:2x2"]) == 0
  shown = capsys.readouterr().out
  for word in ("fits", "arguments", "MFU at most", "compiled in"):
    assert word in shown
  assert cli.main([*command, "--topology=v5e:9"]) == 1
  assert "such as v5p:4x4x4, got 'v5e:9'." in capsys.readouterr().err
  assert cli.main([*command, "--slices=2"]) == 1
  assert "--slices, --sweep and --rounds need a --topology" in capsys.readouterr().err
