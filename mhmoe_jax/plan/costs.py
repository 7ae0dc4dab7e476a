"""What one run of a compiled TPU program costs one device.

The compiler's own totals (`compiled.cost_analysis()`) count the body of a loop once,
and its time estimate is -1 for every operation it has none for. Here a loop's body
counts as often as the loop's condition says, and the time of an operation is what its
FLOPs or its bytes need at the chip's peak rates, whichever is more; the same rule as
the compiler's. It is a lower bound: real kernels reach neither peak all the time.
Kernels (custom calls) have the cost that their authors stated, or that is known here.
What collectives read and write is theirs: it is neither in the bytes nor in the time.
"""

import json
import math
import re
from typing import NamedTuple

import numpy as np

from mhmoe_jax.plan.collectives import Collective, find_collectives
from mhmoe_jax.plan.hlo import Op, Program, attribute, dims
from mhmoe_jax.plan.traffic import op_bytes


class Costs(NamedTuple):
  """What one device does in one run of the program."""

  flops: float  # of matrix products and kernels
  bytes: float  # read from and written to HBM, collectives apart
  seconds: float  # at the peak rates, one operation after the other, collectives apart
  collectives: list[Collective]
  unknown_loops: int  # loops whose number of turns depends on the data


def read_costs(
  text: str, peak_flops: float, peak_bytes: float, turns: int = 1
) -> Costs:
  """Adds up a program.

  Args:
    text: of the optimised module, `compiled.as_text()`.
    peak_flops: per second and device.
    peak_bytes: per second and device, of HBM.
    turns: of loops whose number of turns depends on the data.
  """
  program = Program(text, turns)

  def cost(op: Op) -> float:
    return max(op_flops(program, op) / peak_flops, op_bytes(program, op) / peak_bytes)

  def weigh(op: Op) -> float:
    # Communication is no faster than memory.
    sent = sum(collective.bytes for _, collective in find_collectives(program, op))
    return cost(op) + sent / peak_bytes

  flops = moved = seconds = 0.0
  found = {}
  for op, times in program.walk(weigh):
    flops += times * op_flops(program, op)
    moved += times * op_bytes(program, op)
    seconds += times * cost(op)
    for key, collective in find_collectives(program, op):
      # A collective that runs beside others' work appears in each of them.
      before = found.get(key)
      if before is None or before.count < times:
        found[key] = collective._replace(count=times, bytes=times * collective.bytes)
  return Costs(
    flops, moved, seconds, _merge(found.values()), len(program.unknown_loops)
  )


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
