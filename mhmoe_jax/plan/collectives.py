"""What devices send each other, read from the optimised HLO of a TPU program."""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

from mhmoe_jax.plan.hlo import Op, Program, attribute, elements, nbytes, parts

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)


# What the TPU compiler calls an all-reduce of which each device keeps a slice.
_REDUCE_SCATTER = "all-reduce-scatter"


class Collective(NamedTuple):
  """A communication between devices, in one step of the program."""

  kind: str  # beginning with "slices " if it crosses the data-centre network
  group: int  # devices (or slices) that take part in one
  count: int  # how often it runs
  bytes: int  # of the larger of its input and output on one device, all runs


def find_collectives(program: Program, op: Op) -> Iterator[tuple[object, Collective]]:
  """The collectives in an operation, each with what identifies it."""
  if op.kind == "fusion":
    for part in program.computations[attribute(op, "calls")].values():
      yield from find_collectives(program, part)
  home = program.computations[program.home[op.name]]
  slices = re.search(r'_xla_megascale_target="\{\d+,(\d+)\}', op.attributes)
  if op.kind == "send" and slices:
    what = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.attributes)[1]
    kind = f"slices {what.lower().replace('_', '-')}"
    moved = nbytes(home[op.operands[0]].result)
    yield op.name, Collective(kind, int(slices[1]), 1, moved)
  kind = collective_of(op.kind)
  if kind:
    if program.home[op.name].startswith(_REDUCE_SCATTER):
      kind = "reduce-scatter"
    operands = sum(nbytes(home[name].result) for name in op.operands)
    result = op.result
    if "-start" in op.kind and result.startswith("("):
      result = elements(result)[1]  # behind the operands; each may be a tuple
    moved = max(operands, sum(map(nbytes, parts(result))))
    # One that goes on beside several fusions appears in each, as links of a chain. A
    # channel alone says nothing: all that shard_map asks for share one.
    chain = re.search(r'channel_id=(\d+).*chain_id="(\d+)"', op.attributes)
    key = (kind, *chain.groups(), *map(nbytes, parts(op.result))) if chain else op.name
    yield key, Collective(kind, _group(op.attributes, program.devices), 1, moved)


def collective_of(kind: str) -> str | None:
  """The collective that an operation is, or starts."""
  kind = kind.removesuffix("-start")
  return kind if kind in COLLECTIVES else None


def is_reduce_scatter(op: Op) -> bool:
  """A fusion of an all-reduce and the slice of it that is wanted, made into one."""
  return op.kind == "fusion" and attribute(op, "calls").startswith(_REDUCE_SCATTER)


def _group(attributes: str, devices: int) -> int:
  """Devices in each replica group, in any of its three notations; {} is all."""
  groups = re.search(r"replica_groups=(\S+.*?)(?:, [a-z_]+=|$)", attributes)
  if groups is None:
    return 2  # source_target_pairs
  text = groups[1]
  mesh = re.search(r"mesh\[([^\]]*)\].*\{([^}]*)\}", text)
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
  iota = re.match(r"\[(\d+),(\d+)\]<=", text)
  if iota:
    return int(iota[2])
  first = re.match(r"\{\{([\d,]*)\}", text)
  return len(first[1].split(",")) if first else devices
