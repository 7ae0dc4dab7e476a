"""Second derivatives: right where they exist, one line where they do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe.config import DROPLESS
from mhmoe_jax.moe.once import once

X_BLD = jax.random.normal(jax.random.key(1), (1, 3, 8))


@functools.cache
def slope(dispatch):
  """The gradient of a loss along a line of inputs, as a function of the place on it."""
  layer = MultiHeadMoe(
    MoeConfig(2, 3, 4, dispatch=dispatch, eval_capacity_factor=9.0, num_linear=0)
  )
  params = layer.init(jax.random.key(0), X_BLD)
  return jax.grad(lambda t: jnp.sin(layer.apply(params, t * X_BLD)[0]).sum())


@pytest.mark.parametrize("dispatch", ["capacity", "einsum"])
def test_second_derivatives_of_ways_with_slots(dispatch):
  step = 1e-2
  difference = (slope(dispatch)(1 + step) - slope(dispatch)(1 - step)) / (2 * step)
  for second in (jax.grad(slope(dispatch)), jax.jacfwd(slope(dispatch))):
    np.testing.assert_allclose(jax.jit(second)(1.0), difference, rtol=1e-2)


@pytest.mark.parametrize("dispatch", DROPLESS)
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd])
def test_those_of_the_others_are_refused(dispatch, mode):
  with pytest.raises(ValueError) as error:
    jax.jit(mode(slope(dispatch)))(1.0)
  assert str(error.value) == (
    "dispatch must be 'capacity' or 'einsum' for second derivatives and for jax.jvp, "
    "got 'sorted' or 'rounds', which have first derivatives in reverse mode only."
  )


def test_a_rule_is_itself_where_nobody_differentiates_it():
  assert once(lambda x: 2 * x)(3.0) == 6.0
  with pytest.raises(ValueError, match="dispatch must be"):
    jax.grad(once(lambda x: 2 * x))(3.0)
