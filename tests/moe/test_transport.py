"""Four ways over eight devices, one meaning: that of one device."""

import functools
import re

import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.moe import dispatch, routing, transport
from mhmoe_jax.moe.config import DISPATCHES
from mhmoe_jax.moe.ffn import ExpertWeights

G, S, M, E, F, K = 8, 6, 16, 8, 6, 2
MESHES = {  # sizes of the axes, the table of the parameters
  "data": ({"data": 8}, sharding.REPLICATED),
  "FSDP": ({"data": 8}, sharding.FSDP),
  "expert": ({"data": 1, "expert": 8}, sharding.REPLICATED),
  "model": ({"data": 4, "model": 2}, sharding.REPLICATED),
  "expert, model": ({"expert": 4, "model": 2}, sharding.REPLICATED),
  "FSDP, expert, model": ({"expert": 2, "model": 2}, sharding.FSDP),
  "replica, FSDP, expert": ({"replica": 2, "expert": 2}, sharding.FSDP),
}


def problem(sub_ln=False):
  """Sub-tokens, router weights, experts and a mask; padding in some examples."""
  keys = map(jax.random.key, range(99))

  # Outputs of about 1: larger ones lose their last digits where they cancel.
  def draw(*shape):
    return 0.3 * jax.random.normal(next(keys), shape)

  x_GSM, w_ME = 3 * draw(G, S, M), draw(M, E)
  weights = ExpertWeights(
    w_in_EMF=draw(E, M, F),
    w_out_EFM=draw(E, F, M),
    w_gate_EMF=draw(E, M, F) if sub_ln else None,
    b_in_EF=draw(E, F),
    b_out_EM=draw(E, M),
    norm_scale_EF=draw(E, F) if sub_ln else None,
    norm_bias_EF=draw(E, F) if sub_ln else None,
  )
  mask_GS = jnp.arange(S)[None] < jnp.array([6, 4, 6, 1, 0, 5, 6, 3])[:, None]
  return x_GSM, w_ME, weights, mask_GS


@functools.partial(jax.jit, static_argnums=0)
def run(method, x_GSM, w_ME, weights, mask_GS):
  def loss(x_GSM, w_ME, weights):
    logits_GSE = routing.linear_logits(x_GSM, w_ME)
    route = routing.choose(logits_GSE, mask_GS, K, renormalize=False)
    y_GSM, delivery = transport.apply_experts(x_GSM, route, weights, method, 0.5)
    return jnp.sin(y_GSM).sum(), (y_GSM, delivery)

  return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(x_GSM, w_ME, weights)


@functools.cache
def on_one_device(method, sub_ln=False):
  return run(method, *problem(sub_ln))


def place(mesh, rules, x_GSM, w_ME, weights, mask_GS):
  layout = sharding.tree_shardings(weights._asdict(), mesh, rules)
  return (
    sharding.place_batch(x_GSM, mesh, len(x_GSM)),
    w_ME,
    jax.device_put(weights, ExpertWeights(**layout)),
    sharding.place_batch(mask_GS, mesh, len(mask_GS)),
  )


def close(actual, expected):
  # Sums over devices come in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    actual,
    expected,
  )


def compare(method, mesh, rules, sub_ln=False):
  """Checks value, gradient and their layout.

  Returns:
    The program's text, and the rounds that it took.
  """
  mesh = sharding.make_mesh(**mesh)
  with jax.set_mesh(mesh):
    inputs = place(mesh, rules, *problem(sub_ln))
    program = run.lower(method, *inputs).compile()
    actual = program(*inputs)
  (loss, (y_GSM, delivery)), gradients = actual
  alike = (loss, (y_GSM, delivery._replace(rounds=jnp.int32(1)))), gradients
  close(alike, on_one_device(method, sub_ln))
  _, _, d_weights = gradients
  assert y_GSM.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 3)
  part = d_weights.w_in_EMF.sharding.shard_shape((E, M, F))
  assert part[0] == E // mesh.shape["expert"]
  return program.as_text(), int(delivery.rounds)


