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
