"""Bytes per token, by hand for "bytes", by sum for a trained model."""

import numpy as np
import sentencepiece

from mhmoe_jax.data import vocabularies
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


def test_missing_model(refuses):
  with refuses(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH' or a SentencePiece model's "
    "path, got vocabulary='no/such.model' (FileNotFoundError)."
  ):
    vocabularies.make_vocabulary("no/such.model")


def test_file_that_is_no_model(tmp_path, refuses):
  path = tmp_path / "text.model"
  path.write_text("This is not a model.\n")
  with refuses(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH' or a SentencePiece model's "
    f"path, got vocabulary='{path}' (RuntimeError)."
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
