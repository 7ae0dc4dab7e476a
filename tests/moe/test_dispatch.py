import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe import dispatch, routing


def _route(experts_GSK, num_experts, mask_GS=None):
  """A routing with given choices; weights 1, 1/2, 1/3... by choice."""
  experts_GSK = jnp.asarray(experts_GSK)
  G, S, K = experts_GSK.shape
  mask_GS = jnp.ones((G, S), bool) if mask_GS is None else jnp.asarray(mask_GS)
  weights_GSK = jnp.broadcast_to(1 / jnp.arange(1.0, K + 1), (G, S, K))
  zeros_GSE = jnp.zeros((G, S, num_experts))
  return routing.Routing(experts_GSK, weights_GSK, zeros_GSE, zeros_GSE, mask_GS)


def test_three_sub_tokens_three_experts_two_slots():
  # In position-major order the choices are s0: 0, 1; s1: 0, 2; s2: 0, 1. Expert 0 has
  # two slots, for s0 and s1, and drops s2's first choice; s2's second choice still gets
  # the second slot of expert 1.
  slots = dispatch.assign_slots(_route([[[0, 1], [0, 2], [0, 1]]], 3), capacity=2)
  np.testing.assert_array_equal(
    slots.kept_GSK, [[[True, True], [True, True], [False, True]]]
  )
  expected_SEC = np.zeros((3, 3, 2), bool)
  expected_SEC[0, 0, 0] = expected_SEC[0, 1, 0] = True
  expected_SEC[1, 0, 1] = expected_SEC[1, 2, 0] = True
  expected_SEC[2, 1, 1] = True
  np.testing.assert_array_equal(slots.mask_GSEC[0], expected_SEC)

  x_GSM = jnp.array([[[1.0], [2.0], [4.0]]])
  x_EGCM = dispatch.to_experts(x_GSM, slots)
  np.testing.assert_array_equal(x_EGCM[:, 0, :, 0], [[1, 2], [1, 4], [2, 0]])
  # With identity experts a sub-token gets back itself times the weights it kept.
  y_GSM = dispatch.from_experts(x_EGCM, slots)
  np.testing.assert_allclose(y_GSM[0, :, 0], [1.5 * 1, 1.5 * 2, 0.5 * 4])


def test_dropped_everywhere_is_exactly_zero():
  slots = dispatch.assign_slots(_route([[[0], [0]]], 1), capacity=1)
  x_EGCM = dispatch.to_experts(jnp.ones((1, 2, 3)), slots)
  np.testing.assert_array_equal(
    dispatch.from_experts(x_EGCM, slots)[0, 1], jnp.zeros(3)
  )


