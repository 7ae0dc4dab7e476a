"""A run that starts from another's parameters: what is taken, adapted, new, refused."""

import jax
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.inherit import inherit
from tests.tasks.pictures import small_masked
from tests.train.small import small_config


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
  """The config of a run of masked modelling, its folder, and its parameters."""
  folder = tmp_path_factory.mktemp("masked")
  config = small_masked(folder)
  cfg = resolve(config)
  shapes = jax.eval_shape(lambda: cfg.task.init(jax.random.key(0)))
  draw = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: jax.numpy.asarray(draw.standard_normal(x.shape), x.dtype),
    {"params": shapes, "fixed": cfg.task.fixed_shapes()},
  )
  with Checkpoints(folder, 1) as checkpoints:
    checkpoints.save(5, state, {0: b""}, config.to_dict())
    checkpoints.wait()
  return config, str(folder), jax.tree.map(np.asarray, state)


@pytest.fixture
def config(masked):
  config = masked[0].copy_and_resolve_references()
  config.init = masked[1]
  return config


def start(config, fixed=None):
  """What a run of `config` would begin with, its fresh parameters, and the record."""
  cfg = resolve(config)
  mesh = sharding.make_mesh(
    data=cfg.mesh.data, expert=cfg.mesh.expert, model=cfg.mesh.model
  )
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  shapes = jax.eval_shape(lambda: cfg.task.init(jax.random.key(1)))
  layout = sharding.tree_shardings(shapes, mesh, rules)
  inherited = inherit(cfg, shapes, mesh)
  # Ones stand for freshly initialised parameters.
  fresh = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
  state = {"params": jax.device_put(fresh, layout)} | (
    {"fixed": fixed} if fixed else {}
  )
  found = inherited.put(state)["params"]
  assert jax.tree.map(lambda x: x.sharding, found) == layout
  return found, inherited.about


def same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(x, y)


def cubic(distance):
  """Keys' kernel of 1981 with a = -1/2."""
  x = abs(distance)
  inner = 1.5 * x**3 - 2.5 * x**2 + 1
  outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


def enlarged(grid_YXD, size):
  """By the definition: each new place is a weighted mean of the old ones around it."""
  old = len(grid_YXD)
  centers = (np.arange(size) + 0.5) * old / size - 0.5
  weights = cubic(centers[:, None] - np.arange(old)[None])
  weights /= weights.sum(axis=1, keepdims=True)  # at the edges there are fewer
  return np.einsum("yY,xX,YXD->yxD", weights, weights, grid_YXD)


def test_on_eight_devices_bit_for_bit(masked, config):
  """Over `data`, `expert` and `model`; positions for 6 x 6 patches and 26 tokens."""
  config.mesh.update({"data": 2, "expert": 2, "model": 2, "fsdp": True})
  config.model.picture_size = 24
  config.model.text_length = 26
  config.model.drop_path = 0.1
  found, about = start(config)
  wanted = jax.tree.map(np.copy, masked[2]["params"])
  old_LD = wanted["encoder"]["picture"].pop("position_LD")
  new_LD = np.asarray(found["encoder"]["picture"].pop("position_LD"))
  np.testing.assert_array_equal(new_LD[0], old_LD[0])
  grid = enlarged(old_LD[1:].reshape(4, 4, -1).astype(np.float64), 6)
  np.testing.assert_allclose(new_LD[1:], grid.reshape(36, -1), atol=1e-5)
  old_LD = wanted["encoder"]["text"].pop("position_LD")
  new_LD = found["encoder"]["text"].pop("position_LD")
  np.testing.assert_array_equal(new_LD[:20], old_LD)
  np.testing.assert_array_equal(new_LD[20:], 1)
  same(found, wanted)
  assert about.step == 5
  assert about.adapted == {
    "encoder/picture/position_LD": "from 4 x 4 patches to 6 x 6",
    "encoder/text/position_LD": "from 20 places to 26",
  }
  assert about.new == {}
  assert about.changed == [
    "drop_path was 0.0, is 0.1",
    "picture_size was 16, is 24",
    "text_length was 20, is 26",
  ]


def test_codes_of_another_vocabulary(masked, config):
  """A head that tells codes is worth nothing for others."""
  fixed = masked[2]["fixed"]
  start(config, fixed)
  name = sorted(fixed)[0]
  with pytest.raises(ValueError, match="vocabulary must be that of config"):
    start(config, fixed | {name: fixed[name] + 1})


def test_another_model_or_tokenizer(masked, config):
  """Told by the settings, before any array is read."""
  shapes = masked[2]["params"]
  mesh = sharding.make_mesh(data=1)
  for name, value, theirs in (
    ("patch_size", 8, 4),
    ("embed_dim", 32, 16),
    ("vocab_size", 300, 264),
    ("num_layers", 1, 2),
    ("ffn", "dense", "mhmoe"),
    ("backbone", "shared", "multiway"),
  ):
    other = config.copy_and_resolve_references()
    other.model[name] = value
    with pytest.raises(ValueError) as error:
      inherit(resolve(other), shapes, mesh)
    assert str(error.value) == (
      f"config.init must be a run of the same model.{name}, got {name}={value!r}, and "
      f"{theirs!r} of {masked[1]}."
    )
  config.data.text.vocabulary = "cl100k"
  with pytest.raises(ValueError, match=r"same vocabulary, got 'cl100k' .*'bytes'"):
    inherit(resolve(config), shapes, mesh)


def test_other_shapes(masked, config):
  config.model.ffn_dim = 8
  with pytest.raises(ValueError) as error:
    start(config)
  assert str(error.value) == (
    "config.init must be a run whose parameters fit, got "
    "encoder/layers/block_0/image_ffn/b_in_F of shape (1, 8), and (1, 16) of "
    f"{masked[1]}."
  )


def test_runs_of_language(masked, config, tmp_path):
  """They go on with each other, and not with encoders."""
  language = small_config(tmp_path)
  language.init = masked[1]
  with pytest.raises(ValueError, match="a run with some of embed_VD, final_norm, laye"):
    start(language)
  shapes = jax.eval_shape(lambda: resolve(language).task.init(jax.random.key(0)))
  params = jax.tree.map(lambda x: np.full(x.shape, 2, x.dtype), shapes)
  with Checkpoints(tmp_path, 1) as checkpoints:
    state = {"params": jax.tree.map(jax.numpy.asarray, params)}
    checkpoints.save(1, state, {0: b""}, language.to_dict())
    checkpoints.wait()
  config.init = language.init = str(tmp_path)
  found, about = start(language)
  same(found, params)
  assert (about.adapted, about.new, about.left_out) == ({}, {}, [])
  with pytest.raises(
    ValueError, match=f"with a picture encoder, got a run of task language, {tmp_path}."
  ):
    start(config)
  config.init = str(tmp_path / "none")
  with pytest.raises(ValueError, match=r"no checkpoint under .*none/checkpoints."):
    start(config)
