"""The encoder: torchscale's numbers, published counts, masks, and what sees what."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig
from mhmoe_jax.models.embedding import PictureEmbedding, TextEmbedding
from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.encoder_blocks import EncoderBlock
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.masked import LogitHead, MaskedModel
from mhmoe_jax.models.multiway import EncoderAttention
from mhmoe_jax.models.patches import to_patches
from tests.golden import encoder as theirs
from tests.golden import golden

SMALL = EncoderConfig(
  vocab_size=theirs.VOCAB,
  num_codes=7,
  picture_size=theirs.PICTURE,
  patch_size=theirs.PATCH,
  text_length=theirs.TEXT,
  num_layers=theirs.LAYERS,
  embed_dim=theirs.D,
  num_attention_heads=theirs.HEADS,
  backbone="multiway",
  pools="modality",
  ffn="dense",
  ffn_dim=theirs.F,
  moe_last=1,
  moe_every=1,
  moe=MoeConfig(num_heads=2, num_experts=4, expert_dim=6, sub_ln=True),
  activation="gelu",
  use_bias=True,
  gate_bias=True,
  norm="layernorm",
  norm_epsilon=1e-5,
  sub_ln=True,
  ffn_norm="layernorm",
  ffn_norm_epsilon=1e-5,
  init="flax",
  bitnet=False,
  dropout=0.0,
  drop_path=0.0,
  dtype="float32",
  remat="none",
)
PIXELS = jnp.asarray(theirs.PIXELS.transpose(0, 2, 3, 1), jnp.float32)
POSITIONS = jnp.broadcast_to(jnp.arange(theirs.TEXT), theirs.TOKENS.shape)
PICTURE = Inputs(to_patches(PIXELS, theirs.PATCH), jnp.asarray(theirs.MASKED))
TEXT = Inputs(
  tokens_BT=jnp.asarray(theirs.TOKENS),
  positions_BT=POSITIONS,
  segments_BT=jnp.asarray(theirs.SEGMENTS),
)
PAIR = TEXT._replace(patches_BPU=PICTURE.patches_BPU, masked_BP=PICTURE.masked_BP)
KINDS = {"pair": PAIR, "image": PICTURE, "text": TEXT}
VARIANTS = {
  "dense": {},
  "mhmoe, a pool for each": {"ffn": "mhmoe"},
  "mhmoe, one pool": {"ffn": "mhmoe", "pools": "shared"},
  "shared backbone, smoe": {"ffn": "smoe", "backbone": "shared", "pools": "shared"},
  "every second": {"ffn": "mhmoe", "moe_last": 2, "moe_every": 2},
}


def make(key, **changes):
  config = dataclasses.replace(SMALL, **changes)
  return config, jax.jit(Encoder(config).init)(key, PAIR)


def apply(config, params, inputs):
  return jax.jit(Encoder(config).apply)(params, inputs)


def theirs_of(path, stacked_shape):
  """torchscale's weights for one of ours, stacked over layers where ours are."""
  *room, leaf = [key.key for key in path[1:]]
  kind = "A" if any(r.startswith("image_") for r in room) else "B"
  if room[0] in ("picture", "text"):
    names = {
      ("picture", "w_UD"): "vision_embed.proj.weight",
      ("picture", "b_D"): "vision_embed.proj.bias",
      ("picture", "mask_D"): "vision_embed.mask_token",
      ("picture", "cls_D"): "vision_embed.cls_token",
      ("picture", "position_LD"): "encoder.embed_positions.A.weight",
      ("text", "position_LD"): "encoder.embed_positions.B.weight",
      ("text", "embed_VD"): "text_embed.weight",
    }
    return [names[room[0], leaf]]
  rooms = {
    "attention_norm": "self_attn_layer_norm",
    "inner_norm": "self_attn.inner_attn_ln",
    "ffn_norm": "final_layer_norm",
    "final_norm": "layer_norm",
    "ffn": "ffn",
    **{n: f"self_attn.{n}_proj" for n in "qkv"},
    "o": "self_attn.out_proj",
  }
  ours = room[-1].removeprefix("image_").removeprefix("text_")
  inner = (
    {"in": ".fc1", "out": ".fc2", "norm": ".ffn_layernorm"} if ours == "ffn" else {}
  )
  part = next((x for word, x in inner.items() if f"{word}_" in leaf), "")
  end = "bias" if leaf.startswith(("b_", "bias", "norm_bias")) else "weight"
  name = f"{rooms[ours]}.{kind}{part}.{end}"
  if ours == "final_norm":
    return [f"encoder.{name}"]
  return [f"encoder.layers.{n}.{name}" for n in range(stacked_shape[0])]