@pytest.mark.parametrize(
  ("subtokens", "experts", "k", "factor", "expected"),
  [
    (16, 4, 2, 1.0, 8),
    (16, 4, 2, 1.25, 10),
    (10, 4, 1, 1.0, 3),
    (4, 2, 2, 9.0, 4),
    # In floating point 16: 100 / 7 * 1.05 is 15 and one digit in the last place.
    (100, 7, 1, 1.05, 15),
    (10, 1, 1, 0.1, 1),
    (30, 1, 1, 0.1, 3),
    (3_000_000_000, 1, 1, 1 / 3, 1_000_000_000),
  ],
)
def test_expert_capacity(subtokens, experts, k, factor, expected):
  assert dispatch.expert_capacity(subtokens, experts, k, factor) == expected


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((0, 2, 1, 1.0), "num_subtokens must be at least 1, got num_subtokens=0."),
    ((8, 2.0, 1, 1.0), "num_experts must be of type int, got num_experts=2.0 of type"),
    ((8, 2, True, 1.0), "top_k must be of type int, got top_k=True of type bool."),
    ((8, 2, 1, np.inf), "capacity_factor must be finite, got capacity_factor=inf."),
    ((8, 2, 1, np.nan), "capacity_factor must be finite, got capacity_factor=nan."),
  ],
)
def test_capacity_of_what_is_no_number(arguments, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    dispatch.expert_capacity(*arguments)


def test_capacity_factor_must_be_positive():
  message = r"^capacity_factor must be positive, got capacity_factor=0.0\.$"
  with pytest.raises(ValueError, match=message):
    dispatch.expert_capacity(8, 2, 1, 0.0)


@pytest.mark.parametrize("factor", [0.4, 1.0, 9.0])
def test_slots_by_sorting_are_those_of_the_masks(key, factor):
  G, S, E, K, M = 3, 10, 5, 2, 4
  logits_GSE = jax.random.normal(key, (G, S, E))
  mask_GS = jnp.arange(S)[None] < jnp.array([10, 7, 0])[:, None]
  route = routing.choose(logits_GSE, mask_GS, K, renormalize=False)
  capacity = dispatch.expert_capacity(S, E, K, factor)
  x_GSM = jax.random.normal(key, (G, S, M))

  masks = dispatch.assign_slots(route, capacity)
  sort = jax.jit(dispatch.sort_into_slots, static_argnums=(1, 2))
  slots = sort(route.experts_GSK, E, capacity)
  np.testing.assert_array_equal(slots.slot_GSK < E * G * capacity, masks.kept_GSK)
  np.testing.assert_array_equal(
    slots.filled_EG, masks.mask_GSEC.sum(axis=(1, 3)).swapaxes(0, 1)
  )
  x_EGCM = dispatch.to_experts(x_GSM, masks)
  x_ERM = dispatch.to_slots(x_GSM, slots)
  np.testing.assert_array_equal(x_ERM, x_EGCM.reshape(E, -1, M))
  scale_ER = dispatch.choices_to_slots(route.weights_GSK, slots)
  np.testing.assert_allclose(
    dispatch.from_slots(x_ERM * scale_ER[..., None], slots),
    dispatch.from_experts(x_EGCM, masks),
    rtol=1e-6,
  )


def test_sort_by_hand():
  # First choices 2, 1, 4 are numbered 0 to 2, second ones 0, 0, 2 from 3 to 5; there is
  # no expert 4.
  rows = dispatch.sort_by_expert(jnp.array([[2, 0], [1, 0], [4, 2]]), 3)
  np.testing.assert_array_equal(rows.order_T, [3, 4, 1, 0, 5, 2])
  np.testing.assert_array_equal(rows.sizes_E, [2, 1, 2])
  np.testing.assert_array_equal(rows.row_KS, [[3, 2, 5], [0, 1, 4]])


def test_rows_come_back_to_their_sub_tokens(key):
  experts_SK = jax.random.randint(key, (50, 3), 0, 8)
  x_SM = jax.random.normal(key, (50, 4))
  weights_SK = jax.random.uniform(key, (50, 3))
  rows = dispatch.sort_by_expert(experts_SK, 8)

  def there_and_back(x_SM, weights_SK):
    scale_T = dispatch.weights_to_rows(weights_SK, rows)
    return dispatch.from_rows(dispatch.to_rows(x_SM, rows) * scale_T[:, None], rows)

  def expected(x_SM, weights_SK):
    return x_SM * weights_SK.sum(1, keepdims=True)

  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  y_SM, vjp = jax.vjp(there_and_back, x_SM, weights_SK)
  expected_SM, expected_vjp = jax.vjp(expected, x_SM, weights_SK)
  close(y_SM, expected_SM)
  jax.tree.map(close, vjp(y_SM), expected_vjp(y_SM))


def test_too_many_rows_to_number():
  experts = jax.ShapeDtypeStruct((2**20, 8), jnp.int32)
  with pytest.raises(ValueError, match="num_experts=511, rows=8388608"):
    jax.eval_shape(lambda e: dispatch.sort_by_expert(e, 511), experts)


def test_ways_with_slots_by_hand(key):
  """Experts that multiply by a number of their own, value and gradient."""
  # One slot each. s0 and s1 want expert 0, and both have expert 1 or 2 as well; s1's
  # first choice is dropped.
  route = _route([[[0, 1], [0, 2]]], 3)
  factor_E = jnp.array([2.0, 3.0, 5.0])
  x_GSM = jnp.array([[[1.0, 10.0], [4.0, 40.0]]])
  dy_GSM = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])

  def by_masks(x_GSM, weights_GSK, factor_E):
    slots = dispatch.assign_slots(route._replace(weights_GSK=weights_GSK), 1)
    y_EGCM = dispatch.to_experts(x_GSM, slots) * factor_E[:, None, None, None]
    return dispatch.from_experts(y_EGCM, slots)

  def by_sorting(x_GSM, weights_GSK, factor_E):
    slots = dispatch.sort_into_slots(route.experts_GSK, 3, 1)
    y_ERM = dispatch.to_slots(x_GSM, slots) * factor_E[:, None, None]
    scale_ER = dispatch.choices_to_slots(weights_GSK, slots)
    return dispatch.from_slots(y_ERM * scale_ER[..., None], slots)

  for way in (by_masks, by_sorting):
    y_GSM, vjp = jax.vjp(way, x_GSM, route.weights_GSK, factor_E)
    # s0: 1 * 2 x + 1/2 * 3 x; s1: 1/2 * 5 x.
    np.testing.assert_allclose(y_GSM, [[[3.5, 35.0], [10.0, 100.0]]])
    dx_GSM, dweights_GSK, dfactor_E = vjp(dy_GSM)
    np.testing.assert_allclose(dx_GSM, [[[3.5, 0.0], [0.0, 2.5]]])
    # Of s0 the first number, of s1 the second: 2 * 1, 3 * 1; dropped, 5 * 40.
    np.testing.assert_allclose(dweights_GSK, [[[2.0, 3.0], [0.0, 200.0]]])
    np.testing.assert_allclose(dfactor_E, [1.0, 0.5 * 1.0, 0.5 * 40.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_masks_do_not_spread_what_is_not_finite(bad):
  slots = dispatch.assign_slots(_route([[[0, 1], [0, 2], [0, 1]]], 3), capacity=2)
  x_GSM = jnp.array([[[1.0, 1.0], [bad, 2.0], [4.0, 4.0]]])
  x_EGCM = dispatch.to_experts(x_GSM, slots)
  np.testing.assert_array_equal(
    np.isnan(x_EGCM[:, 0]).all(axis=-1), [[False, True], [False, False], [True, False]]
  )
  np.testing.assert_array_equal(np.isfinite(x_EGCM).all(-1), ~np.isnan(x_EGCM).all(-1))
  # An expert's overflow on one of its rows is that of the row's sub-token alone.
  y_EGCM = jnp.ones((3, 1, 2, 2)).at[2, 0, 0, 1].set(bad)
  y_GSM = dispatch.from_experts(y_EGCM, slots)
  np.testing.assert_allclose(y_GSM[0], [[1.5, 1.5], [np.nan, np.nan], [0.5, 0.5]])


def test_seeds_go_with_their_choices():
  """Choice k of sub-token s has 10 s + k; of expert 0 the third finds no slot."""
  route = _route([[[0, 1], [0, 2], [0, 1]]], 3)
  seeds_GSK = jnp.array([[[0, 1], [10, 11], [20, 21]]], jnp.uint32)
  rows = dispatch.sort_by_expert(route.experts_GSK[0], 3)
  assert dispatch.seeds_to_rows(seeds_GSK, rows).tolist() == [0, 10, 20, 1, 21, 11]
  expected = [[[0, 10]], [[1, 21]], [[11, 0]]]
  slots = dispatch.sort_into_slots(route.experts_GSK, 3, capacity=2)
  in_slots = dispatch.choices_to_slots(seeds_GSK, slots)
  assert in_slots.reshape(3, 1, 2).tolist() == expected
  slots = dispatch.assign_slots(route, capacity=2)
  assert dispatch.seeds_to_experts(seeds_GSK, route, slots).tolist() == expected
