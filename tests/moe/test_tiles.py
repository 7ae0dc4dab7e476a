"""Visits of the fused kernel: every row once, and what else its memory needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe import tiles

TILE, ROWS, E = 32, 100, 5


def test_every_row_is_visited_once_by_its_expert():
  draw = np.random.default_rng(0)
  # Some experts without rows, and rows that are nobody's; ends at and inside of tiles.
  sizes = [draw.multinomial(ROWS, p)[:E] for p in draw.dirichlet(np.full(6, 0.3), 60)]
  sizes += [[0] * 5, [100, 0, 0, 0, 0], [0, 0, 0, 0, 100], [32, 32, 0, 32, 4]]
  sizes += [[0, 64, 0, 0, 0], [31, 1, 1, 31, 0], [0, 0, 96, 0, 0]]
  plan = jax.jit(jax.vmap(lambda sizes_E: tiles.plan_visits(sizes_E, ROWS, TILE)))
  visits = map(np.asarray, plan(jnp.array(sizes)))
  for sizes_E, *visit in zip(sizes, *visits, strict=True):
    owner_T = np.repeat([*range(E), -1], [*sizes_E, ROWS - sum(sizes_E)])
    found_T = np.full(4 * TILE, -1)
    seen = set()
    for expert, tile, start, stop, walks in zip(*visit, strict=True):
      assert 0 <= start <= stop <= TILE
      # An expert without rows has gradients, too: zeros, which are written once.
      assert walks == (start < stop or expert not in seen)
      seen.add(expert)
      rows = slice(tile * TILE + start, tile * TILE + stop)
      assert (found_T[rows] == -1).all()
      found_T[rows] = expert
    np.testing.assert_array_equal(found_T[:ROWS], owner_T)
    assert (found_T[ROWS:] == -1).all()
    # A tile's visits follow each other, and an expert's: what they add up lies in fast
    # memory until then. All are visited, or something would stay unwritten.
    for numbers, count in zip(visit[:2], (E, 4), strict=True):
      assert (np.diff(numbers) >= 0).all()
      assert set(numbers) == set(range(count))


@pytest.mark.parametrize(
  ("start", "stop"),
  [(0, 0), (0, 512), (0, 1), (17, 18), (5, 300), (16, 272), (250, 512), (496, 512)],
)
def test_pieces_cover_the_rows_of_a_visit_once(start, stop):
  visits = tiles.Visits(*jnp.array([[0], [0], [start], [stop], [1]]))
  covered, pieces = np.zeros(512, int), []

  def body(place, size, mask_R1):
    assert place % tiles.ALIGNMENT == 0
    covered[int(place) : int(place) + size] += np.asarray(mask_R1)[:, 0]
    assert int(place) + size <= 512
    pieces.append(size)

  with jax.disable_jit():
    tiles.for_rows(visits, 0, 512, body)
  np.testing.assert_array_equal(covered, [start <= i < stop for i in range(512)])
  # Less than a small piece is multiplied in vain at either end.
  assert sum(pieces) < stop - start + tiles.ALIGNMENT + tiles.SMALL
