"""What one run of a compiled TPU program costs one device.

The compiler's own totals (`compiled.cost_analysis()`) count the body of a loop once,
and its time estimate is -1 for every operation it has none for. Here a loop's body
counts as often as the loop's condition says, and the time of an operation is what its
FLOPs or its bytes need at the chip's peak rates, whichever is more; the same rule as
the compiler's. It is a lower bound: real kernels reach neither peak all the time.
Kernels (custom calls) have the cost that their authors stated, or that is known here.
"""

from collections.abc import Iterator
import json
import math
import re
from typing import NamedTuple

import numpy as np

from mhmoe_jax.plan.hlo import Op, Program, attribute, dims, nbytes, parts

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)


class Collective(NamedTuple):
  """A communication between devices, in one step of the program."""

  kind: str  # beginning with "slices " if it crosses the data-centre network
  group: int  # devices (or slices) that take part in one
  count: int  # how often it runs
  bytes: int  # of the larger of its input and output on one device, all runs


class Costs(NamedTuple):
  """What one device does in one run of the program."""

  flops: float  # of matrix products and kernels
  bytes: float  # read from and written to HBM
  seconds: float  # at the peak rates, one operation after the other, collectives apart
  collectives: list[Collective]
  unknown_loops: int  # loops whose number of turns is not constant, counted once


def read_costs(text: str, peak_flops: float, peak_bytes: float) -> Costs:
  """Adds up a program.

  Args:
    text: of the optimised module, `compiled.as_text()`.
    peak_flops: per second and device.
    peak_bytes: per second and device, of HBM.
  """
  program = Program(text)
  flops = moved = seconds = 0.0
  found = {}
  for op, times in program.walk():
    work, traffic = op_flops(program, op), op_bytes(program, op)
    flops += times * work
    moved += times * traffic
    seconds += times * max(work / peak_flops, traffic / peak_bytes)
    for key, collective in find_collectives(program, op):
      # A collective that runs beside others' work appears in each of them.
      before = found.get(key)
      if before is None or before.count < times:
        found[key] = collective._replace(count=times, bytes=times * collective.bytes)
  return Costs(flops, moved, seconds, _merge(found.values()), program.unknown_loops)


def _merge(found) -> list[Collective]:
  total = {}
  for kind, group, count, moved in found:
    old = total.get((kind, group), (0, 0))
    total[kind, group] = old[0] + count, old[1] + moved
  merged = [Collective(*key, *value) for key, value in total.items() if key[1] > 1]
  return sorted(merged, key=lambda c: (-c.bytes, c.kind, c.group))


def op_flops(program: Program, op: Op) -> float:
  """FLOPs of the matrix products in an operation, or what a kernel states."""
  if op.kind == "custom-call":
    stated = re.search(r'"cost_estimate":(\{[^}]*\})', op.attributes)
    if stated:
      return float(json.loads(stated[1]).get("flops", 0))
    return _attention_flops(program, op)
  if op.kind == "fusion":
    inner = program.computations[attribute(op, "calls")].values()
    return sum(op_flops(program, part) for part in inner)
  if op.kind in ("convolution", "dot"):
    home = program.computations[program.home[op.name]]
    lhs, rhs = (dims(home[name].result) for name in op.operands)
    out = math.prod(dims(op.result))
    if op.kind == "dot":
      contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.attributes)
      return 2.0 * out * math.prod(lhs[int(i)] for i in contracted[1].split(",") if i)
    return 2.0 * _convolution_products(op, lhs, rhs, dims(op.result))
  return 0.0


def _attention_flops(program: Program, op: Op) -> float:
  """FLOPs of jax's splash attention, which states none; 0 for other kernels."""
  phase = re.match(r"splash_mha_(fwd|dq|dkv)", op.name.lstrip("%"))
  if not phase:
    return 0.0
  home = program.computations[program.home[op.name]]
  operands = [home[name].result for name in op.operands]
  blocks = dims(operands[0])[-1]  # along a row of the mask; it is causal
  # Batch, if it is not 1, and heads; length; width of a head.
  *copies, L, Q = dims(next(kind for kind in operands if not kind.startswith("s")))
  # Products of (L, Q) with (L, Q), or of (L, L) with (L, Q).
  products = {"fwd": 2, "dq": 3, "dkv": 4}[phase[1]]
  return products * 2.0 * math.prod(copies) * L * L * Q * (blocks + 1) / (2 * blocks)


