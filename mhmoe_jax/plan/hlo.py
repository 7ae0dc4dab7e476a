"""The optimised HLO of a TPU program as text: its operations and how often they run.

The body of a loop runs as often as the loop's condition says, and of the branches of a
conditional the one that costs least. What operations cost is in `costs`.
"""

from collections.abc import Callable, Iterator
import math
import re
from typing import NamedTuple

BITS = {"pred": 8, "bf16": 16, "f16": 16, "c64": 64, "c128": 128, "token": 0}
# What costs nothing, or is counted where it began.
FREE = {
  "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all",
  "partition-id", "replica-id", "domain", "opt-barrier", "add-dependency",
}  # fmt: skip
SHAPE = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


class Op(NamedTuple):
  """An instruction of HLO."""

  name: str
  kind: str
  result: str  # its type
  operands: tuple[str, ...]  # names
  attributes: str
  number: int | None = None  # of a parameter, or the value of an integer constant


class Program:
  """The computations of a module.

  Args:
    text: the module.
    turns: of loops whose number of turns depends on the data.
  """

  def __init__(self, text: str, turns: int = 1):
    self.computations: dict[str, dict[str, Op]] = {}
    self.roots: dict[str, Op] = {}
    self.entry = ""
    self.turns = turns
    self.unknown_loops: set[str] = set()  # names of those that `walk` met
    text = re.sub(r"/\*index=\d+\*/", "", text)  # in long lists, for human readers
    partitions = re.search(r"num_partitions=(\d+)", text.split("\n", 1)[0])
    self.devices = int(partitions[1]) if partitions else 1
    current = ""
    lines = iter(text.splitlines())
    for line in lines:
      if line.startswith(("ENTRY ", "%")) and line.endswith("{"):
        current = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
        self.computations[current] = {}
        if line.startswith("ENTRY "):
          self.entry = current
      elif current and line.startswith("  ") and " = " in line:
        op = _parse(_until_balanced(line, lines).strip().removeprefix("ROOT "))
        self.computations[current][op.name] = op
        if line.lstrip().startswith("ROOT "):
          self.roots[current] = op
    for ops in self.computations.values():
      _name_elements(ops)
    if not self.entry:
      raise ValueError("an HLO module must have an ENTRY computation, got none.")
    self.home = {
      op: name for name, ops in self.computations.items() for op in ops
    }  # names are unique in a module

  def walk(
    self, weigh: Callable[[Op], float], name: str | None = None, times: int = 1
  ) -> Iterator[tuple[Op, int]]:
    """Operations that run by themselves (not inside fusions), and how often.

    Args:
      weigh: what an operation costs, to choose between the branches of a conditional.
      name: of the computation, the module's entry by default.
      times: how often it runs.
    """
    for op in self.computations[name or self.entry].values():
      if op.kind == "while":
        turns = self.trip_count(op)
        if turns is None:
          self.unknown_loops.add(op.name)
          turns = self.turns
        yield from self.walk(weigh, attribute(op, "body"), times * turns)
      elif op.kind in ("call", "async-start"):
        yield from self.walk(weigh, attribute(op, "(?:to_apply|calls)"), times)
      elif op.kind == "custom-call" and "called_computations={" in op.attributes:
        # What other cores of the chip compute, such as gathers on a SparseCore.
        yield from self.walk(weigh, called(op), times)
      elif op.kind == "conditional":
        before, tried = self.unknown_loops, []
        for branch in _branches(op):
          self.unknown_loops = set()
          run = list(self.walk(weigh, branch, times))
          tried.append((run, self.unknown_loops))
        run, met = min(tried, key=lambda one: sum(n * weigh(x) for x, n in one[0]))
        self.unknown_loops = before | met
        yield from run
      elif op.kind not in FREE and not op.kind.endswith(("-done", "-update")):
        yield op, times

  def trip_count(self, loop: Op) -> int | None:
    """Turns of a loop that counts from one constant to another; None if it does not."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known[1])
    condition = attribute(loop, "condition")
    test = self.roots[condition]
    if test.kind != "compare":
      return None
    ends = [self._counter(condition, name, loop) for name in test.operands]
    step = self._step(attribute(loop, "body"), ends[0][1])
    first, last = ends[0][0], ends[1][0]
    if None in (first, last, step) or "direction=LT" not in test.attributes:
      return None
    return max(0, -(-(last - first) // step))

  def _counter(self, computation: str, name: str, loop: Op):
    """The constant that a side of a loop's test starts from; its place in the carry."""
    op = self._through_copies(computation, name)
    if op.kind == "constant":
      return op.number, None
    if op.kind != "get-tuple-element":
      return None, None
    index = int(attribute(op, "index"))
    home = self.home[loop.name]
    start = self.computations[home].get(loop.operands[0])
    if start is None or start.kind != "tuple":
      return None, index
    first = self._through_copies(home, start.operands[index])
    return (first.number if first.kind == "constant" else None), index

  def _step(self, body: str, index: int | None) -> int | None:
    """What a loop's body adds to its counter."""
    root = self.roots[body]
    if index is None or root.kind != "tuple":
      return None
    added = self._through_copies(body, root.operands[index])
    if added.kind != "add":
      return None
    parts = [self._through_copies(body, name) for name in added.operands]
    return next((part.number for part in parts if part.kind == "constant"), None)

  def _through_copies(self, computation: str, name: str) -> Op:
    op = self.computations[computation][name]
    while (
      op.kind in ("copy", "bitcast")
      and op.operands[0] in self.computations[computation]
    ):
      op = self.computations[computation][op.operands[0]]
    return op


