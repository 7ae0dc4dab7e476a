"""Rounds give what one device gives, for every load, and hold no more for any."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe, sharding
from mhmoe_jax.moe import delivery, transport
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.rounds import make_timetable
from mhmoe_jax.moe.routing import Routing

G, S, M, E, F, K = 8, 4, 8, 8, 6, 3
MESH = {"data": 2, "expert": 4}  # two experts on a device, and one example
NONE = np.full((G, S, K), E)
# A device has S * K = 12 choices and sends each of four devices 12 / 4 * 1.25, that is
# 4, in a round.
LOADS = {  # choices, and the rounds that they take
  "even": (np.broadcast_to(np.arange(S * K).reshape(1, S, K) % E, (G, S, K)), 1),
  "one more": (np.where(np.arange(S * K).reshape(1, S, K) < 5, 3, NONE), 2),
  "one expert": (np.zeros_like(NONE), 3),
  "the last expert": (np.full_like(NONE, E - 1), 3),
  "one device": (np.zeros_like(NONE) + np.array([2, 3, 2]), 3),
  "one device's": (np.where(np.arange(G)[:, None, None] == 5, 0, NONE), 3),
  "empty": (NONE, 0),
}


close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def route_to(experts_GSK, scale_GSK):
  """What the transports read of a routing."""
  return Routing(experts_GSK, scale_GSK, None, None, None)


def problem(dtype):
  keys = iter(jax.random.split(jax.random.key(3), 8))

  def draw(*shape):
    return 0.5 * jax.random.normal(next(keys), shape)

  weights = ExpertWeights(
    draw(E, M, F), draw(E, F, M), draw(E, M, F), draw(E, F), draw(E, M)
  )
  return 2 * draw(G, S, M).astype(dtype), draw(G, S, K), weights


@functools.partial(jax.jit, static_argnums=0)
def run(method, experts_GSK, x_GSM, scale_GSK, weights):
  def loss(x_GSM, scale_GSK, weights):
    weights = jax.tree.map(lambda w: w.astype(x_GSM.dtype), weights)
    scale_GSK = jnp.where(experts_GSK < E, scale_GSK, 0)
    route = route_to(experts_GSK, scale_GSK)
    y_GSM, delivery = transport.apply_experts(x_GSM, route, weights, method, 1.25)
    return jnp.sin(y_GSM.astype(jnp.float32)).sum(), (y_GSM, delivery)

  return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x_GSM, scale_GSK, weights)


@jax.jit
def by_hand(experts_GSK, x_GSM, scale_GSK, weights):
  """Every expert on everything, in float32: nothing is moved."""

  def loss(x_GSM, scale_GSK, weights):
    def one(e, w):
      h = jax.nn.silu(x_GSM @ w.w_gate_EMF) * (
        x_GSM @ w.w_in_EMF + w.b_in_EF[None, None]
      )
      share_GS = jnp.where(experts_GSK == e, scale_GSK, 0).sum(axis=-1)
      return share_GS[..., None] * (h @ w.w_out_EFM + w.b_out_EM[None, None])

    y_GSM = sum(one(e, jax.tree.map(lambda w, e=e: w[e], weights)) for e in range(E))
    return jnp.sin(y_GSM).sum(), y_GSM

  inputs = x_GSM.astype(jnp.float32), scale_GSK, weights
  return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*inputs)


@pytest.mark.parametrize(("experts_GSK", "rounds"), LOADS.values(), ids=LOADS)
def test_every_load(experts_GSK, rounds):
  inputs = problem(jnp.float32)
  (_, y_GSM), expected = by_hand(experts_GSK, *inputs)
  with jax.set_mesh(sharding.make_mesh(**MESH)):
    (_, (z_GSM, delivery)), found = run("rounds", experts_GSK, *inputs)
  assert delivery.rounds == rounds
  assert delivery.sent == delivery.served == (experts_GSK < E).sum()
  jax.tree.map(close, (z_GSM, found), (y_GSM, expected))


@pytest.mark.parametrize("load", ["even", "one device"])
def test_in_bfloat16_it_is_what_sorted_is(load):
  """To the bit, whatever the round; gradients of weights are sums over rounds."""
  inputs = LOADS[load][0], *problem(jnp.bfloat16)
  (_, (y_GSM, _)), expected = run("sorted", *inputs)
  with jax.set_mesh(sharding.make_mesh(**MESH)):
    (_, (z_GSM, _)), found = run("rounds", *inputs)
  np.testing.assert_array_equal(z_GSM, y_GSM)
  for ours, theirs in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    scale = np.abs(np.asarray(theirs, np.float32)).max()
    # The last of a bfloat16's 8 bits, and of three of them added up.
    np.testing.assert_allclose(
      np.asarray(ours, np.float32), np.asarray(theirs, np.float32), atol=scale / 64
    )


def test_a_timetable_by_hand():
  """Two devices with two experts each; of device 0's five choices three are for 1."""
  experts_SK = jnp.array([[2, 0], [3, 2], [4, 4], [1, 4], [4, 4], [4, 4]])

  def plan(experts_SK):
    table = make_timetable(experts_SK, 10 * experts_SK, num_local=2, num_rows=2)
    second, none = table.leaving(1, 2)
    home_KS = table.arrive(1, jnp.array([[6, 7], [8, 9]]), jnp.zeros((2, 3), int))
    return jax.tree.map(lambda x: x[None], (table, second, none, home_KS))

  mesh = sharding.make_mesh(data=1, expert=2)
  spread = PartitionSpec("expert")
  with jax.set_mesh(mesh):
    table, second, none, home_KS = jax.jit(
      jax.shard_map(plan, in_specs=spread, out_specs=spread, check_vma=False)
    )(experts_SK)
  # Choices k * S + s of device 0 by expert: 3 (0), 0 and 4 (2), 1 (3), padding 2 and 5.
  assert table.order_T[0].tolist() == [3, 0, 4, 1, 2, 5]
  assert table.first_D[0].tolist() == [0, 1]
  assert table.sizes_D.tolist() == [[1, 3], [1, 0]]
  assert table.round_KS[0].tolist() == [[0, 1, -1], [0, 0, -1]]
  assert table.slot_KS[0, 0, :2].tolist() == [2, 2]
  assert table.slot_KS[0, 1, :2].tolist() == [0, 3]
  assert table.count.tolist() == [2, 2]
  assert table.expert_T[0].tolist() == [0, 1, 0, 0, 0, 0]
  assert table.seed_T[0].tolist() == [20, 30, 40, 0, 20, 40]
  assert second[0, 1, 0] == 1
  assert none[0].tolist() == [[True, True], [False, True]]
  assert home_KS[0].tolist() == [[0, 8, 0], [0, 0, 0]]


