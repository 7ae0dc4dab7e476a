"""A trace of pictures says what the encoder does with every patch and word."""

import dataclasses

import jax
import numpy as np
import pytest

from mhmoe_jax.analysis.traces import picture_tracing
from mhmoe_jax.analysis.traces.trace import load_trace
from mhmoe_jax.codes.fit import fit
from mhmoe_jax.codes.vocabulary import encode
from mhmoe_jax.data.images import given, shapes
from mhmoe_jax.data.masked.rows import sample_pictures
from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import small_captioning, small_masked
from tests.train.small import small_config

PATCHES = 16
WORDS = 18  # of a pair's 20 tokens all but the first and the last


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  config = small_masked(tmp_path_factory.mktemp("masked"))
  # In the dispatch that compiles fastest, with room for all.
  config.model.moe.dispatch = "einsum"
  config.model.moe.eval_capacity_factor = 8.0
  return config


@pytest.fixture(scope="module")
def fixed(config):
  cfg = resolve(config)
  pictures = sample_pictures(cfg.data, 16)
  return fit(cfg.task.codes, pictures, steps=3, seed=0).arrays


def trace(folder, config, fixed, pictures, with_texts=True):
  """A trace of a fresh model, its config and its parameters."""
  cfg = resolve(config)
  params = jax.jit(cfg.task.init)(jax.random.key(1))
  meta = picture_tracing.describe_encoder(
    cfg, config.to_dict(), "small", 7, ["a.png"], with_texts
  )
  path = folder / "trace"
  picture_tracing.write_picture_trace(path, meta, cfg, params, fixed, pictures)
  return load_trace(path), cfg, params


@pytest.mark.parametrize(
  ("backbone", "pools", "with_texts"),
  [
    ("multiway", "modality", True),
    ("shared", "shared", True),
    ("multiway", "modality", False),
  ],
  ids=str,
)
def test_equals_the_encoder_on_each_picture(
  tmp_path, monkeypatch, config, fixed, backbone, pools, with_texts
):
  # Of five pictures the last batch is filled up.
  monkeypatch.setattr(picture_tracing, "_BATCH_TOKENS", 3 * 37)
  config.model.backbone, config.model.pools = backbone, pools
  pictures = list(given.iterate_shapes(0, 5, 16, with_texts))
  made, cfg, params = trace(tmp_path, config, fixed, pictures, with_texts)
  assert (
    made.meta.pools
    == {
      ("shared", True): ("shared",),
      ("modality", True): ("image", "text"),
      ("modality", False): ("image",),
    }[pools, with_texts]
  )
  encoder = Encoder(cfg.model, trace=True)
  apply = jax.jit(lambda *inputs: encoder.apply({"params": params["encoder"]}, *inputs))
  row = 0
  for number, one in enumerate(pictures):
    patches_BPU = normalize(to_patches(one.pixels[None], 4))
    inputs = Inputs(patches_BPU)
    words = np.frombuffer(one.text.encode(), np.uint8)[:WORDS].astype(np.int32) + 3
    if with_texts:
      # Captions are longer than the pair's window, so that there is no padding.
      tokens_BT = np.array([[0, *words, 1]], np.int32)
      places_BT = np.arange(20)[None]
      inputs = Inputs(patches_BPU, None, tokens_BT, places_BT, places_BT * 0 + 1)
    _, aux = apply(inputs)
    found = {
      pool: jax.tree.map(lambda x: x[:, 0], a.choices) for pool, a in aux.items()
    }
    for modality, count in (("image", PATCHES), ("text", len(words))):
      pool = modality if pools == "modality" else "shared"
      first = 1 + (PATCHES + 1) * (modality == "text" and pools == "shared")
      if not count:
        continue
      rows, here = slice(row, row + count), slice(first, first + count)
      expert_NLHK, weight_NLHK, kept_NLHK, entropy_NLH = (
        np.asarray(x[:, here]).swapaxes(0, 1) for x in found[pool]
      )
      np.testing.assert_array_equal(made.expert_TNHK[rows], expert_NLHK)
      # float16 on disk
      np.testing.assert_allclose(made.weight_TNHK[rows], weight_NLHK, rtol=1e-3)
      np.testing.assert_allclose(made.entropy_TNH[rows], entropy_NLH, rtol=1e-4)
      np.testing.assert_array_equal(made.dropped_TNHK[rows], ~kept_NLHK)
      assert (made.document_T[rows] == number).all()
      assert (made.modality_T[rows] == modality).all()
      row += count
  assert row == len(made.loss_T)


