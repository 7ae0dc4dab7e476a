"""Batches by number: row r of batch n is example n * B + r of an endless list.

Which example that is, and what is drawn for it, follows from its number and the seed.
So the place of a feed is one integer, and batches are the same bit for bit after a kill
and in any number of processes, each of which makes its rows alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import functools
from typing import NamedTuple

import numpy as np

from mhmoe_jax.data.images.shapes import random_state

Row = dict[str, np.ndarray]

_PREFETCHED_BATCHES = 2
_THREADS = 4  # Pillow and numpy let other threads run while they work.


class Place(NamedTuple):
  """Which example a number stands for."""

  index: int  # in the source
  epoch: int


class NumberedFeed(Iterator[Row]):
  """An endless iterator over some rows of every batch.

  Args:
    make_row: the arrays of an example; called from several threads.
    count: examples in an epoch.
    batch_size: B, of all processes together.
    rows: of every batch that are made here, ascending.
    seed: of the order.
  """

  def __init__(
    self,
    make_row: Callable[[Place], Row],
    count: int,
    batch_size: int,
    rows: Sequence[int],
    seed: int,
  ):
    self._make_row, self._count, self._seed = make_row, count, seed
    self._batch_size, self._rows = batch_size, rows
    self._order = functools.lru_cache(maxsize=2)(self._draw_order)
    self._pool = ThreadPoolExecutor(_THREADS)
    self._made: dict[int, list[Future]] = {}
    self.next_batch = 0  # number of the batch that comes next; may be set

  def __next__(self) -> Row:
    for batch in range(self.next_batch, self.next_batch + 1 + _PREFETCHED_BATCHES):
      if batch not in self._made:
        places = [self.place(batch * self._batch_size + row) for row in self._rows]
        self._made[batch] = [self._pool.submit(self._make_row, p) for p in places]
    rows = [future.result() for future in self._made[self.next_batch]]
    self.next_batch += 1
    self._made = {n: made for n, made in self._made.items() if n >= self.next_batch}
    return stack(rows)

  def place(self, number: int) -> Place:
    """The example of a number: every index once in each epoch, in a drawn order."""
    epoch, nth = divmod(number, self._count)
    return Place(int(self._order(epoch)[nth]), epoch)

  def _draw_order(self, epoch: int) -> np.ndarray:
    return random_state(self._seed, epoch).permutation(self._count)


def one_pass(
  make_row: Callable[[Place], Row], count: int, batch_size: int
) -> Iterator[Row]:
  """Batches of all examples in order, once; the last is filled up with rows of zeros.

  Every row has "real", 1.0, or 0.0 where it was filled up.
  """
  with ThreadPoolExecutor(_THREADS) as pool:
    for first in range(0, count, batch_size):
      indices = range(first, min(first + batch_size, count))
      batch = stack(list(pool.map(make_row, [Place(index, 0) for index in indices])))
      batch["real"] = np.ones(len(indices), np.float32)
      missing = batch_size - len(indices)
      yield {
        name: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        for name, x in batch.items()
      }


def stack(rows: Sequence[Mapping[str, np.ndarray]]) -> Row:
  """Arrays of rows to arrays with a leading row dimension."""
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