def _name_elements(ops: dict[str, Op]) -> None:
  """Spells out the shorthand `%tuple#1`, as jaxlib 0.12 has it, as an operation."""
  used = {name for op in ops.values() for name in op.operands if "#" in name}
  for name in sorted(used, key=len):  # %a#1 before %a#1#0
    whole, _, index = name.rpartition("#")
    kind, result = "get-tuple-element", elements(ops[whole].result)[int(index)]
    ops[name] = Op(name, kind, result, (whole,), f", index={index}")


def elements(result: str) -> list[str]:
  """The types in a tuple's."""
  found, depth, start = [], 0, 1
  for at, letter in enumerate(result):
    depth += (letter in "([{") - (letter in ")]}")
    if (letter == "," and depth == 1) or depth == 0:
      found.append(result[start:at].strip())
      start = at + 1
  return found


def _until_balanced(line: str, following: Iterator[str]) -> str:
  """An operation, which goes on where a kernel's metadata has line breaks."""
  depth = _depth(line)
  while depth > 0:
    more = next(following, None)
    if more is None:
      raise ValueError(f"an HLO operation must close its braces, got {line[:60]}...")
    line, depth = line + more, depth + _depth(more)
  return line


def _depth(line: str) -> int:
  """Braces that a line leaves open, of those outside quotes."""
  line = _QUOTED.sub("", line)
  return line.count("{") - line.count("}")


def _parse(line: str) -> Op:
  name, _, rest = line.partition(" = ")
  result, rest = _split_type(rest)
  kind, _, rest = rest.partition("(")
  inside, rest = _until_close(rest)
  operands = tuple(re.findall(r"%([\w.\-#]+)", inside))
  number = None
  if kind in ("parameter", "constant") and re.fullmatch(r"-?\d+", inside):
    number = int(inside)
  return Op(name.lstrip("%"), kind, result, operands, rest, number)


def _split_type(text: str) -> tuple[str, str]:
  if not text.startswith("("):
    result, _, rest = text.partition(" ")
    return result, rest
  inside, rest = _until_close(text[1:])
  return f"({inside})", rest.lstrip()


def _until_close(text: str) -> tuple[str, str]:
  depth = 1
  for found in re.finditer(r"[()]", text):
    depth += 1 if found[0] == "(" else -1
    if not depth:
      return text[: found.start()], text[found.end() :]
  return text, ""


def attribute(op: Op, name: str) -> str:
  return re.search(rf"\b{name}=%?([\w.\-]+)", op.attributes)[1]


def called(op: Op) -> str:
  return re.search(r"called_computations=\{%?([\w.\-]+)", op.attributes)[1]


def _branches(op: Op) -> list[str]:
  many = re.search(r"branch_computations=\{([^}]*)\}", op.attributes)
  if many:
    return re.findall(r"%([\w.\-]+)", many[1])
  return [attribute(op, "true_computation"), attribute(op, "false_computation")]


def dims(result: str) -> list[int]:
  return [int(d) for d in SHAPE.search(result)[2].split(",") if d]


def parts(result: str) -> list[str]:
  return [found[0] for found in SHAPE.finditer(result)]


def nbytes(result: str) -> int:
  """Bytes of a type, with what pads its last dimensions to whole tiles."""
  total = 0
  for dtype, dims, layout in SHAPE.findall(result):
    digits = re.search(r"\d+", dtype)
    bits = BITS.get(dtype, int(digits[0]) if digits else 0)
    sizes = [int(d) for d in dims.split(",") if d]
    total += bits * math.prod(_pad(sizes, layout)) // 8
  return total


def _pad(sizes: list[int], layout: str) -> list[int]:
  """Sizes in memory from a layout such as {1,0:T(8,128)(2,1)}, the last one first."""
  found = re.match(r"\{([\d,]+):T\(([\d,]+)\)", layout)
  if not found:
    return sizes
  order, tile = ([int(n) for n in part.split(",")] for part in found.groups())
  sizes = [sizes[axis] for axis in order]
  for i, multiple in enumerate(reversed(tile)):
    if i < len(sizes):
      sizes[i] = -(-sizes[i] // multiple) * multiple
  return sizes
