"""Collectives in the words of the TPU compiler."""

import pytest

from mhmoe_jax.plan.collectives import Collective
from mhmoe_jax.plan.costs import read_costs


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("{{0,1,2},{3,4,5}}", 3),
    ("[2,4]<=[8]", 4),
    ("[4,2]<=[2,4]T(1,0)", 2),
    ("mesh['axis_0'=1,'axis_1'=2,'axis_2'=4], device_ids=([8]) {'axis_1','axis_2'}", 8),
    ("{}", 8),
  ],
)
def test_group_sizes(groups, size):
  text = f"""HloModule m, num_partitions=8

ENTRY %main (a: f32[4]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  ROOT %r = f32[4]{{0}} all-reduce(%a), replica_groups={groups}, to_apply=%add
}}
"""
  assert read_costs(text, 1.0, 1.0).collectives == [
    Collective("all-reduce", size, 1, 16)
  ]


def test_traffic_between_slices():
  text = """HloModule m, num_partitions=8

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %t = token[] after-all()
  %s = (f32[4]{0}, u32[], token[]) send(%a, %t), is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:15}",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %r = f32[4]{0} negate(%a)
}
"""
  assert read_costs(text, 1.0, 1.0).collectives == [
    Collective("slices all-reduce", 2, 1, 16)
  ]


@pytest.mark.parametrize("name", ["all-reduce-scatter", "all-reduce-scatter.clone.1"])
def test_an_all_reduce_of_which_a_slice_is_kept(name):
  """So libtpu 0.0.52 writes the gradient of what FSDP gathers."""
  text = f"""HloModule m, num_partitions=4

%{name} (input: bf16[1024,64]) -> bf16[256,64] {{
  %input = bf16[1024,64]{{1,0}} parameter(0)
  %partition = u32[] partition-id()
  %zero = s32[] constant(0)
  %sum = bf16[1024,64]{{1,0}} all-reduce(%input), channel_id=6, \
replica_groups={{{{0,1,2,3}}}}, to_apply=%add
  ROOT %part = bf16[256,64]{{1,0}} dynamic-slice(%sum, %partition, %zero)
}}

ENTRY %main (a: bf16[1024,64]) -> bf16[256,64] {{
  %a = bf16[1024,64]{{1,0}} parameter(0)
  ROOT %r = bf16[256,64]{{1,0}} fusion(%a), kind=kCustom, calls=%{name}
}}
"""
  costs = read_costs(text, 1.0, 1.0)
  assert costs.collectives == [Collective("reduce-scatter", 4, 1, 2 * 1024 * 64)]
  assert costs.bytes == costs.seconds == 0  # They are no computation.


def test_of_a_start_with_several_operands_all_count():
  """Its result is a tuple of operands and one of results."""
  text = """HloModule m, num_partitions=4

ENTRY %main (a: f32[400], b: f32[400]) -> f32[1600] {
  %a = f32[400]{0} parameter(0)
  %b = f32[400]{0} parameter(1)
  %s = ((f32[400]{0}, f32[400]{0}), (f32[1600]{0}, f32[1600]{0})) \
all-gather-start(%a, %b), replica_groups={{0,1,2,3}}, dimensions={0}
  %d = (f32[1600]{0}, f32[1600]{0}) all-gather-done(%s)
  ROOT %r = f32[1600]{0} get-tuple-element(%d), index=0
}
"""
  assert read_costs(text, 1.0, 1.0).collectives == [
    Collective("all-gather", 4, 1, 2 * 1600 * 4)
  ]
