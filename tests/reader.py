"""A reader who types the commands of a page, one after another, in a shell.

The folder is that of a clone after `make train`, with a model of a few parameters in
runs/tiny and a few lines of everybody's own text. Every command goes through the real
flag parser with its real config. What costs minutes, a TPU or a network ends there:
training (`loop.train`) and planning (`report.plan_model`, `compile_step`). A program
that the reader has never heard of is an error: nothing is passed over.
"""

import argparse
import importlib.metadata
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
import tensorflow_datasets as tfds

from mhmoe_jax import cli, sharding
from mhmoe_jax.evals import asking, captioning
from mhmoe_jax.interop import upcycling
from mhmoe_jax.plan import compile as aot
from mhmoe_jax.plan import report, sweep
from mhmoe_jax.tasks import run_codes
from mhmoe_jax.train import loop
from mhmoe_jax.train.config import resolve
from tests.evals.records import HUB, write

ROOT = pathlib.Path(__file__).parent.parent
SMALL = [
  "--config.model.num_layers=2",
  "--config.model.embed_dim=16",
  "--config.model.num_attention_heads=2",
  "--config.model.ffn_dim=16",
  "--config.model.moe.expert_dim=8",
  "--config.data.sequence_length=16",
  "--config.mesh.data=1",
  "--config.train.num_steps=2",
]
TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"


