"""Rows between the devices of a mesh axis, every pair with a number of its own.

A TPU or GPU has a collective for this, `jax.lax.ragged_all_to_all`; on a CPU, which has
none, a padded `jax.lax.all_to_all` with the same meaning takes its place, chosen by the
platform that is compiled for, which need not be the one that compiles.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.once import once


class Traffic(NamedTuple):
  """What goes from device s of the axis to device r: entry (s, r) of int32 squares."""

  sizes: jax.Array  # rows
  send_starts: jax.Array  # the first of them, among the rows of the sender
  receive_starts: jax.Array  # and among those of the receiver

  def back(self) -> "Traffic":
    """Every row to the place that it came from."""
    return Traffic(self.sizes.T, self.receive_starts.T, self.send_starts.T)


def dense_traffic(sizes: jax.Array) -> Traffic:
  """Rows side by side: at the sender by receiver, at the receiver by sender."""
  return Traffic(
    sizes=sizes,
    send_starts=jnp.cumsum(sizes, axis=1) - sizes,
    receive_starts=jnp.cumsum(sizes, axis=0) - sizes,
  )


def exchange(
  x_TM: jax.Array, traffic: Traffic, num_rows: int, axis_name: str
) -> jax.Array:
  """Sends rows where `traffic` says; inside a `jax.shard_map` over `axis_name`.

  Args:
    x_TM: this device's rows.
    traffic: the same on every device of the axis. What ends up past the last row is
      undefined, so `num_rows` must be enough.
    num_rows: of the result.
    axis_name: of the mesh.

  Returns:
    (num_rows, M); rows that nobody sent are zero.
  """

  # A custom gradient, because the gradient of a branch by platform keeps what every
  # branch would need. It is the same rows, sent back.
  @jax.custom_vjp
  def run(x_TM, traffic):
    return jax.lax.platform_dependent(
      x_TM,
      traffic,
      cpu=functools.partial(_padded, num_rows=num_rows, axis_name=axis_name),
      default=functools.partial(_native, num_rows=num_rows, axis_name=axis_name),
    )

  def forward(x_TM, traffic):
    return once(run)(x_TM, traffic), traffic

  @once
  def backward(traffic, dy_TM):
    return exchange(dy_TM, traffic.back(), x_TM.shape[0], axis_name), None

  run.defvjp(forward, backward)
  return run(x_TM, traffic)


def _native(x_TM, traffic: Traffic, *, num_rows: int, axis_name: str):
  i = jax.lax.axis_index(axis_name)
  return jax.lax.ragged_all_to_all(
    x_TM,
    jnp.zeros((num_rows, x_TM.shape[1]), x_TM.dtype),
    input_offsets=traffic.send_starts[i],
    send_sizes=traffic.sizes[i],
    output_offsets=traffic.receive_starts[i],
    recv_sizes=traffic.sizes[:, i],
    axis_name=axis_name,
  )


def _padded(x_TM, traffic: Traffic, *, num_rows: int, axis_name: str):
  i = jax.lax.axis_index(axis_name)
  # No pair can have more rows than the sender has, or the receiver has room for.
  nth = jnp.arange(min(x_TM.shape[0], num_rows))[None]
  places = traffic.send_starts[i][:, None] + nth
  x_DRM = jax.lax.all_to_all(x_TM[places], axis_name, split_axis=0, concat_axis=0)
  places = traffic.receive_starts[:, i][:, None] + nth
  real = nth < traffic.sizes[:, i][:, None]
  y_TM = jnp.zeros((num_rows, x_TM.shape[1]), x_TM.dtype)
  return y_TM.at[jnp.where(real, places, num_rows)].set(x_DRM, mode="drop")