def to_ours(name, value, shape):
  """A weight or gradient of torchscale's in the shape of ours."""
  if name == "vision_embed.proj.weight":  # (D, colour, row, column)
    value = value.transpose(2, 3, 1, 0)
  elif "embed_positions" in name:
    value = value[2:]  # fairseq's offset
  elif value.ndim == 2 and name.startswith("encoder.layers"):
    value = value.T
  return value.reshape(shape)


def their_shape(name, shape):
  """The shape of torchscale's weight for ours, without its layers."""
  D, F = theirs.D, theirs.F
  if name == "vision_embed.proj.weight":
    return D, 3, theirs.PATCH, theirs.PATCH
  if name == "text_embed.weight":
    return shape
  if "embed_positions" in name:
    return shape[0] + 2, D
  ends = {"_proj.weight": (D, D), "fc1.weight": (F, D), "fc2.weight": (D, F)}
  name = name.replace(".A.", ".").replace(".B.", ".")
  return next((s for end, s in ends.items() if name.endswith(end)), (math.prod(shape),))


def with_their_weights(params):
  def fill(path, x):
    names = theirs_of(path, x.shape)
    each = x.shape[1:] if names[0].startswith("encoder.layers") else x.shape

    def one(name):
      weight = theirs.weight(name, *their_shape(name, each))
      return to_ours(name, weight, each)

    made = np.stack([one(name) for name in names]).reshape(x.shape)
    return jnp.asarray(made, jnp.float32)

  return jax.tree_util.tree_map_with_path(fill, params)


