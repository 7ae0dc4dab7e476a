"""Where compiled programs are kept, and that a place that refuses stops nothing."""

import os
import time

import pytest

from mhmoe_jax.cli import compiled

DIR = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def chosen(monkeypatch, tmp_path):
  """`keep`, and what it chose."""
  monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})

  def run(workdir=None):
    compiled.keep(workdir)
    return os.environ.get(DIR)

  return run


def test_in_the_cache_of_the_user(chosen, tmp_path):
  folder = chosen("runs/tiny")
  assert folder.startswith(str(tmp_path / "mhmoe_jax"))
  assert os.path.isdir(folder)
  assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0.1"


def test_beside_a_run_in_a_bucket(chosen):
  assert chosen("gs://bucket/run").startswith("gs://bucket/run/compiled/")


def test_the_users_choice(chosen):
  os.environ |= {DIR: "gs://mine", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "9"}
  before = dict(os.environ)
  assert chosen("gs://bucket/run") == "gs://mine"
  assert os.environ == before


@pytest.mark.parametrize("home", ["a file", "~"])
def test_without_a_place_nothing_is_kept(chosen, tmp_path, home):
  if home == "a file":
    (tmp_path / "file").write_text("in the way")
    home = str(tmp_path / "file")
  os.environ["XDG_CACHE_HOME"] = home
  assert chosen() is None
  assert not os.path.exists("~")


def test_another_processor_has_another_folder(chosen, monkeypatch):
  first = chosen()
  del os.environ[DIR]
  monkeypatch.setattr(compiled, "_CPU", "no/such/file")
  monkeypatch.setattr(compiled.platform, "processor", lambda: "another")
  assert chosen() != first


def test_forgets_what_is_a_month_old(chosen):
  folder = chosen()
  for name, days in (("old", 31), ("new", 29)):
    path = os.path.join(folder, name)
    open(path, "w").close()
    os.utime(path, (time.time(), time.time() - days * 24 * 3600))
  del os.environ[DIR]
  assert os.listdir(chosen()) == ["new"]
