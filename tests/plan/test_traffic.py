"""What is read and written, in small programs by hand and by the TPU compiler."""

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
import pytest

from mhmoe_jax.plan.chips import CHIPS
from mhmoe_jax.plan.compile import devices_of
from mhmoe_jax.plan.costs import read_costs


def moved(entry: str, computations: str = "") -> float:
  main = f"ENTRY %main (a: s32[]) -> s32[] {{\n{entry}\n}}"
  return read_costs(f"HloModule m\n{computations}\n{main}", 1.0, 1.0).bytes


# A step of a backward pass: two stacks over layers, of which a layer is written. The
# second comes without having been there before.
STACKS = """
%two (p0: f32[100,16], p1: f32[1,16], p2: f32[100,16], p3: s32[]) -> (f32[100,16]) {
  %p0 = f32[100,16]{1,0} parameter(0)
  %p1 = f32[1,16]{1,0} parameter(1)
  %p2 = f32[100,16]{1,0} parameter(2)
  %p3 = s32[] parameter(3)
  %zero = f32[] constant(0)
  %zeros = f32[100,16]{1,0} broadcast(%zero), dimensions={}
  %one = f32[100,16]{1,0} dynamic-update-slice(%p0, %p1, %p3, %p3)
  %bits = f32[100,16]{1,0} bitcast(%p2)
  %other = f32[100,16]{1,0} dynamic-update-slice(ORIGIN, %p1, %p3, %p3)
  ROOT %both = (f32[100,16]{1,0}, f32[100,16]{1,0}) tuple(%one, %other)
}
"""
STEP = """
  %a = f32[100,16]{1,0} parameter(0)
  %b = f32[1,16]{1,0} parameter(1)
  %c = f32[100,16]{1,0} parameter(2)
  %d = s32[] parameter(3)
  ROOT %f = (f32[100,16]{1,0}, f32[100,16]{1,0}) fusion(%a, %b, %c, %d), \
kind=kLoop, calls=%two"""


def test_several_stacks_are_changed_in_place():
  row, index = 16 * 4, 4
  assert moved(STEP, STACKS.replace("ORIGIN", "%bits")) == row + index + 2 * row


def test_a_stack_that_was_not_there_is_written_whole():
  row, index = 16 * 4, 4
  written = row + 100 * row
  assert moved(STEP, STACKS.replace("ORIGIN", "%zeros")) == row + index + written


def test_what_is_passed_on_beside_is_copied():
  passed = STACKS.replace("tuple(%one, %other)", "tuple(%one, %p2)")
  row, index = 16 * 4, 4
  assert moved(STEP, passed.replace("ORIGIN", "%bits")) == pytest.approx(
    row + index + 100 * row + row + 100 * row
  )


# The largest of 16 numbers in each of 100 rows, and where it is.
LARGEST = """
%inner (p0: f32[100,16]) -> (f32[100], s32[100,8]) {
  %p0 = f32[100,16]{1,0} parameter(0)
  ROOT %r = (f32[100]{0}, s32[100,8]{1,0}) reduce(%p0, %p0), dimensions={1}
}

%outer (p1: f32[100,16]) -> (f32[100], s32[100,8]) {
  %p1 = f32[100,16]{1,0} parameter(0)
  ROOT %i = (f32[100]{0}, s32[100,8]{1,0}) fusion(%p1), kind=kLoop, calls=%inner
}
"""


@pytest.mark.parametrize("calls", ["inner", "outer"])
def test_several_results_of_one_operation(calls):
  entry = f"""
  %a = f32[100,16]{{1,0}} parameter(0)
  ROOT %f = (f32[100]{{0}}, s32[100,8]{{1,0}}) fusion(%a), kind=kLoop, calls=%{calls}"""
  assert moved(entry, LARGEST) == 6400 + 400 + 3200


@pytest.mark.parametrize(
  ("line", "count"),
  [
    # Into VMEM, S(1), and between two places in HBM.
    ("(f32[4]{0:S(1)}, f32[4]{0}, u32[]{:S(2)}) copy-start(%a)", 16),
    ("(f32[4]{0}, f32[4]{0}, u32[]{:S(2)}) copy-start(%a)", 32),
    ("(f32[4]{0:S(1)}, f32[4]{0:S(1)}, u32[]{:S(2)}) copy-start(%a)", 0),
    ("((f32[4]{0}), f32[1]{0:S(1)}, s32[]{:S(2)}) slice-start(%a)", 4),
    ("((f32[4]{0}), f32[1]{0}, s32[]{:S(2)}) slice-start(%a)", 8),
    ("(f32[]{:S(1)}, f32[]{}, u32[]{:S(2)}) copy-start(%a)", 4),
  ],
)
def test_what_is_copied_beside(line, count):
  assert moved(f"  %a = f32[4]{{0}} parameter(0)\n  ROOT %s = {line}") == count