@pytest.mark.parametrize("kind", list(KINDS))
def test_equals_torchscale_in_value_and_gradient(key, kind):
  config, params = make(key)
  params = with_their_weights(params)
  want = golden.load(kind, "encoder.json")
  L = want["x"].shape[1]

  def loss(params):
    x_BLD, _ = Encoder(config).apply(params, KINDS[kind])
    x_BLD = x_BLD[:, :L]
    return (x_BLD * golden.wave(0.3, *x_BLD.shape)).sum(), x_BLD

  gradients, x_BLD = jax.jit(jax.grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(x_BLD, want["x"], atol=3e-6)
  compared = 0
  for path, found in jax.tree_util.tree_leaves_with_path(gradients):
    for n, name in enumerate(theirs_of(path, found.shape)):
      if f"d_{name}" not in want:
        continue
      one = found[n] if name.startswith("encoder.layers") else found
      wanted = to_ours(name, want[f"d_{name}"], one.shape)
      scale = np.abs(wanted).max()
      np.testing.assert_allclose(one, wanted, atol=1e-5 * scale, err_msg=name)
      compared += 1
  assert compared == len(want) - 1


def count(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def base(**changes):
  """BEiT-3-base at 224 pixels."""
  return dataclasses.replace(
    SMALL,
    vocab_size=64010,
    num_codes=8192,
    picture_size=224,
    patch_size=16,
    text_length=1022,
    num_layers=12,
    embed_dim=768,
    num_attention_heads=12,
    ffn_dim=3072,
    moe_last=3,
    **changes,
  )


def shapes_of(config):
  B, P, T = 1, config.num_patches, 2
  inputs = Inputs(
    patches_BPU=jnp.zeros((B, P, 3 * config.patch_size**2)),
    tokens_BT=jnp.zeros((B, T), jnp.int32),
    positions_BT=jnp.zeros((B, T), jnp.int32),
    segments_BT=jnp.ones((B, T), jnp.int32),
  )
  places = jnp.zeros((B, 1), jnp.int32)
  init = MaskedModel(config).init
  return jax.eval_shape(init, jax.random.key(0), inputs, places, places)["params"]


def test_counts_of_beit3_base():
  params = shapes_of(base())
  # torchscale 0.3.0 builds 220,987,392; of the two tables of positions it has two rows
  # more each, which fairseq's offset leaves unused.
  assert count(params["encoder"]) == 220_987_392 - 2 * 2 * 768
  heads = 768 * 64010 + 64010 + 768 * 8192 + 8192
  # Printed as 277M in 2404.15045 Table 11.
  assert count(params) == 220_987_392 - 2 * 2 * 768 + heads == 276_507_658


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("kind", list(KINDS))
def test_padding_and_masked_patches_change_nothing(key, variant, kind):
  config, params = make(key, **VARIANTS[variant])
  before, _ = apply(config, params, KINDS[kind])
  inputs = KINDS[kind]
  real = np.ones(before.shape[1], bool)
  if kind != "image":
    padded = inputs.segments_BT == 0
    inputs = inputs._replace(tokens_BT=jnp.where(padded, 5, inputs.tokens_BT))
    real[-theirs.PADDED :] = False
  if kind != "text":
    masked = inputs.masked_BP[..., None]
    inputs = inputs._replace(patches_BPU=jnp.where(masked, 9.0, inputs.patches_BPU))
  after, _ = apply(config, params, inputs)
  np.testing.assert_array_equal(before[:, real], after[:, real])


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_real_place_sees_every_other(key, variant):
  config, params = make(key, **VARIANTS[variant])
  before, _ = apply(config, params, PAIR)
  other = PAIR._replace(patches_BPU=PAIR.patches_BPU.at[:, 2].add(1.0))
  after, _ = apply(config, params, other)
  assert (jnp.abs(after - before).max(axis=(0, 2))[: -theirs.PADDED] > 0).all()


def test_a_picture_alone_leaves_the_weights_of_text_untouched(key):
  config, params = make(key, ffn="mhmoe")

  def loss(params):
    x_BLD, pools = Encoder(config).apply(params, PICTURE)
    assert list(pools) == ["image"]
    return (x_BLD**2 * golden.wave(1.0, *x_BLD.shape)).sum()

  gradients = jax.jit(jax.grad(loss))(params)["params"]
  for path, g in jax.tree_util.tree_leaves_with_path(gradients):
    name = "/".join(k.key for k in path)
    if "text" in name:
      assert not jnp.any(g), name
    elif not name.endswith(("k/b_AQ", "embed_ER")):  # A softmax does not see k's bias.
      assert jnp.any(g), name


def test_segments_are_apart(key):
  config, params = make(key)
  two = TEXT._replace(
    segments_BT=jnp.array([[1, 1, 2, 2, 2]] * 2),
    positions_BT=jnp.array([[0, 1, 0, 1, 2]] * 2),
  )
  x_BLD, _ = apply(config, params, two)
  alone = Inputs(
    tokens_BT=TEXT.tokens_BT[:, 2:],
    positions_BT=two.positions_BT[:, 2:],
    segments_BT=jnp.ones((2, 3), jnp.int32),
  )
  np.testing.assert_allclose(x_BLD[:, 2:], apply(config, params, alone)[0], atol=1e-5)


def test_order_makes_a_caption_causal(key):
  config, params = make(key, ffn="mhmoe", pools="shared")
  order_BT = jnp.broadcast_to(1 + jnp.arange(theirs.TEXT), TEXT.tokens_BT.shape)
  pair = PAIR._replace(order_BT=order_BT, segments_BT=jnp.ones_like(order_BT))
  before, _ = apply(config, params, pair)
  after, _ = apply(
    config, params, pair._replace(tokens_BT=pair.tokens_BT.at[:, 3].add(2))
  )
  moved = jnp.abs(after - before).max(axis=(0, 2)) > 0
  place = SMALL.num_image + 3
  assert moved.tolist() == [i >= place for i in range(place + 2)]


def test_one_expert_is_a_dense_ffn(key):
  moe = MoeConfig(1, 1, theirs.F, top_k=1, num_linear=0, sub_ln=True)
  config, params = make(key, ffn="smoe", moe=moe)
  dense, _ = make(key)
  tree = params["params"]
  blocks = [tree["layers"]["block_0"], dict(tree["moe_layers"]["block_0"])]
  for kind in ("image", "text"):
    experts = blocks[1].pop(f"{kind}_moe")["experts"]
    blocks[1][f"{kind}_ffn"] = {
      "w_in_DF": experts["w_in_EMF"][:, 0],
      "w_out_FD": experts["w_out_EFM"][:, 0],
      "b_in_F": experts["b_in_EF"][:, 0],
      "b_out_D": experts["b_out_EM"][:, 0],
      "norm_scale_F": experts["norm_scale_EF"][:, 0],
      "norm_bias_F": experts["norm_bias_EF"][:, 0],
    }
  stacked = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *blocks)
  rest = {k: v for k, v in tree.items() if k not in ("layers", "moe_layers")}
  same = {"params": rest | {"layers": {"block_0": stacked}}}
  np.testing.assert_allclose(
    apply(config, params, PAIR)[0], apply(dense, same, PAIR)[0], atol=1e-5
  )


def test_remat_changes_nothing(key):
  config, params = make(key, ffn="mhmoe")

  def gradient(config):
    def loss(params):
      return (Encoder(config).apply(params, PAIR)[0] ** 2).sum()

    return jax.jit(jax.grad(loss))(params)

  plain, again = gradient(config), gradient(dataclasses.replace(config, remat="blocks"))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)


