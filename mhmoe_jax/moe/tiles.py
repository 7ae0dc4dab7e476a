"""Tiles of rows in the fused kernel: which are visited, and what lies beside a row.

Rows are sorted by expert and cut into tiles; an expert's rows begin and end anywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

# Rows of one expert in a tile are multiplied in pieces of so many.
LARGE, SMALL = 256, 32
# What a place in a tile must be a multiple of: rows of bfloat16 lie in blocks of 16.
ALIGNMENT = 16
LANES = 128


class Visits(NamedTuple):
  """What each step of the grid works on; steps past the last visit repeat it, empty.

  V steps.
  """

  expert_V: jax.Array
  tile_V: jax.Array
  start_V: jax.Array  # rows [start, stop) of the tile belong to the expert
  stop_V: jax.Array
  walks_V: jax.Array  # 1: through the chunks of the expert, also if it has no rows


def plan_visits(sizes_E: jax.Array, num_rows: int, tile: int) -> Visits:
  """Every pair of an expert and a tile with rows of it, experts in order.

  Args:
    sizes_E: rows of each expert, which lie one behind the other.
    num_rows: of all tiles; those past the last expert's are visited, too, as nobody's.
    tile: rows of a tile.
  """
  # Rows past the last expert's are a group of their own, whose visits write zeros.
  E, tiles = sizes_E.shape[0], -(-num_rows // tile)
  sizes_G = jnp.append(sizes_E, num_rows - sizes_E.sum()).astype(jnp.int32)
  stop_G = jnp.cumsum(sizes_G)
  start_G = stop_G - sizes_G
  # Without rows, a group is visited once, so that its gradients are set to zero.
  first_G = jnp.minimum(start_G // tile, tiles - 1)
  last_G = jnp.maximum(first_G, (stop_G - 1) // tile)
  ends_G = jnp.cumsum(last_G - first_G + 1)
  V = tiles + E
  step_V = jnp.arange(V, dtype=jnp.int32)
  group_V = (ends_G[None] <= step_V[:, None]).sum(axis=1, dtype=jnp.int32)
  group_V = jnp.minimum(group_V, E)
  tile_V = last_G[group_V] - (ends_G[group_V] - 1 - step_V)
  tile_V = jnp.minimum(tile_V, tiles - 1)
  empty_V = (group_V == E) | (step_V >= ends_G[-1])

  def clip(row_V):
    return jnp.clip(row_V - tile_V * tile, 0, tile)

  stop_V = jnp.where(empty_V, 0, clip(stop_G[group_V]))
  first_V = jnp.diff(group_V, prepend=-1) > 0
  return Visits(
    expert_V=jnp.minimum(group_V, E - 1),
    tile_V=tile_V,
    start_V=jnp.where(empty_V, 0, clip(start_G[group_V])),
    stop_V=stop_V,
    walks_V=((stop_V > 0) | (first_V & (group_V < E))).astype(jnp.int32),
  )


def for_rows(visits: Visits, step, tile: int, body: Callable) -> None:
  """Calls body(place, size, mask_R1) on pieces of the tile that cover the visit's rows.

  Large pieces multiply faster, small ones at the end waste less.
  """
  start, stop = visits.start_V[step], visits.stop_V[step]
  first = jax.lax.div(start, ALIGNMENT) * ALIGNMENT

  def pieces(size, begin, count):
    def piece(i, _):
      nominal = begin + i * size
      # The last piece may not reach past the tile; it must not repeat rows either.
      place = pl.multiple_of(jnp.minimum(nominal, tile - size), ALIGNMENT)
      row = place + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
      body(place, size, (row >= jnp.maximum(start, nominal)) & (row < stop))

    jax.lax.fori_loop(0, count, piece, None)

  count = jax.lax.div(jnp.maximum(stop - first, 0), LARGE)
  pieces(LARGE, first, count)
  first += count * LARGE
  pieces(SMALL, first, jax.lax.div(jnp.maximum(stop - first, 0) + SMALL - 1, SMALL))


# One number per row lies along the 128 lanes, where it takes no more room than needed.
# A column of them is taken out of a window of whole lanes by a mask.


def _window(ref, place, size: int):
  lanes = min(size + LANES, ref.shape[1])
  start = jax.lax.div(place, LANES) * LANES
  start = pl.multiple_of(jnp.minimum(start, ref.shape[1] - lanes), LANES)
  row = jax.lax.broadcasted_iota(jnp.int32, (size, lanes), 0) + place - start
  here = row == jax.lax.broadcasted_iota(jnp.int32, (size, lanes), 1)
  return pl.ds(start, lanes), here


def column(ref, place, size: int) -> jax.Array:
  """`ref[0, place : place + size]` as a column (size, 1)."""
  lanes, here = _window(ref, place, size)
  return jnp.where(here, ref[:, lanes], 0).sum(axis=1, keepdims=True)


def add_column(ref, place, column_R1: jax.Array) -> None:
  """Adds a column to `ref[0, place : place + size]`."""
  lanes, here = _window(ref, place, column_R1.shape[0])
  ref[:, lanes] += jnp.where(here, column_R1, 0).sum(axis=0, keepdims=True)
