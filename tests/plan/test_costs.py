"""Programs small enough to add up by hand, in the words of the TPU compiler."""

import math

import pytest

from mhmoe_jax.plan.collectives import Collective
from mhmoe_jax.plan.costs import read_costs
from mhmoe_jax.plan.hlo import Program

# A loop of ten turns around a product and an all-reduce that is started inside one
# fusion and goes on in another; then a kernel, an update in place, and two gathers.
MODULE = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%product (p0: bf16[8,64], p1: bf16[64,32]) -> bf16[8,32] {
  %p0 = bf16[8,64]{1,0} parameter(0)
  %p1 = bf16[64,32]{1,0} parameter(1)
  %reduce.a = f32[16]{0} all-reduce(%p0), channel_id=7, \
replica_groups={{0,1},{2,3}}, frontend_attributes={chain_id="0"}
  ROOT %conv = bf16[8,32]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%rest (p2: bf16[8,32]) -> bf16[8,32] {
  %p2 = bf16[8,32]{1,0} parameter(0)
  %reduce.b = f32[16]{0} all-reduce(%p2), channel_id=7, \
replica_groups={{0,1},{2,3}}, frontend_attributes={chain_id="0"}
  ROOT %neg = bf16[8,32]{1,0} negate(%p2)
}

%update (p3: f32[100,16], p4: f32[1,16], p5: s32[]) -> f32[100,16] {
  %p3 = f32[100,16]{1,0} parameter(0)
  %p4 = f32[1,16]{1,0} parameter(1)
  %p5 = s32[] parameter(2)
  ROOT %dus = f32[100,16]{1,0} dynamic-update-slice(%p3, %p4, %p5, %p5)
}

%body (c: (s32[], bf16[8,64], s32[])) -> (s32[], bf16[8,64], s32[]) {
  %c = (s32[], bf16[8,64]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = bf16[8,64]{1,0} get-tuple-element(%c), index=1
  %w = bf16[64,32]{1,0:T(8,128)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %f1 = bf16[8,32]{1,0} fusion(%x, %w), kind=kOutput, calls=%product
  %f2 = bf16[8,32]{1,0} fusion(%f1), kind=kLoop, calls=%rest
  %n = s32[] get-tuple-element(%c), index=2
  ROOT %out = (s32[], bf16[8,64]{1,0}, s32[]) tuple(%next, %x, %n)
}

%test (d: (s32[], bf16[8,64], s32[])) -> pred[] {
  %d = (s32[], bf16[8,64]{1,0}, s32[]) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  %end = s32[] BOUND
  ROOT %lt = pred[] compare(%j, %end), direction=LT
}

ENTRY %main (a: bf16[8,64], t: f32[100,16]) -> f32[100,16] {
  %a = bf16[8,64]{1,0} parameter(0)
  %t = f32[100,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %zero.copy = s32[] copy(%zero)
  %ten = s32[] constant(10)
  %start = (s32[], bf16[8,64]{1,0}, s32[]) tuple(%zero.copy, %a, %ten)
  %loop = (s32[], bf16[8,64]{1,0}, s32[]) while(%start), condition=%test, body=%body
  %k = f32[1,16]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"x(","cost_estimate":{"flops":"500",\
"transcendentals":"0","bytes_accessed":"70"}}}
  %ag = f32[8,16]{1,0} all-gather(%k), channel_id=9, replica_groups=[2,4]<=[8]
  %ag.2 = f32[8,16]{1,0} all-gather(%k), channel_id=9, replica_groups=[2,4]<=[8]
  ROOT %u = f32[100,16]{1,0} fusion(%t, %k, %zero), kind=kLoop, calls=%update
}
"""


SHORT = {"(%j, %end)": "(%d#0, %end)", "(%i, %one)": "(%c#0, %one)"}


@pytest.mark.parametrize("short", [{}, SHORT])
@pytest.mark.parametrize("bound", ["constant(10)", "get-tuple-element(%d), index=2"])
def test_a_loop_counts_as_often_as_it_runs(bound, short):
  text = MODULE.replace("BOUND", bound)
  for long, shorthand in short.items():
    assert long in text
    text = text.replace(long, shorthand)
  costs = read_costs(text, 100.0, 10.0)
  product = 2 * 8 * 64 * 32
  assert costs.flops == 10 * product + 500
  assert costs.unknown_loops == 0
  assert costs.collectives == [
    Collective("all-reduce", 2, 10, 10 * 2 * 8 * 64),
    Collective("all-gather", 4, 2, 2 * 4 * 8 * 16),
  ]
  # The weight is in VMEM, and of the table one row is written.
  x, y, row = 2 * 8 * 64, 2 * 8 * 32, 4 * 16
  counters = 10 * 3 * 4 + 2 * 4  # additions and a copy of an integer
  update = row + 4 + row
  assert costs.bytes == counters + 10 * (x + y + 2 * y) + 70 + update
  assert costs.seconds == pytest.approx(
    (counters + update + 10 * 2 * y + 70) / 10 + 10 * product / 100, rel=0.01
  )


def test_a_loop_that_depends_on_data_counts_as_often_as_one_says():
  bound = "get-tuple-element(%d), index=1"
  costs = read_costs(MODULE.replace("BOUND", bound), 1.0, 1.0)
  assert costs.flops == 2 * 8 * 64 * 32 + 500
  assert costs.unknown_loops == 1
  costs = read_costs(MODULE.replace("BOUND", bound), 1.0, 1.0, turns=3)
  assert costs.flops == 3 * 2 * 8 * 64 * 32 + 500
  assert costs.unknown_loops == 1


BATCHED = """\
HloModule m

ENTRY %main (a: bf16[6,8,64], b: bf16[6,64,32]) -> bf16[6,8,32] {
  %a = bf16[6,8,64]{2,1,0} parameter(0)
  %b = bf16[6,64,32]{2,1,0} parameter(1)
  ROOT %c = bf16[6,8,32]{2,1,0} convolution(%a, %b), ATTRIBUTES
}
"""


@pytest.mark.parametrize(
  "attributes",
  [
    "window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf",
    "window={size=6 pad=5_5 rhs_reversal=1 stride=1}, dim_labels=0bf_0io->0bf",
  ],
)
def test_a_batch_of_products_is_a_convolution(attributes):
  """Six products of (8, 64) and (64, 32); of 6 x 6 places of the window 6 are real."""
  costs = read_costs(BATCHED.replace("ATTRIBUTES", attributes), 1.0, math.inf)
  real = 6 if "dilate" in attributes else 21
  assert costs.flops == 2 * real * 8 * 64 * 32


ATTENTION = """\
HloModule m

ENTRY %main (s: s8[1,2,2], q: bf16[3,4,256,64]) -> bf16[3,4,256,64] {
  %s = s8[1,2,2]{2,1,0} parameter(0)
  %q = bf16[3,4,256,64]{3,2,1,0} parameter(1)
  ROOT %NAME.1 = bf16[3,4,256,64]{3,2,1,0} custom-call(%s, %s, %q, %q, %q), \
custom_call_target="tpu_custom_call"
}
"""


@pytest.mark.parametrize(
  ("name", "products"),
  [
    ("splash_mha_fwd_segmented_residuals", 2),
    ("splash_mha_dq_segmented_no_residuals", 3),
    ("splash_mha_dkv_segmented_no_residuals", 4),
    ("another_kernel", 0),
  ],
)
def test_attention_states_no_cost(name, products):
  """Of the two by two blocks of its mask, three are at or under the diagonal."""
  costs = read_costs(ATTENTION.replace("NAME", name), 1.0, math.inf)
  assert costs.flops == products * 2 * 3 * 4 * 256 * 256 * 64 * 3 / 4


def test_what_long_lists_count_is_no_part_of_a_type():
  """Types in a tuple of many, from which a kernel's operands are taken."""
  q, rest = "bf16[3,4,256,64]{3,2,1,0}", ", ".join(["s8[1,2,2]{2,1,0}"] * 5)
  text = f"""HloModule m

ENTRY %main (t: (s8[1,2,2], bf16[3,4,256,64])) -> bf16[3,4,256,64] {{
  %t = ({rest}, /*index=5*/s32[7]{{0}}, {q}) parameter(0)
  ROOT %splash_mha_fwd.1 = {q} custom-call(%t#0, %t#1, %t#2, %t#3, %t#4, \
/*index=5*/%t#5, %t#6), custom_call_target="tpu_custom_call"
}}
"""
  flops = read_costs(text, 1.0, math.inf).flops
  assert flops == 2 * 2 * 3 * 4 * 256 * 256 * 64 * 3 / 4


def test_attention_of_one_row():
  """The compiler leaves its dimension out."""
  one = ATTENTION.replace("NAME", "splash_mha_fwd").replace("[3,4,", "[4,")
  flops = read_costs(one.replace("{3,2,1,0}", "{2,1,0}"), 1.0, math.inf).flops
  assert flops == 2 * 2 * 4 * 256 * 256 * 64 * 3 / 4


def test_not_a_module():
  with pytest.raises(ValueError) as error:
    Program("nothing")
  assert str(error.value) == "an HLO module must have an ENTRY computation, got none."


def test_a_loop_in_a_branch_that_is_not_taken_is_not_unknown():
  text = """HloModule m

%cond (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %c = pred[] compare(%i, %i), direction=NE
}

%body (q: (s32[])) -> (s32[]) {
  ROOT %q = (s32[]) parameter(0)
}

%slow (r: (s32[])) -> (s32[]) {
  %r = (s32[]) parameter(0)
  %n = s32[1000]{0} iota(), iota_dimension=0
  ROOT %w = (s32[]) while(%r), condition=%cond, body=%body
}

%fast (t: (s32[])) -> (s32[]) {
  ROOT %t = (s32[]) parameter(0)
}

ENTRY %main (a: (s32[]), b: s32[]) -> (s32[]) {
  %a = (s32[]) parameter(0)
  %b = s32[] parameter(1)
  ROOT %k = (s32[]) conditional(%b, %a, %a), branch_computations={%slow, BRANCH}
}
"""
  assert read_costs(text.replace("BRANCH", "%fast"), 1.0, 1.0).unknown_loops == 0
  assert read_costs(text.replace("BRANCH", "%slow"), 1.0, 1.0).unknown_loops == 1