def test_frequent_tokens_and_places_get_all_of_their_gradients(key):
  """Of 300 texts alike; a sum of bfloat16 stands still at 256 of them."""
  model = TextEmbedding(dataclasses.replace(SMALL, dtype="bfloat16"))
  ones_B1 = jnp.ones((300, 1), jnp.int32)
  params = model.init(key, ones_B1, ones_B1, ones_B1)
  grads = jax.grad(lambda p: model.apply(p, *[ones_B1] * 3).sum())(params)["params"]
  for name in ("embed_VD", "position_LD"):
    np.testing.assert_array_equal(grads[name][1], 300)


def test_drop_path_leaves_out_whole_examples_and_keeps_the_mean(key):
  config, params = make(key, drop_path=0.5)
  model = Encoder(config, deterministic=False)

  def hidden(key):
    return model.apply(params, PICTURE, rngs={"dropout": key})[0]

  made = jax.jit(jax.vmap(hidden))(jax.random.split(key, 64))
  # The first block is never dropped (rate 0); the second twice half the time.
  assert 3 <= len({x.tobytes() for x in np.asarray(made[:, 0])}) <= 4


def test_drop_path_leaves_out_its_share_and_scales_the_rest(key):
  config = dataclasses.replace(SMALL, drop_path=0.5)
  block = EncoderBlock(config, False, False, False)
  inputs = jnp.ones((2000, 2, 3)), jnp.float32(0.25)
  found = block.apply({}, *inputs, rngs={"dropout": key}, method="_drop_path")
  assert set(np.unique(found).tolist()) == {0.0, np.float32(4 / 3).item()}
  assert (found == found[:, :1, :1]).all()
  np.testing.assert_allclose(found.mean(), 1, atol=0.05)


def of_noise(**changes):
  """A model with weights of noise, without compiling its initial values."""
  changes = {"ffn": "smoe", "backbone": "shared", "pools": "shared"} | changes
  config = dataclasses.replace(SMALL, **changes)
  shapes = jax.eval_shape(Encoder(config).init, jax.random.key(0), PAIR)
  draw = np.random.default_rng(0)
  return config, jax.tree.map(lambda x: draw.normal(size=x.shape).astype("f4"), shapes)


def test_drop_path_rises_with_depth_over_all_blocks(monkeypatch):
  """In four blocks, of which the last two are a period: 0, 0.1, 0.2, 0.3 as digits."""

  def shift(self, x_BLD, num_image, rate, sight):
    return 10 * x_BLD + rate, {}, None

  monkeypatch.setattr(EncoderBlock, "__call__", shift)

  def apply(rate):
    config, params = of_noise(num_layers=4, moe_last=2, moe_every=2, drop_path=rate)
    return Encoder(config, norm_output=False).apply(params, TEXT)[0]

  np.testing.assert_allclose(apply(0.3) - apply(0.0), 12.3, rtol=1e-3)


