import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mhmoe_jax.moe import ragged
from mhmoe_jax.moe.ragged import Traffic, dense_traffic, exchange

# From each of three devices (down) to each (across).
SIZES = jnp.array([[1, 0, 3], [2, 2, 0], [0, 0, 0]])


@pytest.fixture
def mesh():
  kinds = (AxisType.Auto, AxisType.Auto)
  with jax.set_mesh(jax.make_mesh((2, 3), ("other", "line"), axis_types=kinds)) as mesh:
    yield mesh


def over_the_line(traffic, num_rows, x_TM):
  spread = P(("other", "line"))
  return jax.shard_map(
    lambda x_TM: exchange(x_TM, traffic, num_rows, "line"),
    in_specs=spread,
    out_specs=spread,
    check_vma=False,
  )(x_TM)


def test_by_hand(mesh):
  # Device 0 has rows 0..3, device 1 rows 4..7, device 2 rows 8..11, all plus one; the
  # other line has the same plus 100.
  x_TM = jnp.arange(1.0, 13)[:, None]
  both_TM = jnp.concatenate([x_TM, x_TM + 100])
  out = jax.jit(functools.partial(over_the_line, dense_traffic(SIZES), 5))(both_TM)
  expected = np.array([[1, 5, 6, 0, 0], [7, 8, 0, 0, 0], [2, 3, 4, 0, 0]])
  np.testing.assert_array_equal(out[:15, 0].reshape(3, 5), expected)
  np.testing.assert_array_equal(
    out[15:, 0].reshape(3, 5), np.where(expected, expected + 100, 0)
  )


def test_starts_may_leave_gaps(mesh):
  traffic = dense_traffic(SIZES)
  traffic = Traffic(SIZES, traffic.send_starts + 1, traffic.receive_starts + 1)
  x_TM = jnp.tile(jnp.arange(0.0, 15), 2)[:, None]
  out = jax.jit(functools.partial(over_the_line, traffic, 5))(x_TM)
  expected = [[0, 1, 6, 7, 0], [0, 8, 9, 0, 0], [0, 2, 3, 4, 0]]
  np.testing.assert_array_equal(out[:15, 0].reshape(3, 5), expected)


def test_gradient_is_the_way_back(mesh, key):
  x_TM = jax.random.normal(key, (24, 2))
  move = functools.partial(over_the_line, dense_traffic(SIZES), 5)
  dy_TM = jax.random.normal(key, (30, 2))
  dx_TM = jax.jit(lambda x, dy: jax.vjp(move, x)[1](dy)[0])(x_TM, dy_TM)
  # Moving is linear: <dy, move(x)> = <dx, x> for every x.
  np.testing.assert_allclose(
    jnp.vdot(dy_TM, jax.jit(move)(x_TM)), jnp.vdot(dx_TM, x_TM), rtol=1e-5
  )
  here_and_back = lambda x: over_the_line(  # noqa: E731
    dense_traffic(SIZES).back(), 4, move(x)
  )
  sent = np.tile(np.arange(4)[None] < SIZES.sum(1)[:, None], (2, 1)).reshape(-1, 1)
  np.testing.assert_array_equal(jax.jit(here_and_back)(x_TM), np.where(sent, x_TM, 0))


@pytest.mark.parametrize(
  ("platform", "own", "other"),
  [
    ("tpu", "ragged_all_to_all", '"stablehlo.all_to_all"'),
    ("cuda", "ragged_all_to_all", '"stablehlo.all_to_all"'),
    ("cpu", '"stablehlo.all_to_all"', "ragged_all_to_all"),
  ],
)
def test_the_platform_compiled_for_decides(mesh, platform, own, other):
  def loss(x_TM):
    return jnp.sin(over_the_line(dense_traffic(SIZES), 5, x_TM)).sum()

  traced = jax.jit(jax.grad(loss)).trace(jnp.ones((24, 2)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count(own) >= 2  # forward and backward
  assert other not in text


def test_the_collective_of_accelerators_gets_the_same_rows(mesh, monkeypatch):
  """A CPU has none; here one as `jax.lax.ragged_all_to_all` documents it."""

  def documented(x, y, from_here, send_sizes, to_there, receive_sizes, axis_name):
    gather = functools.partial(jax.lax.all_gather, axis_name=axis_name)
    rows_DTM, starts, sizes, places = map(gather, (x, from_here, send_sizes, to_there))
    me, nth = jax.lax.axis_index(axis_name), jnp.arange(len(x))
    for sender in range(len(starts)):
      count = sizes[sender, me]
      rows = rows_DTM[sender][starts[sender, me] + nth]
      y = y.at[jnp.where(nth < count, places[sender, me] + nth, len(y))].set(
        jnp.where(count == receive_sizes[sender], rows, jnp.nan), mode="drop"
      )
    return y

  def fake(*args, input_offsets, send_sizes, output_offsets, recv_sizes, axis_name):
    how = input_offsets, send_sizes, output_offsets, recv_sizes
    return documented(*args, *how, axis_name)

  monkeypatch.setattr(jax.lax, "ragged_all_to_all", fake)
  monkeypatch.setattr(ragged, "_padded", ragged._native)
  x_TM = jnp.arange(1.0, 25)[:, None]
  there = jax.jit(functools.partial(over_the_line, dense_traffic(SIZES), 5))(x_TM)
  expected = [[1, 5, 6, 0, 0], [7, 8, 0, 0, 0], [2, 3, 4, 0, 0]]
  np.testing.assert_array_equal(there[:15, 0].reshape(3, 5), expected)
