import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import merge_heads, split_heads


def test_sub_tokens_are_contiguous_slices_in_token_order():
  x_BLD = jnp.arange(12).reshape(1, 2, 6)
  expected = [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]]
  np.testing.assert_array_equal(split_heads(x_BLD, 3), expected)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6])
def test_merge_inverts_split(num_heads):
  x_BLD = jnp.arange(2 * 5 * 6).reshape(2, 5, 6)
  np.testing.assert_array_equal(
    merge_heads(split_heads(x_BLD, num_heads), num_heads), x_BLD
  )


def test_width_must_divide():
  message = "num_heads must divide embed_dim, got num_heads=4, embed_dim=6."
  with pytest.raises(ValueError, match=f"^{message}$"):
    split_heads(jnp.zeros((1, 2, 6)), 4)


@pytest.mark.parametrize("num_heads", [2, 3])
def test_a_gradient_goes_back_where_its_number_came_from(num_heads):
  factor_BSM = jnp.arange(12.0).reshape(1, 2 * num_heads, 6 // num_heads)
  gradient = jax.grad(lambda x: (split_heads(x, num_heads) * factor_BSM).sum())(
    jnp.ones((1, 2, 6))
  )
  np.testing.assert_array_equal(gradient, np.arange(12.0).reshape(1, 2, 6))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: split_heads(jnp.zeros((2, 6)), 2),
      "x_BLD must be an array of shape (B, L, D), got shape (2, 6) of float32.",
    ),
    (
      lambda: split_heads([[1.0]], 1),
      "x_BLD must be an array of shape (B, L, D), got a list.",
    ),
    (
      lambda: merge_heads(jnp.zeros((1, 1, 4, 6)), 2),
      "x_BSM must be an array of shape (B, S, M), got shape (1, 1, 4, 6) of float32.",
    ),
    (
      lambda: merge_heads(jnp.zeros((1, 5, 6)), 2),
      "num_heads must divide the number of sub-tokens, "
      "got num_heads=2, x_BSM of shape (1, 5, 6).",
    ),
    (
      lambda: split_heads(jnp.zeros((1, 2, 6)), 2.0),
      "num_heads must be of type int, got num_heads=2.0 of type float.",
    ),
    (
      lambda: split_heads(jnp.zeros((1, 2, 6)), 0),
      "num_heads must be at least 1, got num_heads=0.",
    ),
    (
      lambda: merge_heads(jnp.zeros((1, 2, 6)), 0),
      "num_heads must be at least 1, got num_heads=0.",
    ),
  ],
)
def test_what_does_not_fit_is_named(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert str(error.value) == message