def test_dropout_is_on_what_is_embedded_and_on_every_sum():
  """Of all that nothing is left; and experts have a rate of their own."""

  def hidden(seed, **changes):
    config, params = of_noise(num_layers=1, **changes)
    model = Encoder(config, deterministic=False)
    key = jax.random.key(seed)
    return params, jax.jit(model.apply)(params, TEXT, rngs={"dropout": key})[0]

  params, x_BLD = hidden(0, ffn="dense", dropout=1 - 1e-7)
  bias_D = params["params"]["final_norm"]["bias_D"]  # What a norm makes of zeros.
  np.testing.assert_allclose(x_BLD, np.broadcast_to(bias_D, x_BLD.shape), atol=1e-5)
  moe = dataclasses.replace(SMALL.moe, expert_dropout=0.5)
  assert jnp.abs(hidden(0, moe=moe)[1] - hidden(1, moe=moe)[1]).max() > 1e-3


def test_initial_values(key):
  """Those of torchscale: Xavier's, with a gain of 1/sqrt(2) before attention."""
  config = dataclasses.replace(SMALL, embed_dim=64, text_length=40, vocab_size=300)
  x_BLD = jnp.zeros((1, 1, 64))
  attention = EncoderAttention(config).init(key, x_BLD, 1, None)["params"]
  patches = jnp.zeros((1, config.num_patches, 48))
  ones = jnp.ones((1, 1), jnp.int32)
  made = {
    **{name: attention[f"image_{name}"] for name in "qkvo"},
    "picture": PictureEmbedding(config).init(key, patches, None)["params"],
    "text": TextEmbedding(config).init(key, ones, ones, ones)["params"],
    "head": LogitHead(70, "W").init(key, x_BLD)["params"],
  }
  uniform = dict.fromkeys(("q/w_DAQ", "k/w_DAQ", "v/w_DAQ"), (1.5 / 64) ** 0.5)
  uniform |= {"o/w_AQD": (3 / 64) ** 0.5, "picture/w_UD": 48**-0.5}
  normal = dict.fromkeys(("picture/position_LD", "text/position_LD"), 0.02)
  normal |= {"text/embed_VD": 64**-0.5, "head/w_DW": 0.02}
  for room, arrays in made.items():
    for leaf, x in arrays.items():
      name = f"{room}/{leaf}"
      if name in uniform:
        assert 0.97 * uniform[name] < np.abs(x).max() <= uniform[name], name
        np.testing.assert_allclose(np.std(x), uniform[name] / 3**0.5, rtol=0.05)
      elif name in normal:
        np.testing.assert_allclose(np.std(x), normal[name], rtol=0.1, err_msg=name)
      else:
        assert not np.any(x), name


def test_numbers_of_the_blocks_with_experts():
  config = dataclasses.replace(SMALL, ffn="smoe", num_layers=7, moe_last=6, moe_every=3)
  assert config.moe_blocks == [3, 6]
  assert (config.layer.num_heads, config.layer.num_linear) == (1, 0)
  assert dataclasses.replace(config, ffn="mhmoe").layer == config.moe
  assert dataclasses.replace(config, ffn="dense").moe_blocks == []
  pools = [dataclasses.replace(config, pools=x) for x in ("modality", "shared")]
  assert [x.num_pools for x in pools] == [2, 1]
  assert (config.num_patches, config.num_image) == (4, 5)
  dataclasses.replace(config, moe_last=7, moe_every=1)  # All blocks.


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("patch_size", 3, "patch_size must divide picture_size, got patch_size=3, picture"),
    (
      "num_attention_heads",
      3,
      "num_attention_heads must divide embed_dim, got num_att",
    ),
    ("backbone", "both", "backbone must be one of multiway, shared, got"),
    ("pools", "each", "pools must be one of modality, shared, got"),
    (
      "moe_last",
      3,
      "moe_last must be at most num_layers, got moe_last=3, num_layers=2.",
    ),
    ("moe_every", 2, "moe_every must divide moe_last, got moe_every=2, moe_last=1."),
    ("drop_path", 1.0, "drop_path must be in [0, 1), got drop_path=1.0."),
  ],
)
def test_bad_configs(field, value, message):
  with pytest.raises(ValueError) as caught:
    dataclasses.replace(SMALL, **{field: value})
  assert message in str(caught.value)


def test_pictures_of_another_size_are_refused(key):
  config, params = make(key)
  message = "pictures must have 4 patches of 48 numbers, got 3 of 48."
  with pytest.raises(ValueError, match=message):
    Encoder(config).apply(params, Inputs(patches_BPU=jnp.zeros((1, 3, 48))))