@pytest.mark.parametrize(("mesh", "rules"), MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("method", DISPATCHES)
def test_a_mesh_equals_one_device(method, mesh, rules):
  text, rounds = compare(method, mesh, rules)
  apart = mesh.get("expert", 1) > 1
  assert (rounds > 1) == (apart and method == "rounds")
  if not apart:
    return
  if method == "sorted":
    assert "all-gather(" in text
    assert "reduce-scatter(" in text
    return
  # There and back, forward and backward, of sub-tokens: not only of masks or counts.
  # Rounds send sub-tokens once more in the backward pass.
  rows = re.compile(rf"f32\[[\d,]+,{M}\].* all-to-all\(")
  assert len(rows.findall(text)) == (5 if method == "rounds" else 4)


def test_a_norm_over_the_hidden_width_sees_all_of_it():
  compare("capacity", {"expert": 4, "model": 2}, sharding.REPLICATED, sub_ln=True)


def test_ways_that_drop_agree_and_so_do_those_that_do_not():
  for one, other in (("capacity", "einsum"), ("rounds", "sorted")):
    close(on_one_device(one), on_one_device(other))
  real = int(problem()[-1].sum()) * K
  for method, share in (("sorted", 1.0), ("capacity", 0.9)):
    delivery = on_one_device(method)[0][1][1]
    assert 0.3 * real < delivery.sent == delivery.served <= share * real


@pytest.mark.parametrize("method", DISPATCHES)
def test_the_future_is_not_seen_through_the_mesh(method):
  x_GSM, w_ME, weights, _ = problem()

  @jax.jit
  def outputs(start):
    # All the future to the same experts: as crowded as it gets.
    future_S = jnp.arange(S) >= start
    z_GSM = jnp.where(future_S[None, :, None], 3 * x_GSM[:1, :1], x_GSM)
    logits_GSE = routing.linear_logits(z_GSM, w_ME)
    route = routing.choose(logits_GSE, jnp.ones((G, S), bool), K, renormalize=False)
    return transport.apply_experts(z_GSM, route, weights, method, 0.5)[0]

  with jax.set_mesh(sharding.make_mesh(expert=4)):
    y_GSM = outputs(S)
    for s in range(1, S):
      z_GSM = outputs(s)
      np.testing.assert_array_equal(z_GSM[:, :s], y_GSM[:, :s])
      assert np.abs(z_GSM[:, s:] - y_GSM[:, s:]).max() > 0.01


def test_rows_lost_on_arrival_are_counted(monkeypatch):
  """Those of the first expert of each device, which it forgets here."""
  deliver_here = transport.deliver_here

  def forget(x_GSM, experts_GSK, *rest, **options):
    return deliver_here(
      x_GSM, jnp.where(experts_GSK == 0, E, experts_GSK), *rest, **options
    )

  monkeypatch.setattr(transport, "deliver_here", forget)
  x_GSM, w_ME, weights, mask_GS = problem()

  @jax.jit
  def deliver():
    route = routing.choose(routing.linear_logits(x_GSM, w_ME), mask_GS, K, False)
    return transport.apply_experts(x_GSM, route, weights, "sorted", 1.0)[1]

  with jax.set_mesh(sharding.make_mesh(expert=4)):
    delivery = deliver()
  assert delivery.sent == int(mask_GS.sum()) * K
  assert 0 < delivery.served < delivery.sent


@pytest.mark.parametrize("method", DISPATCHES)
def test_what_the_mesh_does_not_divide_is_named(method):
  x_GSM, w_ME, weights, mask_GS = problem()

  def message(mesh, num_groups, num_experts, width):
    small = jax.tree.map(lambda w: w[:num_experts], weights)
    small = small._replace(w_in_EMF=small.w_in_EMF[..., :width])
    inputs = (x_GSM[:num_groups], w_ME[:, :num_experts], small, mask_GS[:num_groups])
    with jax.set_mesh(sharding.make_mesh(**mesh)), pytest.raises(ValueError) as error:
      jax.eval_shape(functools.partial(run, method), *inputs)
    return str(error.value)

  assert message({"expert": 4}, 8, 6, 6) == (
    "expert of the mesh must divide num_experts, got num_experts=6, expert=4."
  )
  assert message({"model": 4}, 8, 8, 6) == (
    "model of the mesh must divide expert_dim, got expert_dim=6, model=4."
  )
  assert message({"expert": 4}, 6, 8, 6) == (
    "replica * data * expert of the mesh must divide batch_size, "
    "got batch_size=6, replica=1, data=2, expert=4."
  )


def test_no_mask_in_the_capacity_dispatch():
  """Nothing as large as the einsum's masks, forward or backward."""
  G, S, M, E, F = 2, 64, 4, 16, 4
  weights = ExpertWeights(jnp.ones((E, M, F)), jnp.ones((E, F, M)))
  inputs = jnp.ones((G, S, M)), jnp.ones((M, E)), weights, jnp.ones((G, S), bool)
  mask_size = G * S * E * dispatch.expert_capacity(S, E, K, 0.5)
  largest = {}
  for method in ("capacity", "einsum"):
    jaxpr = jax.make_jaxpr(functools.partial(run, method))(*inputs)
    largest[method] = max(v.aval.size for v in variables(jaxpr.jaxpr))
  assert largest["capacity"] < mask_size <= largest["einsum"]


def test_capacity_keeps_no_hidden_activations():
  """For its backward pass, of which the einsum keeps several."""
  G, S, M, E, F = 2, 8, 4, 4, 64
  weights = ExpertWeights(jnp.ones((E, M, F)), jnp.ones((E, F, M)))
  route = routing.choose(jnp.ones((G, S, E)), jnp.ones((G, S), bool), K, False)

  def kept(method):
    def apply(x_GSM, weights_GSK, weights):
      given = route._replace(weights_GSK=weights_GSK)
      return transport.apply_experts(x_GSM, given, weights, method, 1.0)[0]

    inputs = jnp.ones((G, S, M)), route.weights_GSK, weights
    vjp = jax.eval_shape(lambda *inputs: jax.vjp(apply, *inputs)[1], *inputs)
    return [x.shape for x in jax.tree.leaves(vjp) if x.shape[-1:] == (F,)]

  assert set(kept("capacity")) == {weights.w_in_EMF.shape}
  assert len(set(kept("einsum"))) > 1


def variables(jaxpr):
  for equation in jaxpr.eqns:
    yield from equation.outvars
    for inner in jaxprs_in_params(equation.params):
      yield from variables(inner)
