import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.remat import POLICIES
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.tasks.objective import cross_entropy
from tests.golden import golden

CONFIG = TransformerConfig(
  vocab_size=40,
  num_layers=4,
  embed_dim=16,
  num_attention_heads=2,
  num_kv_heads=0,
  head_dim=0,
  qk_norm="none",
  ffn="mhmoe",
  ffn_dim=24,
  moe_every=2,
  moe=MoeConfig(num_heads=4, num_experts=8, expert_dim=12),
  activation="gelu",
  use_bias=True,
  gate_bias=True,
  norm="rmsnorm",
  norm_epsilon=1e-6,
  sub_ln=False,
  ffn_norm="rmsnorm",
  ffn_norm_epsilon=1e-6,
  init="flax",
  bitnet=False,
  rope_theta=1e4,
  scale_embeddings=True,
  tie_embeddings=True,
  dropout=0.0,
  moe_dropout=0.0,
  dtype="float32",
  remat="none",
  scan_unroll=1,
)
EINSUM = dataclasses.replace(CONFIG.moe, dispatch="einsum", eval_capacity_factor=0.5)
VARIANTS = {
  "mhmoe": {},
  "mhmoe, einsum that drops": {"moe": EINSUM},
  "smoe, layernorm, untied": {
    "ffn": "smoe",
    "norm": "layernorm",
    "tie_embeddings": False,
  },
  "BitNet, shared expert": {
    "bitnet": True,
    "moe": MoeConfig(4, 8, 12, bitnet=True, shared_dim=8),
  },
  "groups of two heads, norm of each, wide heads": {
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "qk_norm": "head",
    "scale_embeddings": False,
  },
  "one head of keys, norm of all, sub-LN": {
    "num_attention_heads": 4,
    "num_kv_heads": 1,
    "qk_norm": "whole",
    "sub_ln": True,
    "norm_epsilon": 1e-3,
  },
  "dense, sub-LN, swiglu": {"ffn": "dense", "sub_ln": True, "activation": "swiglu"},
}
B, L = 2, 8
# Of the golden decoder: two documents in the first row.
POSITIONS = jnp.array([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
SEGMENTS = jnp.array([[1, 1, 1, 2, 2], [1, 1, 1, 1, 1]])


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, *inputs, **rngs):
  return model.apply(params, *inputs, rngs=rngs)


def make(key, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  params = jax.jit(init_params, static_argnums=0)(config, key)
  tokens_BL = jax.random.randint(key, (B, L), 3, config.vocab_size)
  positions_BL = jnp.broadcast_to(jnp.arange(L), (B, L))
  return (
    config,
    {"params": params},
    tokens_BL,
    positions_BL,
    jnp.ones((B, L), jnp.int32),
  )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_future_is_not_seen(key, variant):
  config, params, tokens_BL, *rest = make(key, **variant)
  model = Decoder(config)
  logits_BLV, aux, _ = apply(model, params, tokens_BL, *rest)
  assert (aux is None) == (config.ffn == "dense")
  if config.moe is EINSUM:
    assert (aux.stats.dropped_sender > 0.1).all()
  for t in range(1, L):
    other = jax.random.randint(jax.random.key(t), (B, L - t), 3, config.vocab_size)
    changed_BLV, _, _ = apply(model, params, tokens_BL.at[:, t:].set(other), *rest)
    np.testing.assert_array_equal(changed_BLV[:, :t], logits_BLV[:, :t])
    assert np.abs(changed_BLV[:, t] - logits_BLV[:, t]).max() > 1e-3


def test_packed_documents_do_not_see_each_other(key):
  """Two documents in one row and padding, against each document in a row of its own."""
  config, params, tokens_BL, _, _ = make(key)
  model = Decoder(config)
  first, second = tokens_BL[:1, :3], tokens_BL[1:, :4]
  packed = jnp.concatenate([first, second, jnp.zeros((1, 1), jnp.int32)], axis=1)
  positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 0]])
  segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]])
  together, aux, _ = apply(model, params, packed, positions, segments)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  for document, where in ((first, slice(0, 3)), (second, slice(3, 7))):
    n = document.shape[1]
    ones = jnp.ones((1, n), jnp.int32)
    alone, _, _ = apply(model, params, document, jnp.arange(n)[None], ones)
    close(together[:, where], alone)
  # The padding token is not in the routers' statistics: 7 tokens, 4 heads, 2 choices.
  counts = aux.stats.load_HE * 7 * 2
  close(counts, np.round(counts))


def test_what_is_computed_again_is_the_same_to_the_bit(key):
  config, params, *inputs = make(key, num_layers=2, moe_every=1)

  def gradient(name):
    def loss(p):
      model = Decoder(dataclasses.replace(config, remat=name))
      return jnp.sin(model.apply(p, *inputs)[0]).sum()

    return jax.jit(jax.value_and_grad(loss))(params)

  expected = gradient("none")
  for name in set(POLICIES) - {"none"}:
    jax.tree.map(np.testing.assert_array_equal, gradient(name), expected)


