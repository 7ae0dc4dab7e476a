"""Texts of the TPU compiler that are not one operation a line."""

import math

import pytest

from mhmoe_jax.plan.costs import read_costs
from mhmoe_jax.plan.hlo import Program

# A kernel with metadata, as Pallas leaves it, and what is made of its result.
KERNEL = """\
HloModule m

ENTRY %main (x: bf16[8,64]) -> bf16[8,64] {
  %x = bf16[8,64]{1,0} parameter(0), metadata={op_name="x{ \\"}\\" {"}
  %gmm.1 = (bf16[8,64]{1,0}, bf16[8,64]{1,0}) custom-call(%x), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"name":"gmm {",
"tiling":"{\\"tile_m\\": 512, \\"} %y = \\": 1}"
},same_cost="1"}, metadata={op_name="gmm"}, \
backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":\
{"flops":"1000","bytes_accessed":"200"}}}
  %y = bf16[8,64]{1,0} get-tuple-element(%gmm.1), index=1, \
frontend_attributes={kernel_metadata={
"name":"gmm {"
}}, metadata={op_name="gmm"}
  ROOT %z = bf16[8,64]{1,0} negate(%y)
}, execution_thread="sparsecore"
"""


def test_an_operation_goes_on_until_its_braces_are_closed():
  costs = read_costs(KERNEL, 1.0, math.inf)
  assert costs.flops == 1000
  assert costs.bytes == 200 + 2 * 8 * 64 * 2
  (ops,) = Program(KERNEL).computations.values()
  assert list(ops) == ["x", "gmm.1", "y", "z"]
  assert ops["y"].attributes.endswith('metadata={op_name="gmm"}')


def test_an_operation_without_an_end():
  with pytest.raises(ValueError, match=r"must close its braces, got   %gmm\.1 = "):
    Program(KERNEL.split("}, execution_thread")[0].replace("}}}", "}}"))
