"""Which places the heads of masked modelling read, behind an encoder played by hand."""

import dataclasses
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models import masked
from mhmoe_jax.models.encoder import Inputs
from tests.models.test_encoder import SMALL

# Place l has l in front; then a number that bfloat16 would round in a product.
HIDDEN = jnp.stack([jnp.arange(9.0), jnp.full(9, 1 / 3)], axis=1)[None]


@pytest.fixture
def apply(monkeypatch):
  class Encoder(nn.Module):
    config: Any
    deterministic: bool
    trace: bool

    def together(self, kinds):
      return [(HIDDEN.astype(dtype), {}) for _ in kinds]

  monkeypatch.setattr(masked, "Encoder", Encoder)
  heads = {  # A code says twice the place, and three times it plus one.
    "image_head": {"w_DW": jnp.array([[2.0, 3.0], [0, 0]]), "b_W": jnp.array([0, 1.0])},
    "text_head": {"w_DV": jnp.array([[1.0], [1 / 3]]), "b_V": jnp.array([10.0])},
  }
  dtype = jnp.float32

  def run(inputs, *places, of=jnp.float32):
    nonlocal dtype
    dtype = of
    model = masked.MaskedModel(dataclasses.replace(SMALL, num_codes=2, vocab_size=1))
    return model.apply({"params": heads}, inputs, *places)

  return run


PICTURE = Inputs(patches_BPU=jnp.zeros((1, 4, 48)))
PLACES = jnp.array([[0, 3]])


def test_patches_lie_behind_the_class_token_and_tokens_behind_them(apply):
  codes_BJW, tokens_BJV, _ = apply(PICTURE, PLACES, PLACES)
  np.testing.assert_allclose(codes_BJW, [[[2, 4], [8, 13]]])
  np.testing.assert_allclose(tokens_BJV[0, :, 0], [15 + 1 / 9, 18 + 1 / 9], rtol=1e-6)


def test_a_text_alone_begins_at_zero_and_nothing_is_told_unasked(apply):
  codes_BJW, tokens_BJV, _ = apply(Inputs(), None, PLACES)
  assert codes_BJW is None
  np.testing.assert_allclose(tokens_BJV[0, :, 0], [10 + 1 / 9, 13 + 1 / 9], rtol=1e-6)
  assert apply(PICTURE, PLACES)[1] is None


def test_logits_of_bfloat16_are_added_up_in_float32(apply):
  tokens_BJV = apply(Inputs(), None, PLACES, of=jnp.bfloat16)[1]
  assert tokens_BJV.dtype == jnp.float32
  third = float(jnp.bfloat16(1 / 3))
  wanted = [10 + third**2, 13 + third**2]
  np.testing.assert_allclose(tokens_BJV[0, :, 0], wanted, rtol=1e-6)
