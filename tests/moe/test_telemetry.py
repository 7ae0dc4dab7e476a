import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import active_share
from mhmoe_jax.moe import routing
from mhmoe_jax.moe.telemetry import choices, router_entropy, router_stats
from mhmoe_jax.moe.transport import Delivery


def _route(experts, num_experts, padding=()):
  """A routing with given choices: one group, (S, K) experts, uniform probabilities."""
  experts_GSK = jnp.asarray(experts)[None]
  S = experts_GSK.shape[1]
  mask_GS = jnp.array([[s not in padding for s in range(S)]])
  logits_GSE = jnp.zeros((1, S, num_experts))
  route = routing.choose(logits_GSE, mask_GS, experts_GSK.shape[2], renormalize=False)
  return route._replace(
    experts_GSK=jnp.where(mask_GS[..., None], experts_GSK, num_experts)
  )


def _all_served(count):
  return _delivery(count, count)


def _delivery(sent, served):
  return Delivery(jnp.array(sent), jnp.array(served), kept_GSK=None)


def test_two_tokens_of_two_heads_by_hand():
  # Token 0: head 0 to experts {0, 1}, head 1 to {0, 2}: three different experts.
  # Token 1: head 0 to {0, 1}, head 1 to {0, 1}: two.
  route = _route([[0, 1], [0, 2], [0, 1], [0, 1]], 4)
  stats = router_stats(route, _all_served(8), num_heads=2)
  np.testing.assert_allclose(stats.load_HE, [[0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0]])
  np.testing.assert_allclose(stats.distinct_experts, 2.5)
  np.testing.assert_allclose(stats.distinct_X, [0, 0.5, 0.5, 0])
  np.testing.assert_allclose(stats.entropy, np.log(4), rtol=1e-6)
  assert stats.dropped_sender == stats.dropped_receiver == 0


def test_one_choice_of_each_head_by_hand():
  """Of two tokens, which have one expert each."""
  route = _route([[1], [3], [3], [2]], 4, padding=(1, 2))
  stats = router_stats(route, _all_served(2), num_heads=2)
  np.testing.assert_array_equal(stats.load_HE, [[0, 1, 0, 0], [0, 0, 1, 0]])
  assert stats.distinct_experts == 1
  np.testing.assert_array_equal(stats.distinct_X, [1, 0])


def test_an_expert_of_two_heads_counts_once():
  stats = router_stats(_route([[0, 1], [1, 2]], 4), _all_served(4), num_heads=2)
  assert stats.distinct_experts == 3


def test_drops_are_shares_of_real_choices():
  # Two real sub-tokens make four choices: one found no slot, one was lost on the way.
  route = _route([[0, 1], [0, 2], [0, 1], [0, 1]], 4, padding=(2, 3))
  stats = router_stats(route, _delivery(sent=3, served=2), 2)
  np.testing.assert_allclose(stats.dropped_sender, 1 / 4)
  np.testing.assert_allclose(stats.dropped_receiver, 1 / 4)


def test_without_choices_nothing_is_dropped():
  route = _route([[0, 1], [0, 1]], 4, padding=(0, 1))
  stats = router_stats(route, _all_served(0), 2)
  assert stats.dropped_sender == stats.dropped_receiver == 0


def test_padding_is_not_counted():
  real = router_stats(_route([[0, 1], [0, 2]], 4), _all_served(4), num_heads=2)
  padded = router_stats(
    _route([[0, 1], [0, 2], [3, 3], [3, 3]], 4, padding=(2, 3)),
    _all_served(4),
    num_heads=2,
  )
  for a, b in zip(real, padded, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_active_share_is_in_units_of_an_even_share():
  # An even share is 0.25; a tenth of it 0.025.
  load_E = jnp.array([0.9, 0.05, 0.03, 0.02])
  np.testing.assert_allclose(active_share(load_E), 0.75)
  np.testing.assert_allclose(active_share(load_E, threshold=0.15), 0.5)


def test_choices_by_token_and_head():
  route = _route([[0, 1], [0, 2], [3, 1], [0, 1]], 4, padding=(2, 3))
  kept_GSK = jnp.array([[[True, False], [True, True], [False] * 2, [False] * 2]])
  made = choices(route, _delivery(3, 3)._replace(kept_GSK=kept_GSK), num_heads=2)
  assert made.expert_BLHK.tolist() == [[[[0, 1], [0, 2]], [[4, 4], [4, 4]]]]
  assert made.kept_BLHK.tolist() == [
    [[[True, False], [True, True]], [[False] * 2, [False] * 2]]
  ]
  assert made.weight_BLHK.tolist() == [[[[0.25] * 2] * 2, [[0.0] * 2] * 2]]
  np.testing.assert_allclose(made.entropy_BLH, np.full((1, 2, 2), np.log(4)), rtol=1e-6)


def test_entropies_by_hand():
  # (1/2, 1/4, 1/4): 3/2 log 2. (1/3, 1/3, 1/3): log 3. The third is padding, of NaN.
  logits_GSE = jnp.array([[[np.log(2), 0, 0], [5, 5, 5], [np.nan, 0, 0]]], jnp.float32)
  mask_GS = jnp.array([[True, True, False]])
  route = routing.choose(logits_GSE, mask_GS, 1, renormalize=False)
  expected = 1.5 * np.log(2), np.log(3)
  np.testing.assert_allclose(router_entropy(route)[0, :2], expected, rtol=1e-6)
  stats = router_stats(route, _all_served(2), 1)
  np.testing.assert_allclose(stats.entropy, sum(expected) / 2, rtol=1e-6)


def test_nothing_is_learned_from_statistics():
  def total(logits_GSE):
    route = routing.choose(logits_GSE, jnp.ones((1, 2), bool), 1, renormalize=False)
    return sum(x.sum() for x in router_stats(route, _all_served(2), 1))

  gradient = jax.grad(total)(jnp.array([[[1.0, 0.0], [0.0, 3.0]]]))
  np.testing.assert_array_equal(gradient, np.zeros((1, 2, 2)))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((0.5,), "load_E must be an array of shape (..., E), got 0.5."),
    (
      ([0.5, 0.5], "1"),
      "threshold must be of type float, got threshold='1' of type str.",
    ),
    (([0.5, 0.5], np.nan), "threshold must be finite, got threshold=nan."),
    (([0.5, 0.5], -1), "threshold must be at least 0, got threshold=-1."),
  ],
)
def test_active_share_of_what_is_no_load(arguments, message):
  with pytest.raises(ValueError) as error:
    active_share(*arguments)
  assert str(error.value) == message
