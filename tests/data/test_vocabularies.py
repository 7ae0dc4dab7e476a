"""Bytes per token, by hand for "bytes", by sum for a trained model."""

import numpy as np
import pytest
import sentencepiece
import tiktoken

from mhmoe_jax.data import vocabularies
from mhmoe_jax.data.bpe import TiktokenVocabulary
from mhmoe_jax.data.tokenizer import train_sentencepiece


def test_bytes(nasty):
  vocabulary = vocabularies.make_vocabulary("bytes")
  special = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
  assert (vocabulary.vocab_size, special) == (259, (0, 1, 2))
  assert vocabulary.encode("a\n") == [ord("a") + 3, ord("\n") + 3]
  token_bytes_V = vocabularies.count_token_bytes(vocabulary)
  assert token_bytes_V.dtype == np.int32
  assert token_bytes_V.tolist() == [0, 0, 0] + [1] * 256
  assert token_bytes_V[vocabulary.encode(nasty)].sum() == len(nasty.encode())


def test_what_may_be_drawn():
  drawable_V = vocabularies.find_drawable(vocabularies.ByteVocabulary(), 264)
  assert np.flatnonzero(drawable_V).tolist() == [1, *range(3, 259)]
  # Between its special tokens cl100k has ids without a token: here 3, 5 and 6.
  encoding = tiktoken.Encoding(
    "gaps",
    pat_str=".",
    mergeable_ranks={b"a": 0, b"b": 1},
    special_tokens={"<|endoftext|>": 3, "<|end|>": 6},
  )
  drawable_V = vocabularies.find_drawable(TiktokenVocabulary(encoding), 10)
  assert np.flatnonzero(drawable_V).tolist() == [1, 2, 4]


def test_pieces(tmp_path):
  path = str(tmp_path / "tiny.model")
  train_sentencepiece(["über dem Berg, über dem Tal\n"] * 9, 300, path)
  vocabulary = vocabularies.make_vocabulary(path)
  token_bytes_V = vocabularies.count_token_bytes(vocabulary)
  assert (token_bytes_V.dtype, token_bytes_V.shape) == (np.int32, (300,))
  piece_to_id = vocabulary.tokenizer.piece_to_id
  expected = {"<pad>": 0, "</s>": 0, "<unk>": 0, "<0xE4>": 1, "\n": 1, "▁": 1, "ü": 2}
  expected |= {"▁dem": 4, "ber": 3}
  assert {p: int(token_bytes_V[piece_to_id(p)]) for p in expected} == expected


QUICK = "the quick brown fox jumps over the lazy dog"
FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
OURS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


@pytest.fixture(params=["bytes", "ours", "t5", "llama", "xlmr"])
def any_vocabulary(request, tmp_path):
  if request.param == "bytes":
    return vocabularies.make_vocabulary("bytes")
  path = str(tmp_path / "a.model")
  if request.param == "ours":
    train_sentencepiece([f"{QUICK}\n"] * 9, 300, path)
    return vocabularies.make_vocabulary(path)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([QUICK] * 9),
    model_prefix=path.removesuffix(".model"),
    model_type="bpe",
    vocab_size=60,
    # Llama's begins a text with a space as well, but takes away none.
    remove_extra_whitespaces=request.param != "llama",
    minloglevel=2,
    **(FAIRSEQ if request.param == "xlmr" else OURS),
  )
  prefix = "xlmr:" if request.param == "xlmr" else ""
  return vocabularies.make_vocabulary(prefix + path)


@pytest.mark.parametrize("words", range(5))
@pytest.mark.parametrize("space", ["", " "])
def test_a_prompt_and_what_is_added_are_the_text(any_vocabulary, words, space):
  """Wherever a text is cut: its two parts, the second of them from tokens alone."""
  prompt = " ".join(QUICK.split()[:words]) + space
  if not QUICK.startswith(prompt):  # A space before the first word.
    return
  before, tokens = any_vocabulary.encode(prompt), any_vocabulary.encode(QUICK)
  if tokens[: len(before)] == before:
    after = tokens[len(before) :]
  else:  # The prompt ends with a token of its own for the space, letters follow.
    token_of = {any_vocabulary.spell(t): t for t in range(any_vocabulary.vocab_size)}
    after = [token_of[x.encode()] for x in QUICK.removeprefix(prompt)]
  assert prompt + any_vocabulary.decode(after, after=prompt) == QUICK


def test_a_cut_character_is_left_out():
  vocabulary = vocabularies.make_vocabulary("bytes")
  tokens = vocabulary.encode("aä€")
  assert vocabulary.decode(tokens[:-1]) == "aä"
  assert vocabulary.decode([*tokens[:-1], *tokens[:1]]) == "aä\ufffda"
  # Ids that no token has, and those that spell nothing.
  assert vocabulary.decode([0, 1, 2, tokens[0], 259, 10_000]) == "a"


def test_missing_model(refuses):
  with refuses(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH', 'hf:DIR' or a SentencePiece "
    "model's path, got vocabulary='no/such.model' (FileNotFoundError)."
  ):
    vocabularies.make_vocabulary("no/such.model")


def test_file_that_is_no_model(tmp_path, refuses):
  path = tmp_path / "text.model"
  path.write_text("This is not a model.\n")
  with refuses(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH', 'hf:DIR' or a SentencePiece "
    f"model's path, got vocabulary='{path}' (RuntimeError)."
  ):
    vocabularies.make_vocabulary(str(path))


def test_model_that_does_not_pad_with_0(tmp_path, refuses):
  prefix = str(tmp_path / "llama")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b c d e f"] * 9),
    model_prefix=prefix,
    vocab_size=11,
    minloglevel=2,
  )
  with refuses(
    "A SentencePiece model must have pad id 0 and an eos id, got pad_id=-1, eos_id=2 "
    f"in {prefix}.model."
  ):
    vocabularies.make_vocabulary(f"{prefix}.model")