def furnish(folder: pathlib.Path) -> None:
  """Makes the folder of a reader: a clone, and texts of their own."""
  for name in ("configs", "experiments", "mhmoe_jax", "notebooks", "docs", "Makefile"):
    (folder / name).symlink_to(ROOT / name)
  for name in ("README.md", "held_out.txt", "books/one.txt", "books/two.txt"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(TEXT * 20)
  for name in ("x.png", "pictures/1.png"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
  write(folder / "tasks", {task: HUB[task] for task in ("arc_easy", "piqa")})


def commands(page: str) -> list[str]:
  """The commands of the shell in a page's fences, whole lines, without comments."""
  fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
  blocks = [text for language, text in fences if language in ("", "bash", "sh")]
  lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
  return [line for line in lines if shlex.split(line, comments=True)]


class Reader:
  """Types commands in the current folder; an AssertionError says what does not run."""

  def __init__(self, monkeypatch, model: pathlib.Path):
    self._model = model  # the workdir of a trained one
    shutil.copytree(model, "runs/tiny")
    monkeypatch.setattr(loop, "train", self._train)
    monkeypatch.setattr(report, "plan_model", self._count)
    monkeypatch.setattr(report, "plan_step", self._compile)
    monkeypatch.setattr(sweep, "compile_step", self._compile)
    monkeypatch.setattr(upcycling, "upcycle", self._upcycle)
    monkeypatch.setattr(run_codes, "fit", self._fit)
    monkeypatch.setattr(asking, "ask", self._ask)
    monkeypatch.setattr(captioning, "Captioner", self._caption)
    self.trained = []  # configs, as `loop.train` got them

  def type(self, line: str) -> None:
    words = shlex.split(os.path.expandvars(line), comments=True)
    self._set = {}
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # NAME=value COMMAND
      name, _, self._set[name] = words[0].partition("=")
      words = words[1:]
    name = pathlib.Path(words[0]).name
    if words[:3] == [sys.executable, "-m", "mhmoe_jax.cli"]:
      name, words = "mhmoe", words[2:]
    if words[:3] == [sys.executable, "-m", "tensorboard.main"]:
      name, words = "tensorboard", words[2:]
    programs = {
      "export": self._export,
      "git": self._git,
      "jupyter": self._jupyter,
      "make": self._make,
      "mhmoe": self._mhmoe,
      "pip": self._pip,
      "python": self._python,
      "source": self._source,
      "tensorboard": self._tensorboard,
      "tfds": self._tfds,
    }
    assert name in programs, f"tests/reader.py does not know {words[0]!r}: {line}"
    programs[name](words[1:])

  def _mhmoe(self, words):
    if words[:2] == ["routing", "trace"] and {"--pairs", "--images"} & {*words}:
      words = self._trace_text(words[2:])
    try:
      code = cli.main(words)
    except _TrainedEnough:
      code = 0
    assert code == 0, shlex.join(words)

  def _trace_text(self, words):
    """Of a trace of pictures, for which there is no model: its flags, one of text."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--pairs", action="store_true")
    for name in ("workdir", "images", "out"):
      parser.add_argument(f"--{name}")
    given = parser.parse_args(words)
    text = f"--data={ROOT / 'README.md'}"
    return [
      "routing",
      "trace",
      f"--workdir={given.workdir}",
      f"--out={given.out}",
      text,
    ]

  def _train(self, config, workdir, *_):
    """What `mhmoe train` calls: the config is whole, and there would be a model."""
    cfg = resolve(config)
    self.trained.append(cfg)
    if not os.path.exists(workdir) and "://" not in workdir:
      os.makedirs(os.path.dirname(os.path.abspath(workdir)), exist_ok=True)
      shutil.copytree(self._model, workdir)
    raise _TrainedEnough

  def _upcycle(self, workdir, config, out):
    """What `mhmoe upcycle` calls: the config is whole; runs/dense is no dense model."""
    resolve(config)
    assert os.path.exists(workdir), workdir
    raise _TrainedEnough

  def _fit(self, data, codes, picture_size, folder, tell):
    """What `mhmoe image-tokenizer` calls: the config is whole."""
    raise _TrainedEnough

  def _ask(self, cfg, params, image, question):
    """What `mhmoe ask` calls: there is a model, be it of text."""
    assert image, question
    raise _TrainedEnough

  def _caption(self, cfg, mesh):
    """What `mhmoe caption` calls: there is a picture, and a model, be it of text."""
    raise _TrainedEnough

  def _count(self, cfg):
    """What `mhmoe plan` calls: the config is whole."""
    raise _TrainedEnough

  def _compile(self, cfg, topology, slices=1, quick=False, rounds=1):
    """What `mhmoe plan --topology` calls: the topology has devices for the mesh."""
    devices = aot.devices_of(topology, slices)
    mesh = cfg.mesh
    made = sharding.make_mesh(
      mesh.replica, mesh.data, mesh.expert, mesh.model, devices=devices
    )
    assert made.size == len(devices), made
    raise _TrainedEnough

  def _make(self, words):
    made = ["make", "--dry-run", "--directory", str(ROOT), *words]
    subprocess.run(made, check=True, capture_output=True)

  def _pip(self, words):
    assert words[0] == "install", words
    if words[1] == "-r":
      assert (ROOT / words[2]).is_file(), words
      return
    rest = iter(words[1:])
    for word in rest:
      if word == "--constraint":
        assert (ROOT / next(rest)).is_file(), words
        continue
      if word == "--editable":
        continue
      word = re.sub(r"^\.(?=\[|$)", "mhmoe_jax", word)
      if word.startswith("git+"):
        continue
      requirement = Requirement(word.partition(" @ ")[0])
      known = (ROOT / "requirements-dev.txt").read_text()
      if requirement.name == "mhmoe_jax":
        about = importlib.metadata.metadata("mhmoe_jax")
        extras = set(about.get_all("Provides-Extra") or ())
        assert requirement.extras <= extras, word
      else:
        assert re.search(rf"^{re.escape(requirement.name)}==", known, re.MULTILINE), (
          word
        )

  def _python(self, words):
    script = ROOT / words[0]
    assert script.is_file(), words
    source = script.read_text()
    # A script finds what lies beside it, and the package; not what else is here.
    beside = (path.read_text() for path in script.parent.glob("*.py"))
    if any(
      re.search(r"^(from|import) (configs|experiments)\b", x, re.M) for x in beside
    ):
      assert self._set.get("PYTHONPATH") == ".", f"{words[0]} needs PYTHONPATH=."
    for word in words[1:]:
      if word.startswith("--"):
        assert word.partition("=")[0] in source, f"{words[0]} has no {word}"

  def _source(self, words):
    assert words == [".venv/bin/activate"], words
    assert "VENV ?= .venv\n" in (ROOT / "Makefile").read_text()

  def _tensorboard(self, words):
    assert words[0] == "--logdir", words
    assert os.path.isdir(words[1]), f"{words[1]} is no folder"

  def _tfds(self, words):
    assert words[0] == "build", words
    assert words[1].split("/")[0] in tfds.list_builders(), words

  def _jupyter(self, words):
    assert words[0] == "lab", words
    assert all((ROOT / word).exists() for word in words[1:]), words

  def _git(self, words):
    assert words[0] == "clone", words

  def _export(self, words):
    assert all("=" in word for word in words), words


class _TrainedEnough(Exception):
  """A command came as far as the work that it would do for minutes."""
