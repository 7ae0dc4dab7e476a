"""What operations of a TPU program read from and write to HBM.

Of what it only slices, or changes in place, an operation moves that part. What is in a
memory on the chip is free, and what collectives move is theirs.
"""

import json
import re

from mhmoe_jax.plan.collectives import collective_of, is_reduce_scatter
from mhmoe_jax.plan.hlo import Op, Program, attribute, elements, nbytes, parts


def op_bytes(program: Program, op: Op) -> float:
  """Bytes of HBM that an operation reads and writes; what is in VMEM is free."""
  home = program.computations[program.home[op.name]]
  if collective_of(op.kind) or is_reduce_scatter(op):
    return 0.0
  if op.kind == "custom-call" and "tpu_custom_call" not in op.attributes:
    return 0.0  # a name for the compiler's own use, such as of a buffer
  if op.kind == "custom-call":
    stated = re.search(r'"cost_estimate":(\{[^}]*\})', op.attributes)
    if stated:
      return float(json.loads(stated[1]).get("bytes_accessed", 0))
  if op.kind == "copy-start":  # (to, from, ...), either of which may be in VMEM
    return float(sum(map(_hbm, elements(op.result)[:2])))
  if op.kind == "slice-start":  # ((from), to, ...)
    whole, piece = elements(op.result)[:2]
    return float(_hbm(piece) + (nbytes(piece) if _hbm(whole) else 0))
  operands = [home[name].result for name in op.operands if name in home]
  if op.kind in _TAKES:
    return float(2 * _hbm(op.result) + sum(map(_hbm, operands[1:])))
  if op.kind == "dynamic-update-slice":
    return 2.0 * _hbm(operands[1])
  if op.kind == "scatter":  # which adds to what is there
    return float(_hbm(operands[1]) + 3 * _hbm(operands[2]))
  if op.kind != "fusion":
    return float(sum(map(_hbm, operands)) + _hbm(op.result))
  inner = attribute(op, "calls")
  read = sum(
    _used(program, inner, i)[0] for i, kind in enumerate(operands) if _hbm(kind)
  )
  outs = elements(op.result) if op.result.startswith("(") else [op.result]
  written = zip(map(_hbm, outs), _written(program, inner), strict=True)
  return float(read + sum(map(min, written)))


# What takes a piece of its first operand, and what changes one in place, by the operand
# that the piece is.
_TAKES = ("dynamic-slice", "slice", "gather")
_CHANGES = {"dynamic-update-slice": 1, "scatter": 2}


def _used(program: Program, computation: str, index: int) -> tuple[float, str]:
  """Bytes that a fusion reads of its parameter.

  And how it comes out at the other end: "not", "whole", or "changed" in place.
  """
  ops, root = program.computations[computation], program.roots[computation]
  (parameter,) = (
    op for op in ops.values() if op.kind == "parameter" and op.number == index
  )
  whole = float(nbytes(parameter.result))
  state = {parameter.name: "whole"}
  pieces = rows = (
    0.0  # what is sliced is fetched once, rows as often as they are asked for
  )
  for op in ops.values():
    used = [i for i, name in enumerate(op.operands) if name in state]
    if not used or collective_of(op.kind):
      continue
    before = {state[op.operands[i]] for i in used}
    if op.kind in ("bitcast", "get-tuple-element") or (op is root and _is_tuple(op)):
      state[op.name] = "whole" if "whole" in before else "changed"
    elif op.kind == "gather" and used == [0]:
      rows += nbytes(op.result)
    elif op.kind in _TAKES and used == [0]:
      pieces += nbytes(op.result)
    elif op.kind in _CHANGES and used == [0]:
      state[op.name] = "changed"
      if op.kind == "scatter":  # which adds to what is there
        rows += nbytes(ops[op.operands[2]].result)
    elif op.kind == "fusion":
      for i in used:
        inside, after = _used(program, attribute(op, "calls"), i)
        rows += inside
        if after != "not":
          state[op.name] = after
    else:
      return whole, "not"
  after = state.get(root.name, "not")
  return (whole if after == "whole" else min(pieces, whole) + rows), after


def _written(program: Program, computation: str) -> list[float]:
  """Bytes of each of a fusion's results that it writes: pieces, if in place."""
  ops, root = program.computations[computation], program.roots[computation]
  if root.kind == "fusion":
    return _written(program, attribute(root, "calls"))
  if root.result.startswith("(") and not _is_tuple(root):  # such as of an argmax
    return list(map(nbytes, elements(root.result)))
  return [
    _written_to(program, ops, name)
    for name in (root.operands if _is_tuple(root) else (root.name,))
  ]


def _written_to(program: Program, ops: dict[str, Op], name: str) -> float:
  op = ops[name]
  index = 0
  while op.kind in ("bitcast", "get-tuple-element"):
    index = int(attribute(op, "index")) if op.kind != "bitcast" else index
    op = ops[op.operands[0]]
  if collective_of(op.kind):
    return 0.0
  if op.kind == "fusion":
    return _written(program, attribute(op, "calls"))[index]
  if op.kind in _CHANGES and _origin(ops, op).kind == "parameter":
    return nbytes(ops[op.operands[_CHANGES[op.kind]]].result)
  return nbytes(op.result)


def _origin(ops: dict[str, Op], op: Op) -> Op:
  """What was there before an operation changed parts of it."""
  while op.kind in ("bitcast", *_CHANGES):
    op = ops[op.operands[0]]
  return op


def _is_tuple(op: Op) -> bool:
  return op.kind == "tuple"


def _hbm(result: str) -> int:
  """Bytes of those parts of a type that are not in a memory on the chip, S(1) etc."""
  return sum(nbytes(part) for part in parts(result) if not re.search(r"S\(", part))
