import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def _with_logits(logits_SE, mask=None):
  logits_GSE = jnp.asarray(logits_SE)[None]
  mask_GS = jnp.ones(logits_GSE.shape[:2], bool) if mask is None else jnp.array([mask])
  return routing.choose(logits_GSE, mask_GS, 1, renormalize=False)


def test_balance_gradient_by_hand():
  # p = (3/4, 1/4) and (2/3, 1/3), so both choose expert 0: t = (1, 0), the loss is
  # 2 * mean(p_0), and d p_0 / d logits = p_0 p_1 (1, -1): 3/16 and 2/9.
  logits_SE = np.log([[3.0, 1.0], [2.0, 1.0]])
  expected = [[3 / 16, -3 / 16], [2 / 9, -2 / 9]]
  gradient = jax.grad(lambda x: balance_loss(_with_logits(x)))(jnp.asarray(logits_SE))
  np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_z_gradient_by_hand():
  # Partition functions 4 and 3: d log(Z)^2 / d logits = 2 log(Z) p, over two.
  logits_SE = np.log([[3.0, 1.0], [2.0, 1.0]])
  expected = [
    [np.log(4) * 3 / 4, np.log(4) / 4],
    [np.log(3) * 2 / 3, np.log(3) / 3],
  ]
  loss = (np.log(4) ** 2 + np.log(3) ** 2) / 2
  np.testing.assert_allclose(router_z_loss(_with_logits(logits_SE)), loss, rtol=1e-5)
  gradient = jax.grad(lambda x: router_z_loss(_with_logits(x)))(jnp.asarray(logits_SE))
  np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [balance_loss, router_z_loss])
def test_of_padding_alone_is_zero_whatever_is_there(loss):
  real = np.log([[3.0, 1.0], [2.0, 1.0]])
  assert loss(_with_logits(real, mask=[False, False])) == 0
  spoilt = np.concatenate([real, [[np.nan, np.inf]]])
  np.testing.assert_allclose(
    loss(_with_logits(spoilt, mask=[True, True, False])), loss(_with_logits(real))
  )
  assert np.isnan(loss(_with_logits(spoilt)))


@pytest.mark.parametrize("loss", [balance_loss, router_z_loss])
def test_what_is_no_routing(loss):
  with pytest.raises(ValueError, match=r"^routing must be a Routing, got a float\.$"):
    loss(1.0)
  route = _with_logits(np.zeros((2, 2)))
  with pytest.raises(ValueError) as error:
    loss(route._replace(mask_GS=jnp.ones((1, 1), bool)))
  assert str(error.value) == (
    "the arrays of a routing must agree in G, S and E, got experts_GSK of shape "
    "(1, 2, 1), logits_GSE of (1, 2, 2), probs_GSE of (1, 2, 2), mask_GS of (1, 1)."
  )


def test_of_a_single_sub_token():
  # p = (3/4, 1/4): 2 * 1 * 3/4, and log(4)^2.
  route = _with_logits(np.log([[3.0, 1.0]]))
  np.testing.assert_allclose(balance_loss(route), 1.5, rtol=1e-6)
  np.testing.assert_allclose(router_z_loss(route), np.log(4) ** 2, rtol=1e-6)
