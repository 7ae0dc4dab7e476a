import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models.decoding import empty_caches, filter_logits, generate, unstack
from mhmoe_jax.models.transformer import Decoder
from tests.models.test_transformer import B, L, apply, make

GROUPS = {"num_attention_heads": 4, "num_kv_heads": 2, "qk_norm": "head", "head_dim": 6}


@pytest.mark.parametrize("changes", [{"ffn": "dense"}, {"ffn": "mhmoe"}, GROUPS])
def test_cached_decoding_equals_the_whole_sequence(key, changes):
  config, params, tokens_BL, positions_BL, segments_BL = make(key, **changes)
  model = Decoder(config)
  whole_BLV, _, _ = apply(model, params, tokens_BL, positions_BL, segments_BL)
  caches, pieces = empty_caches(config, B, L), []
  layers = {"params": unstack(params["params"], config)}
  for start, stop in ((0, 5), (5, 6), (6, 8)):

    def cut(x, a=start, b=stop):
      return x[:, a:b]

    piece, _, caches = apply(
      model, layers, cut(tokens_BL), cut(positions_BL), cut(segments_BL), caches, start
    )
    pieces.append(piece)
  np.testing.assert_allclose(
    jnp.concatenate(pieces, axis=1), whole_BLV, rtol=1e-4, atol=1e-5
  )


def test_greedy_generation_equals_repeated_argmax(key):
  """Of weights so large that places and slots decide what is the likeliest."""
  moe = {"dispatch": "einsum", "eval_capacity_factor": 0.1}
  config, params, tokens_BL, positions_BL, ones_BL = make(key, tie_embeddings=False)
  params = jax.tree.map(lambda x: 3 * x, params)
  dropping = dataclasses.replace(config, moe=dataclasses.replace(config.moe, **moe))
  new_BT = generate(
    dropping, params["params"], tokens_BL[:, :3], key, num_tokens=4, temperature=0.0
  )
  expected_BL = tokens_BL
  for place in range(3, 7):  # No place sees what is behind it.
    logits_BLV, _, _ = apply(
      Decoder(config), params, expected_BL, positions_BL, ones_BL
    )
    best_B = jnp.argmax(logits_BLV[:, place - 1], axis=-1)
    expected_BL = expected_BL.at[:, place].set(best_B)
  np.testing.assert_array_equal(new_BT, expected_BL[:, 3:7])
  assert len(np.unique(new_BT)) > 4


def test_filter_logits_by_hand():
  logits_BV = jnp.log(jnp.array([[0.1, 0.4, 0.3, 0.2]]))

  def kept(**options):
    return np.isfinite(filter_logits(logits_BV, **options))[0].tolist()

  assert kept(top_k=0, top_p=1.0) == [True] * 4
  assert kept(top_k=2, top_p=1.0) == [False, True, True, False]
  # 0.4 is not enough for 0.6, 0.4 + 0.3 is.
  assert kept(top_k=0, top_p=0.6) == [False, True, True, False]
  assert kept(top_k=0, top_p=0.0) == [False, True, False, False]
  # A half that is exactly reached needs no more.
  halves_BV = filter_logits(jnp.zeros((1, 2)), top_k=0, top_p=0.5)
  assert np.isfinite(halves_BV).tolist() == [[True, False]]


def test_one_of_the_likeliest_and_cold_draws_are_greedy(key):
  config, params, tokens_BL, *_ = make(key)

  def run(params=params["params"], **options):
    return generate(config, params, tokens_BL[:, :2], key, num_tokens=3, **options)

  greedy = run(unstack(params["params"], config), temperature=0.0)
  np.testing.assert_array_equal(run(top_k=1, temperature=2.0), greedy)
  np.testing.assert_array_equal(run(temperature=1e-4), greedy)
  assert (run(temperature=0.9) != greedy).any()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 1}])
def test_only_what_is_allowed_is_drawn(key, options):
  config, params, tokens_BL, *_ = make(key)

  def run(allowed_V):
    return generate(
      config,
      params["params"],
      tokens_BL[:, :2],
      key,
      num_tokens=6,
      allowed_V=allowed_V,
      **options,
    )

  allowed_V = jnp.zeros(config.vocab_size, bool).at[jnp.array([2, 7])].set(True)
  assert set(run(allowed_V).flatten().tolist()) <= {2, 7}
  everything_V = jnp.ones(config.vocab_size, bool)
  np.testing.assert_array_equal(run(everything_V), run(None))