def test_layers_are_initialised_differently_and_stacked(key):
  _, params, *_ = make(key)
  w_NEMF = params["params"]["layers"]["block_1"]["moe"]["experts"]["w_in_EMF"]
  assert w_NEMF.shape == (2, 8, 4, 12)
  assert np.abs(w_NEMF[0] - w_NEMF[1]).max() > 0.1


def test_bfloat16_computes_in_bfloat16_with_float32_logits(key):
  config, params, *inputs = make(key, dtype="bfloat16")
  text = jax.jit(Decoder(config).apply).lower(params, *inputs).as_text()
  assert "bf16" in text
  logits_BLV, _, _ = apply(Decoder(config), params, *inputs)
  expected_BLV, _, _ = apply(Decoder(CONFIG), params, *inputs)
  assert logits_BLV.dtype == jnp.float32
  assert np.median(np.abs(logits_BLV - expected_BLV)) < 0.05


def test_a_frequent_token_gets_all_of_its_gradient(key, monkeypatch):
  """Of 300 places alike; a sum of bfloat16 stands still at 256 of them."""
  monkeypatch.setattr(Decoder, "_scan_layers", lambda _, x_BLD, *rest: (x_BLD, None))
  model = Decoder(
    dataclasses.replace(CONFIG, dtype="bfloat16", tie_embeddings=False, ffn="dense")
  )

  def gradient(places):
    tokens_BL = jnp.full((1, places), 7)

    def loss(params):
      return model.apply(params, tokens_BL, tokens_BL, tokens_BL)[0][..., 0].sum()

    return jax.grad(loss)(params)["params"]["embed_VD"][7]

  ones_11 = jnp.ones((1, 1), jnp.int32)
  params = model.init(key, ones_11, ones_11, ones_11)
  np.testing.assert_allclose(gradient(300), 300 * gradient(1), rtol=1e-5)


def test_dropout_is_only_in_training_and_follows_its_key(key):
  config, params, *inputs = make(key, dropout=0.5)
  model = Decoder(config, deterministic=False)
  a, b, c = (
    model.apply(params, *inputs, rngs={"dropout": jax.random.key(s)})[0]
    for s in (0, 0, 1)
  )
  np.testing.assert_array_equal(a, b)
  assert np.abs(a - c).max() > 1e-2
  np.testing.assert_array_equal(
    apply(Decoder(config), params, *inputs)[0],
    apply(Decoder(CONFIG), params, *inputs)[0],
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"ffn": "moe"}, "ffn must be one of dense, smoe, mhmoe, got ffn='moe'."),
    (
      {"num_attention_heads": 4, "num_kv_heads": 3},
      "num_kv_heads must divide num_attention_heads, or be 0 for as many, "
      "got num_kv_heads=3, num_attention_heads=4.",
    ),
    (
      {"head_dim": 5},
      "head_dim must be even, or 0 for embed_dim / num_attention_heads, "
      "got head_dim=5.",
    ),
    (
      {"qk_norm": "all"},
      "qk_norm must be one of none, head, whole, got qk_norm='all'.",
    ),
    (
      {"num_attention_heads": 3},
      "num_attention_heads must divide embed_dim into even widths, "
      "got num_attention_heads=3, embed_dim=16.",
    ),
    (
      {"moe": dataclasses.replace(CONFIG.moe, num_heads=3)},
      "num_heads must divide embed_dim, got num_heads=3, embed_dim=16.",
    ),
    (
      {"moe_every": 3},
      "moe_every must divide num_layers, got moe_every=3, num_layers=4.",
    ),
    ({"dropout": 1.0}, "dropout must be in [0, 1), got dropout=1.0."),
  ],
)
def test_impossible_configs(changes, message):
  with pytest.raises(ValueError) as error:
    dataclasses.replace(CONFIG, **changes)
  assert str(error.value) == message


