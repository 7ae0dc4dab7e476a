"""Requests for scores, packed into rows of a few lengths.

A request is a context and a continuation. Behind the token that begins every document,
0, it is one segment of a row, as a document is in training. A row is as long as its
longest request, rounded up to a power of two, and short requests fill what long ones
leave. So there are few shapes, one for each doubling, and little padding.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# The TPU's attention kernel wants rows to be multiples of it.
_SHORTEST_ROW = 128


class Request(NamedTuple):
  """Tokens to read, of which the first may be cut off, and tokens to score."""

  context: Sequence[int]
  continuation: Sequence[int]

  @property
  def length(self) -> int:
    """Inputs of the model: one begins, and the last token is only a target."""
    return len(self.context) + len(self.continuation)


class Batch(NamedTuple):
  """Rows of one length: numbers of the requests in each, in their order there."""

  rows: list[list[int]]  # the last ones may be empty
  row_length: int

  @property
  def num_tokens(self) -> int:
    """Of the batch, padding included."""
    return len(self.rows) * self.row_length


def fit(request: Request, max_length: int) -> Request:
  """The request with its context cut from the left to what the model sees at once.

  Raises:
    ValueError: the continuation is empty, or does not fit: it is never cut.
  """
  length = len(request.continuation)
  if not 0 < length <= max_length:
    raise ValueError(
      f"a continuation must have from 1 to {max_length} tokens, the model's context "
      f"(--max_length of the verb harness widens it), got {length}."
    )
  context = request.context[max(request.length - max_length, 0) :]
  return Request(context, request.continuation)


def plan(requests: Sequence[Request], batch_tokens: int, multiple: int) -> list[Batch]:
  """Deals requests to batches, the longest first.

  Args:
    requests: to pack.
    batch_tokens: of a batch, padding included, at most, if `multiple` rows allow.
    multiple: that the number of rows in a batch must be of.

  Returns:
    Batches; all of one row length have one number of rows.
  """
  batches = []
  for row_length, rows in sorted(_pack(requests).items(), reverse=True):
    most = max(batch_tokens // row_length // multiple, 1) * multiple
    # No more rows in a batch than needed, so that the last one is nearly full.
    size = -(-len(rows) // -(-len(rows) // most) // multiple) * multiple
    rows += [[] for _ in range(-len(rows) % size)]
    batches += [
      Batch(rows[i : i + size], row_length) for i in range(0, len(rows), size)
    ]
  return batches


def _pack(requests: Sequence[Request]) -> dict[int, list[list[int]]]:
  """Rows by their length: the longest request first, each where it fits best.

  That is the fullest row with room for it, of whatever length, or else a new one.
  """
  rows: dict[int, list[list[int]]] = {}
  by_space: dict[int, list[list[int]]] = {}
  spaces: list[int] = []  # keys of by_space, ascending
  lengths = [request.length for request in requests]
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    place = bisect.bisect_left(spaces, lengths[i])
    if place == len(spaces):
      row, space = [], _SHORTEST_ROW
      while space < lengths[i]:
        space *= 2
      rows.setdefault(space, []).append(row)
    else:
      space = spaces[place]
      row = by_space[space].pop()
      if not by_space[space]:
        del by_space[space], spaces[place]
    row.append(i)
    left = space - lengths[i]
    if left not in by_space:
      by_space[left] = []
      bisect.insort(spaces, left)
    by_space[left].append(row)
  return rows


def fill(
  batch: Batch, requests: Sequence[Request], begin: int = 0
) -> dict[str, np.ndarray]:
  """Inputs, targets, segments and positions of a batch, int32 (B, L), as in training.

  The first input of every segment is `begin`. Targets are those of continuations;
  elsewhere they are 0, as is all of padding.
  """
  shape = len(batch.rows), batch.row_length
  names = ("inputs", "targets", "segments", "positions")
  arrays = {name: np.zeros(shape, np.int32) for name in names}
  for i, row, segment, part in _places(batch, requests):
    context, continuation = requests[i]
    length = requests[i].length
    arrays["inputs"][row, part] = [begin, *context, *continuation][:length]
    arrays["targets"][row, part.stop - len(continuation) : part.stop] = continuation
    arrays["segments"][row, part] = segment
    arrays["positions"][row, part] = np.arange(length)
  return arrays


def targets(
  batch: Batch, requests: Sequence[Request]
) -> Iterator[tuple[int, tuple[int, slice]]]:
  """Each request of a batch by number, and where its continuation's targets are."""
  for i, row, _, part in _places(batch, requests):
    yield i, (row, slice(part.stop - len(requests[i].continuation), part.stop))


def _places(batch: Batch, requests: Sequence[Request]):
  """Of each request in a batch its number, row, segment and part of the row."""
  for row, members in enumerate(batch.rows):
    start = 0
    for segment, i in enumerate(members, 1):
      stop = start + requests[i].length
      yield i, row, segment, slice(start, stop)
      start = stop
