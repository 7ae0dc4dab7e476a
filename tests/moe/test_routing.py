import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe import routing
from tests.golden import golden

ONE = jnp.ones((1, 2), bool)


def test_choose_by_hand():
  # Softmax of log p is p: sub-token 0 prefers expert 2, then 0; sub-token 1 expert 1.
  logits_GSE = jnp.log(jnp.array([[[0.3, 0.2, 0.5], [0.1, 0.8, 0.1]]]))
  route = routing.choose(logits_GSE, ONE, top_k=2, renormalize=False)
  np.testing.assert_array_equal(route.experts_GSK, [[[2, 0], [1, 0]]])
  np.testing.assert_allclose(route.weights_GSK, [[[0.5, 0.3], [0.8, 0.1]]], rtol=1e-6)
  route = routing.choose(logits_GSE, ONE, top_k=2, renormalize=True)
  np.testing.assert_allclose(
    route.weights_GSK, [[[5 / 8, 3 / 8], [8 / 9, 1 / 9]]], rtol=1e-6
  )


def test_padding_goes_nowhere():
  mask_GS = jnp.array([[True, False]])
  route = routing.choose(jnp.zeros((1, 2, 3)), mask_GS, top_k=2, renormalize=True)
  np.testing.assert_array_equal(route.experts_GSK[0, 1], [3, 3])
  np.testing.assert_array_equal(route.weights_GSK[0, 1], [0, 0])


def test_logits_are_float32_for_bfloat16_sub_tokens():
  """257 has nine binary digits, of which bfloat16 keeps eight."""
  x_GSM = jnp.array([[[256, 1]]], jnp.bfloat16)
  w_MR = jnp.array([[1, 0], [1, 1]], jnp.bfloat16)  # to 257 and 1
  linear = routing.linear_logits(x_GSM, w_MR)[..., :1]
  projected = routing.projected_logits(x_GSM, w_MR, jnp.array([[2.0, 0]]))
  cosine = routing.cosine_logits(x_GSM, w_MR, jnp.array([[0, 2.0]]), jnp.zeros(()))
  assert linear.dtype == projected.dtype == cosine.dtype == jnp.float32
  np.testing.assert_allclose(linear, [[[257]]])
  np.testing.assert_allclose(projected, [[[257]]], rtol=1e-6)
  np.testing.assert_allclose(1 / cosine, [[[(257**2 + 1) ** 0.5]]], rtol=1e-5)


def test_what_is_no_routing():
  route = routing.choose(jnp.zeros((1, 2, 3)), ONE, 2, renormalize=False)
  routing.check_routing(route)
  with pytest.raises(ValueError, match=r"^routing must be a Routing, got a tuple\.$"):
    routing.check_routing(tuple(route))
  for wrong in (
    {"mask_GS": ONE[0]},
    {"experts_GSK": route.experts_GSK[:, :1]},
    {"probs_GSE": route.probs_GSE[:, :1]},
    {"logits_GSE": route.logits_GSE[..., :1]},
    {name: getattr(route, name)[0] for name in ("experts_GSK", "probs_GSE")},
  ):
    with pytest.raises(ValueError, match="must agree in G, S and E, got experts_GSK"):
      routing.check_routing(route._replace(**wrong))


def test_cosine_logits_do_not_see_lengths(key):
  x_key, w_key, e_key = jax.random.split(key, 3)
  x_GSM = jax.random.normal(x_key, (1, 5, 8))
  w_MR = jax.random.normal(w_key, (8, 4))
  embed_ER = jax.random.normal(e_key, (3, 4))
  tau = jnp.log(0.5)
  logits = routing.cosine_logits(x_GSM, w_MR, embed_ER, tau)
  scaled = routing.cosine_logits(7 * x_GSM, w_MR, 0.2 * embed_ER, tau)
  np.testing.assert_allclose(logits, scaled, rtol=1e-4)
  assert np.abs(logits).max() <= 2.0 + 1e-5  # 1 / tau
  parallel = routing.cosine_logits(x_GSM, w_MR, (x_GSM @ w_MR)[0, :3], tau)
  np.testing.assert_allclose(jnp.diagonal(parallel[0, :3]), 2.0, rtol=1e-5)


def test_projected_logits_normalise_the_experts_only(key):
  x_GSM = jax.random.normal(key, (1, 5, 8))
  w_MR, embed_ER = jnp.eye(8, 4), jnp.eye(3, 4)
  logits = routing.projected_logits(x_GSM, w_MR, 9 * embed_ER)
  np.testing.assert_allclose(logits, x_GSM[..., :3], rtol=1e-5)


@pytest.mark.parametrize("embed", [0.0, 1.0])
def test_cosine_gradient_is_finite_at_zero(embed):
  def total(x_GSM):
    e_ER = embed * jnp.ones((3, 4))
    return routing.cosine_logits(x_GSM, jnp.ones((8, 4)), e_ER, jnp.zeros(())).sum()

  assert np.isfinite(jax.grad(total)(jnp.zeros((1, 2, 8)))).all()