def op_bytes(program: Program, op: Op) -> float:
  """Bytes of HBM that an operation reads and writes; what is in VMEM is free."""
  home = program.computations[program.home[op.name]]
  if op.kind == "custom-call" and "tpu_custom_call" not in op.attributes:
    return 0.0  # a name for the compiler's own use, such as of a buffer
  if op.kind == "custom-call":
    stated = re.search(r'"cost_estimate":(\{[^}]*\})', op.attributes)
    if stated:
      return float(json.loads(stated[1]).get("bytes_accessed", 0))
  if op.kind in ("dynamic-slice", "slice", "gather"):
    return 2.0 * _hbm(op.result)
  if op.kind in ("copy-start", "slice-start"):
    # (operand, result, ...): one of them is in VMEM.
    return float(min(b for b in map(nbytes, parts(op.result)) if b > 4))
  operands = [home[name].result for name in op.operands if name in home]
  if op.kind == "dynamic-update-slice":
    return 2.0 * _hbm(operands[1])
  if op.kind != "fusion":
    return float(sum(map(_hbm, operands)) + _hbm(op.result))
  inner = attribute(op, "calls")
  read = sum(
    min(_hbm(kind), _read(program, inner, i)) for i, kind in enumerate(operands)
  )
  return float(read + min(_hbm(op.result), _written(program, inner)))


def _read(program: Program, computation: str, index: int) -> float:
  """Bytes of its parameter that a fusion needs: less than all where it slices."""
  total, escapes = _used(program, computation, index)
  in_place = _written(program, computation) < nbytes(program.roots[computation].result)
  return math.inf if escapes and not in_place else total


def _used(program: Program, computation: str, index: int) -> tuple[float, bool]:
  """Bytes that slices of a parameter read, and whether it is the result as it is."""
  ops = program.computations[computation]
  names = {
    op.name for op in ops.values() if op.kind == "parameter" and op.number == index
  }
  total = 0.0
  for op in ops.values():
    used = [i for i, name in enumerate(op.operands) if name in names]
    if not used:
      continue
    if op.kind == "bitcast":
      names.add(op.name)
    elif op.kind in ("dynamic-slice", "slice", "gather") and used == [0]:
      total += nbytes(op.result)
    elif op.kind == "dynamic-update-slice" and used == [0]:
      names.add(op.name)  # updated in place; `_written` counts what is new
    elif op.kind == "fusion":
      for i in used:
        inside, escapes = _used(program, attribute(op, "calls"), i)
        total += inside
        if escapes:
          names.add(op.name)
    else:
      return math.inf, False
  return total, program.roots[computation].name in names


def _written(program: Program, computation: str) -> float:
  """Bytes a fusion writes: less than its result where it updates a slice in place."""
  ops, root = program.computations[computation], program.roots[computation]
  outs = root.operands if root.kind == "tuple" else (root.name,)
  total = 0.0
  for name in outs:
    op = ops[name]
    while op.kind == "bitcast":
      op = ops[op.operands[0]]
    if op.kind == "fusion":
      total += _written(program, attribute(op, "calls"))
    elif op.kind == "dynamic-update-slice":
      total += nbytes(ops[op.operands[1]].result)
    else:
      total += nbytes(op.result)
  return total


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
  kind = op.kind.removesuffix("-start")
  if kind in COLLECTIVES:
    operands = sum(nbytes(home[name].result) for name in op.operands)
    # The result of a start is a tuple of operands and results.
    results = map(nbytes, parts(op.result))
    moved = max(operands, max(results) if "-start" in op.kind else sum(results))
    # One that goes on beside several fusions appears in each, as links of a chain. A
    # channel alone says nothing: all that shard_map asks for share one.
    chain = re.search(r'channel_id=(\d+).*chain_id="(\d+)"', op.attributes)
    key = (kind, *chain.groups(), *map(nbytes, parts(op.result))) if chain else op.name
    yield key, Collective(kind, _group(op.attributes, program.devices), 1, moved)


def _hbm(result: str) -> int:
  """Bytes of those parts of a type that are not in a memory on the chip, S(1) etc."""
  return sum(nbytes(part) for part in parts(result) if not re.search(r"S\(", part))


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


def _convolution_products(op: Op, lhs, rhs, out) -> int:
  """Multiply-adds of a convolution; a batched matrix product is one with a window.

  Positions where the window covers padding or a hole of a dilated input are not
  counted: a batch dimension becomes a window of which only one place is real.
  """
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
  window = dict(re.findall(r"(\w+)=([\w\-x]+)", _window(op.attributes)))
  lhs_labels, rhs_labels, out_labels = labels.groups()
  total = (
    math.prod(out[out_labels.index(letter)] for letter in "bf")
    * rhs[rhs_labels.index("i")]
  )
  for axis, letter in enumerate(sorted(set(lhs_labels) - set("bf"))):
    low = int(_of_axis(window, "pad", axis, "0_0").split("_")[0])
    stride, hole, spread = (
      int(_of_axis(window, name, axis, "1"))
      for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    places = np.arange(out[out_labels.index(letter)])[:, None]
    taps = np.arange(rhs[rhs_labels.index(letter)])[None]
    at = places * stride + taps * spread - low
    inside = (at >= 0) & (at % hole == 0) & (at // hole < lhs[lhs_labels.index(letter)])
    total *= int(inside.sum())
  return total


def _of_axis(window: dict[str, str], name: str, axis: int, default: str) -> str:
  return window[name].split("x")[axis] if name in window else default


def _window(attributes: str) -> str:
  found = re.search(r"window=\{([^}]*)\}", attributes)
  return found[1] if found else ""
