"""How experts are cut: whole if possible, else in chunks that cover them once."""

import jax
import jax.numpy as jnp
import pytest

from mhmoe_jax.moe import vmem
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.tiles import LANES


def experts(width, hidden, gated=False, norm=True):
  w = jax.ShapeDtypeStruct((4, width, hidden), jnp.bfloat16)
  row = jax.ShapeDtypeStruct((4, hidden), jnp.bfloat16)
  vectors = {"norm_scale_EF": row, "norm_bias_EF": row, "b_in_EF": row} if norm else {}
  return ExpertWeights(w, w, w if gated else None, **vectors)


@pytest.mark.parametrize("hidden", [512, 1_023, 1_526, 2_286, 3_072, 11_456, 12_162])
@pytest.mark.parametrize("backward", [False, True])
def test_chunks_cover_the_hidden_width_once(hidden, backward):
  weights = experts(192, hidden)
  cut = vmem.cut_expert(weights, jnp.bfloat16, backward)
  assert cut.hidden == hidden
  # No chunk lies past the end, and the last may reach past it.
  assert cut.width * (cut.chunks - 1) < hidden <= cut.width * cut.chunks
  assert (cut.width == hidden) if cut.chunks == 1 else (cut.width % LANES == 0)


def test_an_expert_that_fits_is_held_whole():
  small, large = experts(256, 1_024), experts(192, 11_456)
  assert vmem.cut_expert(small, jnp.bfloat16, backward=True).chunks == 1
  assert vmem.cut_expert(large, jnp.bfloat16, backward=True).chunks > 1


@pytest.mark.parametrize("room", [64, 32, 24, 8])
def test_less_room_means_less_at_a_time(monkeypatch, room):
  """What a cut needs by hand: weights twice, their gradients twice, and their sums."""
  monkeypatch.setattr(vmem, "vmem_bytes", lambda: room * 2**20)
  cut = vmem.cut_expert(experts(256, 4_096, True, False), jnp.bfloat16, backward=True)
  if room == 8:
    assert cut is None
    return
  chunk, all_chunks = (256 * n * 3 for n in (cut.width, cut.chunks * cut.width))
  rows = cut.tile * 256 * 3 * 2 * 2
  assert chunk * 4 * 2 + all_chunks * 4 + rows < room * 2**20
