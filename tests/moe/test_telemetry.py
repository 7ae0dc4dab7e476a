import jax.numpy as jnp
import numpy as np

from mhmoe_jax import active_share
from mhmoe_jax.moe import routing
from mhmoe_jax.moe.telemetry import router_stats


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


def test_two_tokens_of_two_heads_by_hand():
  # Token 0: head 0 to experts {0, 1}, head 1 to {0, 2}: three different experts.
  # Token 1: head 0 to {0, 1}, head 1 to {0, 1}: two.
  stats = router_stats(_route([[0, 1], [0, 2], [0, 1], [0, 1]], 4), None, num_heads=2)
  np.testing.assert_allclose(stats.load_HE, [[0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0]])
  np.testing.assert_allclose(stats.distinct_experts, 2.5)
  np.testing.assert_allclose(stats.entropy, np.log(4), rtol=1e-6)
  np.testing.assert_allclose(stats.dropped, 0.0)


def test_dropped_share_counts_real_choices_only():
  route = _route([[0, 1], [0, 2], [0, 1], [0, 1]], 4, padding=(2, 3))
  kept_GSK = jnp.array([[[True, False], [True, True], [False, False], [False, False]]])
  np.testing.assert_allclose(router_stats(route, kept_GSK, 2).dropped, 1 / 4)


def test_padding_is_not_counted():
  real = router_stats(_route([[0, 1], [0, 2]], 4), None, num_heads=2)
  padded = router_stats(
    _route([[0, 1], [0, 2], [3, 3], [3, 3]], 4, padding=(2, 3)), None, num_heads=2
  )
  for a, b in zip(real, padded, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_active_share_is_in_units_of_an_even_share():
  # An even share is 0.25; a tenth of it 0.025.
  load_E = jnp.array([0.9, 0.05, 0.03, 0.02])
  np.testing.assert_allclose(active_share(load_E), 0.75)
  np.testing.assert_allclose(active_share(load_E, threshold=0.15), 0.5)