def test_the_future_changes_no_bit_of_the_past():
  """Though it changes the rounds in which the past is computed, and K = 3 is a sum."""
  x_GSM, scale_GSK, weights = problem(jnp.float32)
  free = np.random.default_rng(0).integers(0, E, (G, S, K))
  with jax.set_mesh(sharding.make_mesh(**MESH)):
    (_, (y_GSM, before)), _ = run("rounds", free, x_GSM, scale_GSK, weights)
    for s in range(1, S):
      crowded = np.where(np.arange(S)[:, None] < s, free, free[:, :1, :1])
      (_, (z_GSM, after)), _ = run("rounds", crowded, x_GSM, scale_GSK, weights)
      np.testing.assert_array_equal(z_GSM[:, :s], y_GSM[:, :s])
      assert np.abs(z_GSM[:, s:] - y_GSM[:, s:]).max() > 0.01
  assert after.rounds != before.rounds


def test_experts_see_no_more_rows_than_a_round(monkeypatch):
  """Whatever the load, where others hold what all devices might send."""
  rows = {}

  def record(method, weights, x_TM, *_):
    rows[method] = len(x_TM)
    return x_TM

  with jax.set_mesh(sharding.make_mesh(**MESH)):
    for method in ("rounds", "sorted"):
      ffn = functools.partial(record, method)
      monkeypatch.setattr(delivery, "grouped_ffn", ffn)
      route = route_to(jnp.asarray(NONE), jnp.zeros(NONE.shape))
      x_GSM, _, weights = problem(jnp.float32)
      apply = functools.partial(transport.apply_experts, method=method, factor=1.25)
      jax.eval_shape(apply, x_GSM, route, weights)
  # Four devices: 4 rows a pair; all choices of all.
  assert rows == {"rounds": 4 * 4, "sorted": 4 * S * K}


def test_under_scan_and_remat_it_is_the_ring():
  config = MoeConfig(2, E, F, top_k=3, expert_dropout=0.2, round_factor=0.5)
  x_BLD = jax.random.normal(jax.random.key(1), (G, 3, 2 * M))
  init = jax.vmap(lambda key: MultiHeadMoe(config).init(key, x_BLD))
  params = init(jax.random.split(jax.random.key(0), 2))

  @functools.partial(jax.jit, static_argnums=0)
  @functools.partial(jax.value_and_grad, argnums=(1, 2), has_aux=True)
  def step(dispatch, params, x_BLD):
    layer = MultiHeadMoe(dataclasses.replace(config, dispatch=dispatch))

    @jax.checkpoint
    def block(x_BLD, params):
      rngs = {"dropout": jax.random.key(5)}
      y_BLD, aux = layer.apply(params, x_BLD, None, False, rngs=rngs)
      return x_BLD + y_BLD, aux.stats.rounds

    y_BLD, rounds = jax.lax.scan(block, x_BLD, params)
    return jnp.sin(y_BLD).sum(), rounds

  with jax.set_mesh(sharding.make_mesh(**MESH)):
    (_, one), expected = step("sorted", params, x_BLD)
    (_, rounds), found = step("rounds", params, x_BLD)
  jax.tree.map(close, found, expected)
  assert one.tolist() == [1, 1]
  assert (rounds >= 2).all()


def test_round_factor_is_checked():
  with pytest.raises(ValueError) as error:
    MoeConfig(1, E, F, dispatch="rounds", round_factor=0.0)
  assert str(error.value) == "round_factor must be positive, got round_factor=0.0."
