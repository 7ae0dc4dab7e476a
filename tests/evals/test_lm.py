"""Every number of the harness's model once more, token by token.

What tokens a pair of texts has is written out by hand, or from the vocabulary alone.
"""

import codecs
import types

import jax
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.data.tokenizer import train_sentencepiece
from mhmoe_jax.evals import lm as lm_module
from tests.evals.small import LENGTH, TEXT, Oracle, make_lm, small_cl100k, small_config


def ask(*args):
  return types.SimpleNamespace(args=args)


def of_bytes(text):
  return [byte + 3 for byte in text.encode()]


BYTES = range(3, 259)  # text; 1 ends a document


@pytest.fixture(scope="module")
def cfg():
  return small_config()


@pytest.fixture(scope="module")
def model(cfg):
  return make_lm(cfg)


@pytest.fixture(scope="module")
def oracle(cfg):
  return Oracle(cfg, {1, *BYTES})


def assert_scores(found, wanted):
  for (log_prob, greedy), (wanted_log_prob, wanted_greedy) in zip(
    found, wanted, strict=True
  ):
    assert log_prob == pytest.approx(wanted_log_prob, rel=1e-5, abs=1e-4)
    assert greedy is wanted_greedy


PAIRS = [
  ("Question: is it?\nAnswer:", " yes"),  # 24 + 4 bytes: the context is cut
  ("Question: is it?\nAnswer:", " no"),
  ("", "premise, right? Also, on"),  # 24 bytes: all that the model sees
  ("a", "b"),
  ("two words ", "and more"),  # the space goes to the continuation
  ("  ", "x"),  # the context is all space
  ("é", "漢字"),
  ("x" * 100, "y" * LENGTH),  # nothing of the context is left
]


def test_log_likelihoods_token_by_token(model, oracle):
  found = model.loglikelihood([ask(*pair) for pair in PAIRS])
  tokens = [
    ("Question: is it?\nAnswer:", " yes"),
    ("Question: is it?\nAnswer:", " no"),
    ("", "premise, right? Also, on"),
    ("a", "b"),
    ("two words", " and more"),
    ("", "  x"),
    ("é", "漢字"),
    ("", "y" * LENGTH),
  ]
  wanted = []
  for context, continuation in tokens:
    context, continuation = of_bytes(context), of_bytes(continuation)
    room = LENGTH - len(continuation)
    context = context[max(len(context) - room, 0) :]
    wanted.append(oracle.score(context, continuation))
  assert_scores(found, wanted)


def test_greedy_is_seen(model, oracle):
  context = of_bytes("the ")
  tokens = oracle.greedy(context, 3)
  other = [*tokens[:2], tokens[2] % 200 + 4]
  pairs = [(("", ""), context, tokens), (("", ""), context, other)]
  found = model._loglikelihood_tokens(pairs)
  assert_scores(found, [oracle.score(context, tokens), oracle.score(context, other)])
  assert [greedy for _, greedy in found] == [True, False]


def test_context_and_continuation_that_meet_inside_a_token(monkeypatch):
  """The continuation has what the whole has past as many tokens as the context."""
  vocabulary = small_cl100k()
  monkeypatch.setattr(lm_module, "make_vocabulary", lambda name: vocabulary)
  cfg = small_config("cl100k", vocab_size=264)
  oracle = Oracle(cfg, range(1, 261))
  he, _t, the = 257, 258, 259
  o, h, n = (ord(letter) + 1 for letter in "ohn")
  table = {
    ("oh", "en"): ([o, h], [n]),  # "ohen" is o, he, n
    ("o", "then"): ([o], [the, n]),
    ("on ", "the"): ([o, n], [_t, he]),
    ("on", " to"): ([o, n], [_t, o]),
    ("", "he"): ([], [he]),
  }
  model = make_lm(cfg)
  found = model.loglikelihood([ask(*pair) for pair in table])
  assert_scores(found, [oracle.score(*tokens) for tokens in table.values()])
  with pytest.raises(ValueError) as error:  # " the" has two tokens, as " th" has.
    model.loglikelihood([ask("on th", "e")])
  assert str(error.value) == (
    "a continuation must have a token of its own, got 'e' behind 'on th'."
  )


def test_sentencepiece(tmp_path):
  path = str(tmp_path / "small.model")
  train_sentencepiece([TEXT] * 9, 290, path)
  cfg = small_config(path)
  model = make_lm(cfg)
  oracle = Oracle(cfg, {1, *range(3, 290)})
  encode = model.tok_encode
  pairs = [("the quick", " brown fox"), ("the qu", "ick"), ("", "the lazy dog")]
  wanted = []
  for context, continuation in pairs:
    whole, n = encode(context + continuation), len(encode(context))
    assert len(whole) < len(context + continuation)  # of several bytes each
    wanted.append(oracle.score(encode(context), whole[n:]))
  assert_scores(model.loglikelihood([ask(*pair) for pair in pairs]), wanted)


@pytest.mark.parametrize("length", [1, 22, 23, 24, 46, 47, 60])
def test_rolling_predicts_each_token_once(model, oracle, length):
  """Windows of 23 tokens behind 0; the last one is full of what is before it."""
  tokens = of_bytes((TEXT * 2)[:length])
  wanted, done = 0.0, min(length, 23)
  wanted += oracle.score([], tokens[:done])[0]
  while done < length:
    stop = min(done + 23, length)
    # 0, then as many inputs as there is room for: the last token is only predicted.
    wanted += oracle.score(tokens[stop - 24 : done], tokens[done:stop])[0]
    done = stop
  (found,) = model.loglikelihood_rolling([ask((TEXT * 2)[:length])])
  assert found == pytest.approx(wanted, rel=1e-5)


