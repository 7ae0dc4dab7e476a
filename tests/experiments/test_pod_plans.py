"""Pages and configs say of the pod configs what `mhmoe plan` printed."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "experiments/2611_pod_plans/run.py"


@pytest.fixture(scope="module")
def run():
  spec = importlib.util.spec_from_file_location("pod_plans", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_plan_is_there(run):
  assert len(run.read()) == len(run.PLANS)


def test_the_table(run):
  assert run.table(run.read()) in (ROOT / "docs/pods.md").read_text()


def test_the_sentences_of_the_configs(run):
  for row in run.read():
    text = (ROOT / "configs/pod" / f"{row['config']}.py").read_text()
    assert run.sentence(row) in " ".join(text.split())
