"""Commands are called as the reader called `mhmoe`, and quoted."""

import shlex
import sys

import pytest

from mhmoe_jax.cli import shell


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """A folder with the programs of an environment, in a folder with a space."""
  folder = tmp_path / "my venv" / "bin"
  folder.mkdir(parents=True)
  for name in ("mhmoe", "tensorboard"):
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PATH", "/usr/bin")
  monkeypatch.setattr(sys, "argv", ["my venv/bin/mhmoe"])
  return folder


def test_program_by_its_path(installed):
  assert shell.program() == "'my venv/bin/mhmoe'"
  assert shell.program("tensorboard") == "'my venv/bin/tensorboard'"


def test_program_by_its_name(installed, monkeypatch):
  monkeypatch.setenv("PATH", str(installed))
  monkeypatch.setattr(sys, "argv", [str(installed / "mhmoe")])
  assert shell.program() == "mhmoe"
  assert shell.program("tensorboard") == "tensorboard"


def test_program_where_the_name_is_of_another(installed, monkeypatch, tmp_path):
  (tmp_path / "mhmoe").write_text("#!/bin/sh\n")
  (tmp_path / "mhmoe").chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path))
  assert shell.program() == "'my venv/bin/mhmoe'"


def test_program_as_a_module(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["/src/mhmoe_jax/cli/__main__.py"])
  python = shlex.quote(sys.executable)
  assert shell.program() == f"{python} -m mhmoe_jax.cli"
  assert shell.program("tensorboard") == f"{python} -m tensorboard.main"


def test_replace():
  argv = ["--config", "a.py", "-workdir=x", "--config.data.seed=1", "--out=y"]
  found = shell.replace(argv, config="b.py", workdir="z", out=None, shards=None, v=1)
  assert found == ["--config=b.py", "--workdir=z", "--config.data.seed=1", "--v=1"]
  again = shell.replace(["--config.data.seed=1"] * 2, config__data__seed=2)
  assert again == ["--config.data.seed=2"]


def test_command_is_quoted(installed):
  words = ["--workdir=my runs/a", "--prompt=$HOME; it's"]
  typed = shell.command("sample", words)
  assert shlex.split(typed) == ["my venv/bin/mhmoe", "sample", *words]
