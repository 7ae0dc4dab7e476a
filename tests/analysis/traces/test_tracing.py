"""A trace says what the layer does, about every byte of the text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.analysis.traces import tracing
from mhmoe_jax.analysis.traces.trace import load_trace
from mhmoe_jax.data.documents import Document
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve
from tests.train.small import small_config

DOCUMENTS = [
  Document("en", "the quick brown fox jumps over the lazy dog"),
  Document("de", "über 漢字"),
  Document("de", "x"),
]


def trace(tmp_path, documents=DOCUMENTS, **moe):
  """A trace of a fresh model, its config and its parameters."""
  config = small_config(tmp_path)
  config.model.ffn = moe.pop("ffn", "mhmoe")
  config.model.moe.update(moe)
  cfg = resolve(config)
  params = jax.jit(init_params, static_argnums=0)(cfg.model, jax.random.key(1))
  meta = tracing.describe_model(cfg, config.to_dict(), "small", 7, ["a.txt"])
  tracing.write_trace(tmp_path / "trace", meta, cfg, params, documents)
  return load_trace(tmp_path / "trace"), cfg, params


def test_spans_are_the_text(tmp_path):
  made, _, _ = trace(tmp_path)
  assert made.documents == DOCUMENTS
  assert (made.meta.num_tokens, made.meta.num_documents) == (43 + 12 + 1, 3)
  assert (made.meta.step, made.meta.layers) == (7, (1,))
  assert made.meta.config["model"]["moe"]["num_experts"] == made.meta.num_experts
  for number, document in enumerate(DOCUMENTS):
    of = made.document_T == number
    content = document.text.encode()
    pieces = [
      content[a:b] for a, b in zip(made.start_T[of], made.stop_T[of], strict=True)
    ]
    assert b"".join(pieces) == content
    np.testing.assert_array_equal(made.position_T[of], np.arange(of.sum()))
    assert (made.label_T[of] == document.label).all()
  assert made.text_T[0] == "t"
  assert list(made.text_T[43:45]) == ["<0xC3>", "<0xBC>"]


def test_no_text_is_no_trace(tmp_path):
  """As of a file that is a byte order mark."""
  with pytest.raises(ValueError, match=r"at least one token, got none in a\.txt\.$"):
    trace(tmp_path, [])
  assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
  "moe",
  [{}, {"ffn": "smoe"}, {"router": "cosine"}, {"dispatch": "capacity"}],
  ids=str,
)
def test_equals_the_model_on_each_window(tmp_path, moe):
  # Windows of 15 tokens by themselves, without packing; capacity that drops nothing.
  moe |= {"eval_capacity_factor": 9.0}
  made, cfg, params = trace(tmp_path, **moe)
  model = Decoder(cfg.model, trace=True)
  apply = jax.jit(lambda *inputs: model.apply({"params": params}, *inputs))
  row = 0
  for document in DOCUMENTS:
    tokens = np.frombuffer(document.text.encode(), np.uint8).astype(np.int32) + 3
    for window in np.split(tokens, range(15, len(tokens), 15)):
      n = len(window)
      inputs_BL = np.zeros((1, 16), np.int32)
      inputs_BL[0, 1 : n + 1] = window
      places_BL = np.arange(16)[None]
      logits_BLV, aux, _ = apply(inputs_BL, places_BL, (places_BL <= n).astype(int))
      rows, here = slice(row, row + n), slice(1, n + 1)
      expert_NLHK, weight_NLHK, kept_NLHK, entropy_NLH = (
        np.asarray(x[:, 0, here]).swapaxes(0, 1) for x in aux.choices
      )
      np.testing.assert_array_equal(made.expert_TNHK[rows], expert_NLHK)
      # float16 on disk
      np.testing.assert_allclose(made.weight_TNHK[rows], weight_NLHK, rtol=1e-3)
      np.testing.assert_allclose(made.entropy_TNH[rows], entropy_NLH, rtol=1e-4)
      assert kept_NLHK.all()
      assert not made.dropped_TNHK[rows].any()
      logp_LV = jax.nn.log_softmax(logits_BLV[0, :n])
      np.testing.assert_allclose(
        made.loss_T[rows], -logp_LV[np.arange(n), window], rtol=1e-4
      )
      row += n
  assert row == len(made.loss_T)
  H = 1 if cfg.model.ffn == "smoe" else 4
  assert made.expert_TNHK.shape[1:] == (1, H, 2)


@pytest.mark.parametrize("dispatch", ["capacity", "einsum"])
def test_dropped_are_those_without_a_slot(tmp_path, dispatch):
  factor = 0.5
  same = {"dispatch": dispatch, "eval_capacity_factor": factor}
  made, _, _ = trace(tmp_path, DOCUMENTS[:1], **same)
  # One row of 16 places a window, 8 experts: 16 * 4 * 2 / 8 * 0.5 = 8 slots. The first
  # place, the padding token's, has taken some of them: which is not in the trace, so
  # only what must have been dropped is known, and that nothing was, while slots last.
  used, dropped = {}, 0
  for t in range(15):  # the first window
    for h, k in np.ndindex(4, 2):
      expert = int(made.expert_TNHK[t, 0, h, k])
      used[expert] = used.get(expert, 0) + 1
      if used[expert] > 8:
        assert made.dropped_TNHK[t, 0, h, k]
      if used[expert] <= 8 - 4:  # each head of the first place chose it at most once
        assert not made.dropped_TNHK[t, 0, h, k]
      dropped += made.dropped_TNHK[t, 0, h, k]
  assert dropped > 0
  assert not made.dropped_TNHK.all()


def test_training_does_not_trace(tmp_path):
  cfg = resolve(small_config(tmp_path))
  ones_BL = jnp.ones((1, 4), jnp.int32)
  params = jax.eval_shape(lambda: init_params(cfg.model, jax.random.key(0)))
  _, aux, _ = jax.eval_shape(
    Decoder(cfg.model).apply, {"params": params}, ones_BL, ones_BL, ones_BL
  )
  assert aux.choices is None


def test_rows_are_filled_in_order_and_one_by_one():
  asked = []

  def windows():
    for number, size in enumerate([3, 2, 5, 1]):
      asked.append(number)
      yield number, 10 * number, np.full(size, 7 + number)

  batches = tracing.pack(windows(), B=1, L=8)
  rows = next(batches)
  assert asked == [0, 1, 2]  # no more of the text than fills a batch
  assert rows.tokens_BL.tolist() == [[0, 7, 7, 7, 0, 8, 8, 0]]
  assert rows.positions_BL.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
  assert rows.segments_BL.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0]]
  assert rows.owner_BL.tolist() == [[-1, 0, 0, 0, -1, 1, 1, -1]]
  assert rows.place_BL.tolist() == [[-1, 0, 1, 2, -1, 10, 11, -1]]
  assert next(batches).segments_BL.tolist() == [[1] * 6 + [2] * 2]
  assert next(batches, None) is None


def test_a_dense_model_routes_nothing(tmp_path):
  config = small_config(tmp_path)
  config.model.ffn = "dense"
  with pytest.raises(ValueError, match="a trace needs a model with MoE layers, got"):
    tracing.describe_model(resolve(config), {}, "dense", 0, [])


def test_a_vocabulary_that_loses_text_is_refused():
  class Lossy:
    def encode(self, text):
      return [2] * len(text)

  with pytest.raises(ValueError, match="lose nothing of a text, got tokens for 0 of"):
    tracing.encode(Lossy(), np.array([0, 0, 0]), "abc")


def test_max_tokens_begins_no_more_documents(tmp_path):
  config = small_config(tmp_path)
  cfg = resolve(config)
  params = jax.jit(init_params, static_argnums=0)(cfg.model, jax.random.key(1))
  meta = tracing.describe_model(cfg, {}, "small", 7, [])
  short = dataclasses.replace(meta, name="short")
  calls = []
  tracing.write_trace(
    tmp_path / "short",
    short,
    cfg,
    params,
    DOCUMENTS,
    max_tokens=44,
    on_batch=lambda *counts: calls.append(counts),
  )
  made = load_trace(tmp_path / "short")
  assert made.documents == DOCUMENTS[:2]
  assert calls == [(43 + 12, 43 + 12)]


def test_a_document_longer_than_a_batch(tmp_path, monkeypatch):
  monkeypatch.setattr(tracing, "_BATCH_TOKENS", 16)
  document = Document("en", "éa" * 20)
  made, _, _ = trace(tmp_path, [document])
  assert made.start_T.tolist() == list(range(60))
  assert made.stop_T.tolist() == list(range(1, 61))
  assert made.position_T.tolist() == list(range(60))