def test_projected_router_equals_pytorch():
  """torchscale's router overwrites its embeddings at a norm of 1.5 before it looks."""
  inputs = golden.waves(5, x=(4, 6), w=(6, 3), embed=(5, 3))
  expected = golden.load("projected_router")
  inputs = {name: jnp.float32(x) for name, x in inputs.items()}

  def logits(x, w, embed):
    return routing.projected_logits(x[None], w, embed, 1.5)[0]

  y, pull = jax.vjp(logits, *inputs.values())
  np.testing.assert_allclose(y, expected["y"], rtol=1e-5, atol=1e-6)
  gradients = pull(jnp.float32(golden.wave(0.3, 4, 5)))
  for name, d in zip(inputs, gradients, strict=True):
    np.testing.assert_allclose(d, expected[f"d_{name}"], rtol=1e-4, atol=1e-5)
  found = routing.rescale(inputs["embed"], 1.5)
  np.testing.assert_allclose(found, expected["embed"], rtol=1e-5, atol=1e-6)


def test_free_embeddings_have_a_gradient_of_their_own_length(key):
  x_GSM, w_MR, embed_ER = jnp.ones((1, 1, 2)), jnp.eye(2), jnp.array([[0.0, 3.0]])
  gradient = jax.grad(
    lambda e, norm: routing.projected_logits(x_GSM, w_MR, e, norm).sum()
  )
  np.testing.assert_allclose(gradient(embed_ER, 0.0), [[1 / 3, 0]], atol=1e-6)
  np.testing.assert_allclose(gradient(embed_ER, 1.5), [[1 / 1.5, 0]], atol=1e-6)


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def unit(x):
  return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


def slopes(function, inputs, step=1e-5):
  """Central differences of a number in float64, for every element of every input."""
  gradients = []
  for i, x in enumerate(inputs):
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
      moved = []
      for sign in (1, -1):
        copies = [a.copy() for a in inputs]
        copies[i][place] += sign * step
        moved.append(function(*copies))
      gradient[place] = (moved[0] - moved[1]) / (2 * step)
    gradients.append(gradient)
  return gradients


FORMULAS = {  # of numpy, beside ours
  "linear": (lambda x, w: x @ w, routing.linear_logits, [(1, 3, 4), (4, 5)]),
  "cosine": (
    lambda x, w, e, log_tau: unit(x @ w) @ unit(e).T / np.exp(log_tau),
    routing.cosine_logits,
    [(1, 3, 4), (4, 2), (5, 2), ()],
  ),
  "projected": (
    lambda x, w, e: x @ w @ unit(e).T,
    routing.projected_logits,
    [(1, 3, 4), (4, 2), (5, 2)],
  ),
}


@pytest.mark.parametrize(
  ("formula", "logits", "shapes"), FORMULAS.values(), ids=FORMULAS
)
def test_logits_and_their_gradients_are_those_of_numpy(formula, logits, shapes):
  draw = np.random.default_rng(0)
  inputs = [np.asarray(draw.normal(size=shape)) for shape in shapes]
  single = [jnp.asarray(x, jnp.float32) for x in inputs]
  # rsqrt(square + 1e-8) is a unit vector's to some 1e-8.
  close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
  close(logits(*single), formula(*inputs))
  expected = slopes(lambda *inputs: np.sin(formula(*inputs)).sum(), inputs)
  gradients = jax.grad(
    lambda *inputs: jnp.sin(logits(*inputs)).sum(), tuple(range(len(inputs)))
  )(*single)
  jax.tree.map(close, gradients, tuple(expected))


@pytest.mark.parametrize("renormalize", [False, True])
def test_weights_and_their_gradients_are_those_of_numpy(renormalize):
  logits_SE = np.array([[0.2, 1.5, -0.3, 0.9], [2.0, -1.0, 0.1, 0.4]])
  chosen_SK, factor_SK = np.array([[1, 3], [0, 3]]), np.array([[1.0, -2.0], [0.5, 3.0]])

  def expected(logits_SE):
    weights_SK = np.take_along_axis(softmax(logits_SE), chosen_SK, axis=1)
    if renormalize:
      weights_SK = weights_SK / weights_SK.sum(axis=1, keepdims=True)
    return (weights_SK * factor_SK).sum()

  def actual(logits_SE):
    route = routing.choose(logits_SE[None], ONE, 2, renormalize)
    return (route.weights_GSK[0] * factor_SK.astype(np.float32)).sum()

  value, gradient = jax.value_and_grad(actual)(jnp.asarray(logits_SE, jnp.float32))
  np.testing.assert_allclose(value, expected(logits_SE), rtol=1e-5)
  np.testing.assert_allclose(
    gradient, slopes(expected, [logits_SE])[0], rtol=1e-4, atol=1e-6
  )


def test_of_nan_and_inf_all_choices_differ_and_have_nan_weights():
  strange = [
    [np.nan] * 3,
    [np.inf, 0, np.nan],
    [-np.inf, np.inf, -np.inf],
    [np.inf] * 3,
  ]
  logits_GSE = jnp.array([strange], jnp.float32)
  route = routing.choose(logits_GSE, jnp.ones((1, 4), bool), 3, renormalize=False)
  np.testing.assert_array_equal(np.sort(route.experts_GSK), [[[0, 1, 2]] * 4])
  assert np.isnan(route.weights_GSK).all()
  # -inf alone is a probability of zero.
  logits_GSE = jnp.broadcast_to(jnp.array([-np.inf, 0, 0]), (1, 4, 3))
  route = routing.choose(logits_GSE, jnp.ones((1, 4), bool), 3, renormalize=False)
  np.testing.assert_array_equal(route.experts_GSK, [[[1, 2, 0]] * 4])
  np.testing.assert_array_equal(route.weights_GSK, [[[0.5, 0.5, 0]] * 4])
