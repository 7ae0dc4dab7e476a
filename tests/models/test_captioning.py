"""Cached beam search equals calling the whole model; and no caption sees its future."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, sharding
from mhmoe_jax.models.captioning import Language, write_captions
from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.masked import MaskedModel
from mhmoe_jax.moe.config import DISPATCHES, ROUTERS
from tests.models.test_encoder import SMALL

V, T, W, PENALTY = 12, 7, 3, 0.6
BEGIN, END, MASK = 0, 1, 11
ALLOWED = np.arange(V) % 4 != 3  # [MASK] is not, nor are 3 and 7
CONFIG = dataclasses.replace(
  SMALL,
  vocab_size=V,
  text_length=T,
  # Decoding drops nothing, whatever the dispatch would.
  moe=MoeConfig(2, 4, 6, dispatch="capacity", eval_capacity_factor=0.3),
)
VARIANTS = {
  "a pool for each": {"ffn": "mhmoe"},
  "one pool, every second": {
    "ffn": "smoe",
    "backbone": "shared",
    "pools": "shared",
    "num_layers": 3,
    "moe_last": 2,
    "moe_every": 2,
  },
}
PATCHES = jax.random.normal(jax.random.key(5), (8, CONFIG.num_patches, 48))


def parameters(config):
  """Of sizes at which the model prefers something."""
  one_BL = jnp.ones((1, 1), jnp.int32)
  inputs = Inputs(PATCHES[:1], None, one_BL, one_BL * 0, one_BL)

  def init(key):
    return MaskedModel(config).init(key, inputs, None, one_BL * 0)["params"]

  shapes, draw = jax.eval_shape(init, jax.random.key(0)), np.random.RandomState(3)

  def fill(path, x):
    name = path[-1].key
    made = draw.normal(size=x.shape)
    made *= {"embed_VD": 1.0, "position_LD": 0.2, "w_DV": 0.4}.get(
      name, 0.3 if x.ndim < 3 else 2.5 * x.shape[-2] ** -0.5
    )
    if "scale" in name:
      made += 1
    if name == "embed_VD":
      made[MASK] *= 0.1  # Else it is all that there is to see.
    return jnp.asarray(made, jnp.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def write(config, params, num_beams, patches=PATCHES[:3], real=None):
  real_B = jnp.ones(len(patches), bool) if real is None else jnp.asarray(real)
  language = Language(BEGIN, END, MASK, jnp.asarray(ALLOWED))
  return write_captions(
    config,
    params,
    patches,
    real_B,
    language,
    length=T,
    num_beams=num_beams,
    length_penalty=PENALTY,
  )


def make_reader(config, params):
  """Log-probabilities behind a text, by the whole model from the beginning."""
  config = dataclasses.replace(
    config, moe=dataclasses.replace(config.moe, dispatch="sorted")
  )
  places_BT = jnp.arange(T)[None]

  @jax.jit
  def log_p(patches_BPU, tokens_BT, place):
    inputs = Inputs(
      patches_BPU,
      None,
      tokens_BT,
      places_BT,
      jnp.ones_like(tokens_BT),
      1 + places_BT,
    )
    _, logits_BJV, _ = MaskedModel(config).apply(
      {"params": params}, inputs, None, place[None, None]
    )
    p_V = jnp.exp(logits_BJV[0, 0] - logits_BJV.max())
    return jnp.log(p_V / p_V.sum())

  def read(picture, text):
    tokens_BT = np.full((1, T), 5, np.int32)  # of what comes later, anything
    tokens_BT[0, : len(text)] = text
    tokens_BT[0, len(text)] = MASK
    patches_BPU = PATCHES[picture : picture + 1]
    return np.asarray(log_p(patches_BPU, tokens_BT, jnp.int32(len(text))))

  return read


def search(read, picture, num_beams):
  """Beam search in lists: the best text, and what it is worth."""
  going, ended = [(0.0, [BEGIN])], []
  for place in range(1, T):
    ways = [
      (score + log_p, [*text, token])
      for score, text in going
      for token, log_p in enumerate(read(picture, text))
      if ALLOWED[token]
    ]
    ways.sort(reverse=True)
    going = [way for way in ways if way[1][-1] != END][:num_beams]
    for score, text in ways[:num_beams]:
      if text[-1] == END:
        ended.append((score / place**PENALTY, text))
    ended = sorted(ended, reverse=True)[:num_beams]
    worst = ended[-1][0] if len(ended) == num_beams else -np.inf
    if worst >= going[0][0] / place**PENALTY:
      return ended[0]
  cut = [(score / (T - 1) ** PENALTY, text) for score, text in going]
  return max(ended + cut)


def greedy(read, picture):
  text = [BEGIN]
  while len(text) < T and text[-1] != END:
    text.append(int(np.where(ALLOWED, read(picture, text), -np.inf).argmax()))
  return text


def cut(tokens):
  tokens = tokens.tolist()
  return tokens[: tokens.index(END) + 1] if END in tokens else tokens


REAL = np.array([True, True, True, False, False, True, False, True])
write_jit = jax.jit(write, static_argnums=(0, 2))


@functools.cache
def make(variant, num_beams):
  """A model, what reads with all of it, and its captions."""
  config = dataclasses.replace(CONFIG, **VARIANTS[variant])
  params = parameters(config)
  found = map(np.asarray, write_jit(config, params, num_beams, PATCHES, REAL))
  return config, params, make_reader(config, params), *found


def test_cached_beam_search_equals_the_whole_model():
  """Some captions end, some are long, and beams find others than greedy decoding."""
  _, _, read, texts_BT, worths_B = make("a pool for each", W)
  pictures = np.flatnonzero(REAL)
  wanted = [search(read, picture, W) for picture in pictures]
  texts = [text for _, text in wanted]
  assert [cut(x) for x in texts_BT[REAL]] == texts
  np.testing.assert_allclose(worths_B[REAL], [worth for worth, _ in wanted], atol=1e-4)
  plain = [greedy(read, picture) for picture in pictures]
  assert len({tuple(text) for text in texts}) > 1
  assert {len(text) == T for text in texts} == {True, False}
  assert any(x != y for x, y in zip(texts, plain, strict=True))


def test_one_beam_is_greedy():
  _, _, read, texts_BT, _ = make("one pool, every second", 1)
  wanted = [greedy(read, picture) for picture in np.flatnonzero(REAL)]
  assert [cut(x) for x in texts_BT[REAL]] == wanted
  assert {len(text) == T for text in wanted} == {True, False}


def test_rows_that_are_padding_are_not_decoded():
  *_, texts_BT, worths_B = make("a pool for each", W)
  assert not texts_BT[~REAL].any()
  assert (worths_B[~REAL] == -np.inf).all()


def test_a_picture_is_read_once():
  """No step of the search has activations of its places, which experts would see."""
  config = dataclasses.replace(CONFIG, **VARIANTS["a pool for each"])
  shapes = parameters(config)
  traced = jax.make_jaxpr(lambda params: write(config, params, W, PATCHES, REAL))(
    shapes
  )
  (loop,) = [x for x in traced.eqns if x.primitive.name == "while"]
  place = f"f32[{len(PATCHES)},{config.num_image},{config.embed_dim}]"
  assert place in str(traced)
  assert place not in str(loop.params["body_jaxpr"])


def test_sharded_equals_unsharded():
  """Pictures, experts and attention heads over eight devices."""
  config, params, _, texts_BT, worths_B = make("a pool for each", W)
  mesh = sharding.make_mesh(data=2, expert=2, model=2)
  layouts = sharding.tree_shardings(params, mesh, sharding.REPLICATED)
  spread = jax.device_put(params, layouts)
  rows = jax.device_put((PATCHES, REAL), sharding.batch_sharding(mesh))
  with jax.set_mesh(mesh):
    found_BT, found_B = write_jit(config, spread, W, *rows)
  np.testing.assert_array_equal(np.asarray(found_BT)[REAL], texts_BT[REAL])
  np.testing.assert_allclose(np.asarray(found_B)[REAL], worths_B[REAL], atol=1e-5)
  assert found_BT.sharding.shard_shape(found_BT.shape)[0] == 2


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("router", ROUTERS)
def test_no_caption_sees_its_future(router, dispatch):
  """One pool for both, where a picture's tokens and a caption's meet; with drops."""
  config = dataclasses.replace(
    CONFIG,
    ffn="mhmoe",
    backbone="shared",
    pools="shared",
    num_layers=1,
    moe=dataclasses.replace(
      CONFIG.moe, router=router, dispatch=dispatch, eval_capacity_factor=0.6
    ),
  )
  params, positions_BT = (
    parameters(config),
    jnp.broadcast_to(jnp.arange(T)[None], (2, T)),
  )

  @jax.jit
  def apply(tokens_BT, patches_BPU):
    inputs = Inputs(
      patches_BPU,
      None,
      tokens_BT,
      positions_BT,
      jnp.ones_like(tokens_BT),
      1 + positions_BT,
    )
    return Encoder(config).apply({"params": params["encoder"]}, inputs)

  def see(tokens_BT, patches_BPU):
    x_BLD, pools = jax.device_get(apply(tokens_BT, patches_BPU))
    return x_BLD, pools["shared"].stats

  draw, patches_BPU = np.random.RandomState(3), np.array(PATCHES[:2])
  tokens_BT = draw.randint(0, V, (2, T))
  before_BLD, stats = see(tokens_BT, patches_BPU)
  assert (stats.dropped_sender > 0.1).all() == (dispatch in ("capacity", "einsum"))
  for t in range(T):
    changed_BT = tokens_BT.copy()
    changed_BT[:, t:] = (tokens_BT[:, t:] + 1 + t) % V
    after_BLD, _ = see(changed_BT, patches_BPU)
    place = config.num_image + t
    np.testing.assert_array_equal(after_BLD[:, :place], before_BLD[:, :place])
    assert (np.abs(after_BLD - before_BLD)[:, place].max(axis=1) > 1e-3).all()
  # And a caption sees the picture.
  patches_BPU[:, 1] += 1
  after_BLD, _ = see(tokens_BT, patches_BPU)
  moved_BL = np.abs(after_BLD - before_BLD).max(axis=2)[:, config.num_image :]
  assert (moved_BL.max(axis=1) > 1e-4).all()
