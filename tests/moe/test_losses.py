import jax.numpy as jnp
import numpy as np

from mhmoe_jax import balance_loss, router_z_loss
from mhmoe_jax.moe import routing


def _route(probs, mask=None, top_k=1):
  probs_GSE = jnp.asarray(probs)[None]
  mask_GS = jnp.ones(probs_GSE.shape[:2], bool) if mask is None else jnp.asarray([mask])
  return routing.choose(jnp.log(probs_GSE), mask_GS, top_k, renormalize=False)


def test_balance_loss_by_hand():
  # Choices: expert 0 twice, expert 1 once, so t = (2/3, 1/3).
  # Mean probabilities g = ((.9 + .6 + .2) / 3, (.1 + .4 + .8) / 3) = (1.7, 1.3) / 3.
  route = _route([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
  np.testing.assert_allclose(
    balance_loss(route), 2 * (2 / 3 * 1.7 / 3 + 1 / 3 * 1.3 / 3), rtol=1e-5
  )


def test_balance_loss_is_one_when_even_and_E_when_collapsed():
  even = _route([[0.7, 0.3], [0.3, 0.7]])
  np.testing.assert_allclose(balance_loss(even), 1.0, rtol=1e-5)
  even = _route([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]], top_k=3)
  np.testing.assert_allclose(balance_loss(even), 1.0, rtol=1e-5)
  collapsed = _route([[1.0, 1e-9, 1e-9]] * 4)
  np.testing.assert_allclose(balance_loss(collapsed), 3.0, rtol=1e-5)


def test_z_loss_by_hand():
  # Logits are logs of probabilities, so log Z = 0; a shift by 2 makes it 2.
  route = _route([[0.9, 0.1], [0.6, 0.4]])
  np.testing.assert_allclose(router_z_loss(route), 0.0, atol=1e-6)
  shifted = route._replace(logits_GSE=route.logits_GSE + 2)
  np.testing.assert_allclose(router_z_loss(shifted), 4.0, rtol=1e-5)


def test_padding_counts_in_neither():
  real = [[0.9, 0.1], [0.6, 0.4]]
  padded = _route([*real, [0.01, 0.99]], mask=[True, True, False])
  np.testing.assert_allclose(
    balance_loss(padded), balance_loss(_route(real)), rtol=1e-6
  )
  shifted = padded._replace(logits_GSE=padded.logits_GSE.at[0, 2].add(5.0))
  np.testing.assert_allclose(router_z_loss(shifted), 0.0, atol=1e-6)
