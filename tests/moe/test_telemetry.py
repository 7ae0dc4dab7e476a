import jax.numpy as jnp
import numpy as np

from mhmoe_jax import active_share
from mhmoe_jax.moe import routing
from mhmoe_jax.moe.telemetry import choices, router_stats
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