def test_patches_and_words_are_where_they_are(tmp_path, config, fixed):
  scenes = [shapes.make_scene(0, "validation", i) for i in range(2)]
  record = {"scene": scenes[0]}
  pixels = np.stack([shapes.render(scene, 16) for scene in scenes])
  pictures = [
    given.Given("a", "x/a.png", pixels[0], "é b", record),
    given.Given("c", "x/c.png", pixels[1].repeat(3, axis=0), "a cat on a mat is", {}),
  ]
  made, cfg, _ = trace(tmp_path, config, fixed, pictures)
  assert [tuple(document) for document in made.documents] == [
    ("a", "é b"),
    ("c", "a cat on a mat is"),
  ]
  assert made.pictures.names == ["x/a.png", "x/c.png"]
  np.testing.assert_array_equal(made.pictures.pixels_UYXC[0], pixels[0])
  # A tall picture is squashed to the square.
  assert made.pictures.pixels_UYXC.shape == (2, 16, 16, 3)
  np.testing.assert_allclose(
    made.pictures.texture_URC[0], shapes.texture_map(scenes[0], 16, 4), rtol=1e-6
  )
  assert np.isnan(made.pictures.texture_URC[1]).all()

  first = made.document_T == 0
  assert made.is_patch_T[first].tolist() == [True] * 16 + [False] * 4
  assert made.row_T[first].tolist() == [i // 4 for i in range(16)] + [-1] * 4
  assert made.column_T[first].tolist() == [i % 4 for i in range(16)] + [-1] * 4
  assert made.position_T[first].tolist() == list(range(20))
  assert made.start_T[first].tolist() == [0] * 16 + [0, 1, 2, 3]
  assert made.stop_T[first].tolist() == [0] * 16 + [1, 2, 3, 4]
  assert made.text_T[first].tolist()[16:] == ["<0xC3>", "<0xA9>", " ", "b"]
  patches_BPU = normalize(to_patches(made.pictures.pixels_UYXC, 4))
  ids_BP = encode(cfg.task.codes, fixed, patches_BPU)
  assert [f"code {code}" for code in ids_BP[1]] == made.text_T[20:36].tolist()
  assert np.isnan(made.loss_T).all()
  assert made.meta.window == PATCHES + WORDS


def test_no_picture_is_no_trace(tmp_path, config, fixed):
  with pytest.raises(ValueError, match=r"^a trace must have at least one picture, got"):
    trace(tmp_path, config, fixed, [])
  assert not (tmp_path / "trace").exists()


def test_a_dense_model_routes_nothing(config):
  cfg = resolve(config)
  dense = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, ffn="dense"))
  with pytest.raises(ValueError, match="a trace needs a model with MoE layers, got"):
    picture_tracing.describe_encoder(dense, {}, "dense", 0, [], True)


def test_a_run_without_pictures_is_refused(tmp_path):
  cfg = resolve(small_config(tmp_path))
  with pytest.raises(ValueError, match=r"^a trace of pictures needs a run with an en"):
    picture_tracing.describe_encoder(cfg, {}, "text", 0, [], False)


def test_a_run_of_captions_sees_no_future(tmp_path):
  """Captions of one picture are alike up to where they part; codes there are none."""
  config = small_captioning()
  config.model.moe.dispatch = "einsum"
  config.model.moe.eval_capacity_factor = 8.0
  pixels = np.random.RandomState(0).randint(256, size=(16, 16, 3)).astype(np.uint8)
  pictures = [given.Given("a", "a", pixels, x, {}) for x in ("a red cat", "a red hat")]
  made, _, _ = trace(tmp_path, config, {}, pictures)
  first, second = np.split(np.arange(len(made.loss_T)), 2)
  same = PATCHES + len("a red ")
  for x in (made.entropy_TNH, made.weight_TNHK):
    np.testing.assert_array_equal(x[first[:same]], x[second[:same]])
    assert (x[first[same:]] != x[second[same:]]).any()
  assert made.text_T[:PATCHES].tolist() == [""] * PATCHES
  assert made.text_T[PATCHES:].tolist()[:5] == ["a", " ", "r", "e", "d"]
