"""The page beside MaxText says what was measured; its kernels count once."""

import importlib.util
import math
import pathlib

import pytest

from mhmoe_jax.plan.costs import read_costs

FOLDER = pathlib.Path(__file__).parents[2] / "experiments/2612_maxtext_step"
KERNEL = """\
HloModule m

ENTRY %main (x: bf16[512,64], w: bf16[4,64,32]) -> bf16[512,32] {
  %x = bf16[512,64]{1,0} parameter(0)
  %w = bf16[4,64,32]{2,1,0} parameter(1)
  ROOT %gmm.1 = bf16[512,32]{1,0} custom-call(%x, %w), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"tiling":"{}"
}}, backend_config={"custom_call_config":{"cost_estimate":\
{"flops":"9000000","bytes_accessed":"9000000"}}}
}
"""


@pytest.fixture
def run(monkeypatch):
  monkeypatch.syspath_prepend(FOLDER)
  spec = importlib.util.spec_from_file_location("maxtext_step", FOLDER / "run.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_tables(run):
  assert {run.key_of(row) for row in run.read()} == set(run.programs())
  assert run.describe(run.read()) in (FOLDER / "README.md").read_text()


def test_grouped_products_count_the_rows_of_an_even_load(run):
  """Where a buffer has twice as many, and each array is moved once."""
  costs = read_costs(run.peer.state_kernels(KERNEL, 256), 1.0, math.inf)
  assert costs.flops == 2 * 256 * 64 * 32
  assert costs.bytes == 2 * (256 * 64 + 256 * 32 + 4 * 64 * 32)
  assert read_costs(KERNEL, 1.0, math.inf).flops == 9_000_000
