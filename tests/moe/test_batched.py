"""That batches hold every row once; what they compute is in test_grouped.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe import batched
from mhmoe_jax.moe.ffn import ExpertWeights
from tests.moe.definition import all_on_all, equations

E, T = 32, 1024
LOADS = {
  "even": np.full(E, T // E),
  "ramp": np.arange(E) * 2,
  "all on one": np.eye(E, dtype=int)[5] * T,
  "none": np.zeros(E, int),
}


@functools.cache
def assign(num_rows, expected_rows):
  """From sizes: how many turns each row had, of which expert, and how many batches."""
  shares = batched.make_shares(num_rows, E, expected_rows)

  def body(carry, experts_G1, rows_GR, _):
    count_T, expert_T, batches = carry
    experts_GR = jnp.broadcast_to(experts_G1, rows_GR.shape)
    return (
      count_T.at[rows_GR].add(1, mode="drop"),
      expert_T.at[rows_GR].set(experts_GR, mode="drop"),
      batches + 1,
    )

  @jax.jit
  def run(sizes_E):
    carry = jnp.zeros(num_rows, int), jnp.full(num_rows, -1), 0
    experts_E1 = jnp.arange(E)[:, None]
    return batched.for_batches(experts_E1, sizes_E, num_rows, shares, body, carry)

  return run


@pytest.mark.parametrize("expected_rows", [T, T // 2, E // 4])
@pytest.mark.parametrize("load", LOADS)
def test_every_row_is_in_one_batch_with_its_expert(load, expected_rows):
  """Also where more rows than expected come, and where all are pieces."""
  sizes_E = LOADS[load]
  count_T, expert_T, _ = assign(T, expected_rows)(sizes_E)
  rows = sizes_E.sum()
  np.testing.assert_array_equal(count_T, np.arange(T) < rows)
  np.testing.assert_array_equal(expert_T[:rows], np.repeat(np.arange(E), sizes_E))


def test_an_even_load_is_one_batch_and_the_worst_a_few():
  def batches(load):
    return int(assign(T, T)(LOADS[load])[2])

  assert {load: batches(load) for load in LOADS} == {
    "even": 1,
    "ramp": 2,
    "all on one": 3,  # 976 rows past the first 48 are 31 pieces of 32, 16 at a time
    "none": 1,
  }


def test_few_rows_read_the_weights_of_their_experts_alone():
  """In decoding: no product of all experts, and no loop that the host waits for."""
  weights = ExpertWeights(jnp.ones((64, 8, 16)), jnp.ones((64, 16, 8)))
  rows = jnp.ones((6, 8)), jnp.ones(6), jnp.zeros(64, int).at[7].set(6)
  jaxpr = jax.make_jaxpr(batched.forward)(weights, *rows).jaxpr
  products = [e.outvars[0].aval.shape for e in equations(jaxpr, "dot_general")]
  assert products == [(6, 16, 16), (6, 16, 8)]
  assert not list(equations(jaxpr, "while"))


def test_later_turns_add_to_the_gradients_of_earlier_ones(key):
  """In test_grouped.py no load takes a second turn."""
  keys = jax.random.split(key, 5)
  weights = ExpertWeights(
    jax.random.normal(keys[0], (E, 4, 6)), jax.random.normal(keys[1], (E, 6, 4))
  )
  x_TM, dy_TM = (jax.random.normal(k, (T, 4)) for k in keys[2:4])
  scale_T, sizes_E = jax.random.uniform(keys[4], (T,)), LOADS["all on one"]

  @jax.jit
  def expected(*inputs):
    return jax.vjp(lambda *i: all_on_all(*i, sizes_E), *inputs)[1](dy_TM)

  # Sums of a thousand products in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4),
    batched.backward(weights, x_TM, scale_T, jnp.asarray(sizes_E), dy_TM),
    expected(weights, x_TM, scale_T),
  )