def test_rolling_keeps_texts_apart(model):
  texts = [TEXT[:40], TEXT[:40], "", TEXT[:30]]
  found = model.loglikelihood_rolling([ask(text) for text in texts])
  alone = [model.loglikelihood_rolling([ask(text)])[0] for text in texts]
  np.testing.assert_allclose(found, alone, rtol=1e-5)
  assert found[2] == 0.0


@pytest.mark.parametrize(
  ("pair", "length"), [(("", "y" * 25), 25), (("context", "y" * 40), 40)]
)
def test_a_continuation_is_never_cut(model, pair, length):
  with pytest.raises(ValueError) as error:
    model.loglikelihood([ask(*pair)])
  assert str(error.value) == (
    "a continuation must have from 1 to 24 tokens, the model's context (--max_length "
    f"of the verb harness widens it), got {length}."
  )


def continuation(oracle, context, length):
  tokens = oracle.greedy(of_bytes(context)[-(LENGTH - length - 1) :], length)
  decoder = codecs.getincrementaldecoder("utf-8")("replace")
  return decoder.decode(bytes(token - 3 for token in tokens))


def test_generation_token_by_token(model, oracle):
  contexts = ["the quick", "a", "", "the quick brown fox jumps over the lazy dog"]
  requests = [ask(c, {"until": [], "max_gen_toks": 9}) for c in contexts]
  found = model.generate_until([*requests, ask("the", {"max_gen_toks": 3})])
  wanted = [continuation(oracle, context, 9) for context in contexts]
  assert found == [*wanted, continuation(oracle, "the", 3)]


def test_nothing_asked_is_nothing_said(model):
  asked = (model.loglikelihood, model.loglikelihood_rolling, model.generate_until)
  assert [ask([]) for ask in asked] == [[], [], []]


def scripted(model, texts):
  """Makes `model` generate these texts token by token; returns how many it took."""
  taken = []

  def generate(params, prompts, limits, is_done, tell):
    for i, text in enumerate(texts):
      tokens = [] if isinstance(text, str) else text
      script = model.tok_encode(text) if isinstance(text, str) else text
      for n in range(1, len(script) + 1):
        tokens = script[:n]
        if n == limits[i] or is_done(i, tokens):
          break
      taken.append(tokens)
    return taken

  model._generate = generate
  return taken


@pytest.mark.parametrize("pieces", [False, True])
def test_stop_sequences(cfg, tmp_path, pieces):
  if pieces:
    path = str(tmp_path / "small.model")
    train_sentencepiece([TEXT] * 9, 290, path)
    cfg = small_config(path)
  model = make_lm(cfg)
  encode = model.tok_encode
  end = [*encode(" dog"), 1, *encode(" unheard")]
  # Generated, stop sequences, what is left, how many tokens that took.
  table = [
    (" dog\n\nQ: why", ["\n\n", "Q:"], " dog", len(encode(" dog\n\n"))),
    (" dog Q: why\n\n", ["\n\n", "Q:"], " dog ", len(encode(" dog Q:"))),
    (" the lazy dog", ["zy d"], " the la", len(encode(" the lazy d"))),
    (" no stop", ["zz", ""], " no stop", 0),
    ("fox", [], "fox", 0),
    (end, [], " dog", len(encode(" dog")) + 1),
    (" 漢字。", "。", " 漢字", len(encode(" 漢字。"))),
  ]
  taken = scripted(model, [text for text, *_ in table])
  requests = [ask("the", {"until": until}) for _, until, _, _ in table]
  model.max_length = 300
  assert model.generate_until(requests) == [left for _, _, left, _ in table]
  for tokens, (*_, number) in zip(taken, table, strict=True):
    if number:
      # A piece may hold what follows the stop sequence, too.
      assert number - pieces <= len(tokens) <= number


def test_the_first_stop_sequence_counts(cfg):
  """However much was generated past it."""
  model = make_lm(cfg)
  model.max_length = 300
  tokens = [*of_bytes(" dog Q: why\n\nQ: "), 1, *of_bytes("Q:")]
  model._generate = lambda *_: [tokens] * 3
  stops = (["\n\n", "Q:"], ["Q:", "\n\n"], ["\n"])
  found = model.generate_until([ask("the", {"until": until}) for until in stops])
  assert found == [" dog ", " dog ", " dog Q: why"]


def test_what_cannot_be_generated_is_refused(model):
  with pytest.raises(ValueError, match="max_gen_toks=256 and a context of 24"):
    model.generate_until([ask("a", {"until": ["b"]})])
  with pytest.raises(ValueError, match=r"generation is greedy here, got .*0.7"):
    model.generate_until([ask("a", {"temperature": 0.7, "max_gen_toks": 2})])


def test_eight_devices_equal_one():
  # The mesh does not divide the heads of keys and values, which stay whole.
  cfg = small_config(num_kv_heads=1)
  one, mesh = make_lm(cfg), sharding.make_mesh(data=2, expert=2, model=2)
  eight = make_lm(cfg, mesh)
  shapes = {x.sharding.spec for x in jax.tree.leaves(eight.params)}
  assert any("expert" in spec and "model" in spec for spec in shapes)
  requests = [ask(*pair) for pair in PAIRS]
  assert_scores(eight.loglikelihood(requests), one.loglikelihood(requests))
  asked = [ask(text, {"max_gen_toks": 8}) for text in ("the", "quick brown", "f")]
  assert eight.generate_until(asked) == one.generate_until(asked)