def test_a_decoder_equals_pytorch():
  """Two blocks with SwiGLU and tied embeddings: logits, loss, every gradient."""
  shapes = {"embed": (7, 8), "final_norm": (8,)}
  for i in range(2):
    shapes |= {f"{i}_w_{n}": (8, 8) for n in "qkvo"}
    shapes |= {f"{i}_attention_norm": (8,), f"{i}_ffn_norm": (8,)}
    shapes |= {f"{i}_w_in": (8, 6), f"{i}_w_gate": (8, 6), f"{i}_w_out": (6, 8)}
  inputs = jax.tree.map(jnp.float32, golden.waves(4, **shapes))
  expected = golden.load("decoder")
  config = dataclasses.replace(
    CONFIG,
    **{"vocab_size": 7, "num_layers": 2, "embed_dim": 8, "ffn": "dense", "ffn_dim": 6},
    **{"activation": "swiglu", "use_bias": False, "norm_epsilon": 1e-2},
    rope_theta=50.0,
  )
  tokens_BL = jnp.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 0]])
  targets_BL = jnp.array([[1, 4, 2, 5, 0], [6, 5, 3, 0, 2]])
  weights_BL = jnp.array([[1.0, 1, 0, 1, 0], [1, 1, 1, 1, 1]])

  def to_params(inputs):
    def stack(name, *shape):
      return jnp.stack([inputs[f"{i}_{name}"].reshape(*shape) for i in range(2)])

    block = {
      "attention": {f"w_{n}_DAQ": stack(f"w_{n}", 8, 2, 4) for n in "qkv"}
      | {"w_o_AQD": stack("w_o", 2, 4, 8)},
      "ffn": {
        "w_in_DF": stack("w_in", 8, 6),
        "w_gate_DF": stack("w_gate", 8, 6),
        "w_out_FD": stack("w_out", 6, 8),
      },
      "attention_norm": {"scale_D": stack("attention_norm", 8)},
      "ffn_norm": {"scale_D": stack("ffn_norm", 8)},
    }
    return {
      "embed_VD": inputs["embed"],
      "final_norm": {"scale_D": inputs["final_norm"]},
      "layers": {"block_0": block},
    }

  def loss(inputs):
    logits_BLV, _, _ = Decoder(config).apply(
      {"params": to_params(inputs)}, tokens_BL, POSITIONS, SEGMENTS
    )
    nll = cross_entropy(logits_BLV, targets_BL, weights_BL)
    return nll / weights_BL.sum(), logits_BLV

  (found, logits_BLV), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    inputs
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  close(logits_BLV, expected["logits"])
  close(found, expected["loss"])
  for name, d in gradients.items():
    close(d, expected[f"d_{name}"], err_msg=name)


def test_unscaled_embeddings(key):
  """sqrt(D) = 4 may be in the embeddings themselves."""
  config, params, *inputs = make(key, tie_embeddings=False)
  bare = dataclasses.replace(config, scale_embeddings=False)
  scaled = {"params": params["params"] | {"embed_VD": 4 * params["params"]["embed_VD"]}}
  np.testing.assert_array_equal(
    apply(Decoder(bare), scaled, *inputs)[0], apply(Decoder(config), params, *inputs)[0]
  )


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_start_with_a_variance_of_one_over_the_width(key, tied):
  """Scaled by sqrt(D), a token has unit variance; so has the output's."""
  config = dataclasses.replace(
    CONFIG, vocab_size=900, tie_embeddings=tied, ffn="dense", num_layers=1
  )
  params = init_params(config, key)
  names = {"embed_VD"} if tied else {"embed_VD", "unembed_VD"}
  assert {name for name in params if "embed" in name} == names
  for name in names:
    np.testing.assert_allclose(np.std(params[name]), 16**-0.5, rtol=0.03)
    assert abs(np.mean(params[name])) < 0.01


def test_where_dropout_is(key):
  """What an FFN returns, embeddings and attention; of an MoE layer by another rate."""
  for ffn in ("dense", "smoe"):
    for rates in ((0.5, 0.0), (0.0, 0.5)):
      config, params, *inputs = make(
        key,
        **{"ffn": ffn, "dropout": rates[0], "moe_dropout": rates[1]},
        **{"num_layers": 1, "moe_every": 1},
      )
      model = Decoder(config, deterministic=False)
      a, b = (
        model.apply(params, *inputs, rngs={"dropout": jax.random.key(s)})[0]
        for s in (0, 1)
      )
      same = bool((a == b).all())
      assert same == (ffn == "dense" and rates[0] == 0)


def noisy(**changes):
  """A model of one block whose parameters are noise, which need no compilation."""
  config = dataclasses.replace(CONFIG, num_layers=1, moe_every=1, **changes)
  shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  draw = np.random.default_rng(0)
  noise = jax.tree.map(lambda x: draw.normal(size=x.shape).astype("f4"), shapes)
  tokens_BL = jnp.asarray(draw.integers(3, 40, POSITIONS.shape))
  return Decoder(config, deterministic=False), {"params": noise}, tokens_BL


def test_where_all_is_dropped_nothing_is_left():
  """Embeddings and both sums of a block: RMSNorm makes zeros of zeros."""
  model, params, tokens_BL = noisy(ffn="dense", dropout=1 - 1e-7)
  rngs = {"dropout": jax.random.key(0)}
  logits_BLV, _, _ = apply(model, params, tokens_BL, POSITIONS, SEGMENTS, **rngs)
  assert not np.any(logits_BLV)


def test_moe_layers_see_no_padding_and_know_that_they_are_trained():
  moe = dataclasses.replace(CONFIG.moe, expert_dropout=0.5)
  model, params, tokens_BL = noisy(ffn="mhmoe", moe=moe)
  padded_BL = SEGMENTS.at[:, 3:].set(0)

  def run(tokens_BL, seed):
    rngs = {"dropout": jax.random.key(seed)}
    return apply(model, params, tokens_BL, POSITIONS, padded_BL, **rngs)[:2]

  logits_BLV, aux = run(tokens_BL, 0)
  other_BLV, other = run(tokens_BL.at[:, 3:].add(1) % 40, 0)
  jax.tree.map(np.testing.assert_array_equal, aux, other)
  np.testing.assert_array_equal(logits_BLV[:, :3], other_BLV[:, :3])
  assert np.abs(run(tokens_BL, 1)[0] - logits_BLV)[:, :3].max() > 1e-3