# libtpu 0.0.52 for v5p, a row of 64 numbers for each of 16384 indices.
SPARSECORE = """
%gather (p0: bf16[100,64], p1: s32[16384]) -> bf16[16384,64] {
  %p0 = bf16[100,64]{1,0} parameter(0)
  %p1 = s32[16384]{0} parameter(1)
  %inside = s32[16384]{0} custom-call(%p1), \
custom_call_target="AssumeGatherIndicesInBound"
  ROOT %g = bf16[16384,64]{1,0} gather(%p0, %inside), offset_dims={1}
}

%there (p2: bf16[100,64], p3: s32[16384]) -> bf16[16384,64] {
  %p2 = bf16[100,64]{1,0} parameter(0)
  %p3 = s32[16384]{0} parameter(1)
  ROOT %offload = bf16[16384,64]{1,0} fusion(%p2, %p3), kind=kCustom, calls=%gather
}, execution_thread="sparsecore"

%beside (p4: bf16[100,64], p5: s32[16384]) -> bf16[16384,64] {
  %p4 = bf16[100,64]{1,0} parameter(0)
  %p5 = s32[16384]{0} parameter(1)
  ROOT %call = bf16[16384,64]{1,0} custom-call(%p4, %p5), \
custom_call_target="TODO(b/522284627)", called_computations={%there}
}, execution_thread="sparsecore"
"""


def test_gathers_of_a_sparsecore():
  """Rows are read as often as they are asked for, however few there are."""
  entry = """
  %a = bf16[100,64]{1,0} parameter(0)
  %i = s32[16384]{0} parameter(1)
  %s = ((bf16[100,64]{1,0}, s32[16384]{0}), bf16[16384,64]{1,0}, u32[]) \
async-start(%a, %i), async_execution_thread="sparsecore", calls=%beside
  ROOT %d = bf16[16384,64]{1,0} async-done(%s)"""
  rows = 16384 * 64 * 2
  assert moved(entry, SPARSECORE) == 2 * rows + 4 * 16384


def test_numbers_in_a_row_are_written():
  assert moved("  ROOT %i = s32[16384]{0} iota(), iota_dimension=0") == 4 * 16384


def test_the_cheaper_branch_counts():
  branches = """
%much (p0: f32[100]) -> f32[100] {
  %p0 = f32[100]{0} parameter(0)
  %r = f32[100]{0} negate(%p0)
  ROOT %n = f32[100]{0} negate(%r)
}

%little (p1: f32[100]) -> f32[100] {
  %p1 = f32[100]{0} parameter(0)
  ROOT %m = f32[100]{0} negate(%p1)
}

%sent (p2: f32[100]) -> f32[100] {
  %p2 = f32[100]{0} parameter(0)
  %q = f32[100]{0} all-to-all(%p2), replica_groups={{0,1}}
  %o = f32[100]{0} all-to-all(%q), replica_groups={{0,1}}
  ROOT %w = f32[100]{0} all-to-all(%o), replica_groups={{0,1}}
}
"""
  entry = """
  %a = f32[100]{0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %c = f32[100]{0} conditional(%i, %a, %a, %a), \
branch_computations={%much, %little, %sent}"""
  assert moved(entry, branches) == 2 * 400


@pytest.fixture
def little_effort():
  """Nothing is fetched into VMEM beforehand, which the compiler counts as well."""
  level = jax.config.jax_optimization_level
  jax.config.update("jax_optimization_level", "O1")
  yield
  jax.config.update("jax_optimization_level", level)


PROGRAMS = {
  "product": (lambda a, b: a @ b, [(512, 256), (256, 1024)]),
  "sum": (lambda a, b: a + b, [(1024, 512), (1024, 512)]),
  "a few columns": (lambda a, b: a + b, [(100_000, 3), (100_000, 3)]),
  "odd widths": (lambda a, b: jnp.concatenate([a, b], 1), [(512, 1000), (512, 1048)]),
  "norm": (lambda a: jax.nn.standardize(a, axis=-1), [(2048, 512)]),
}


@pytest.mark.parametrize(("function", "shapes"), PROGRAMS.values(), ids=PROGRAMS)
def test_the_compiler_says_the_same(function, shapes, little_effort):
  """Its estimate, which takes 85 % of the peak rates, where it has one."""
  (device, *_) = devices_of("v5p:2x2x1")
  layout = SingleDeviceSharding(device)
  inputs = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=layout) for s in shapes]
  compiled = jax.jit(function).lower(*inputs).compile()
  chip = CHIPS["v5p"]
  costs = read_costs(compiled.as_text(), chip.flops, chip.bandwidth)
  about = compiled.cost_analysis()
  assert costs.bytes == pytest.approx(about["bytes accessed"], rel=0.01)
  assert costs.seconds == pytest.approx(0.85 * about["optimal_seconds"], rel=0.02)
