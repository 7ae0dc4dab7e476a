"""XLM-R's ids: fairseq's table by hand, and the feed pads what no text has."""

import dataclasses

import numpy as np
import pytest
import sentencepiece

from mhmoe_jax.data.validation import count_bytes, make_eval_feed
from mhmoe_jax.data.vocabularies import (
  count_token_bytes,
  identify_vocabulary,
  make_vocabulary,
)

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture
def model(tmp_path) -> str:
  """A model with the special tokens of `sentencepiece.bpe.model`."""
  prefix = str(tmp_path / "sentencepiece.bpe")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([TEXT] * 9),
    model_prefix=prefix,
    model_type="bpe",
    vocab_size=60,
    normalization_rule_name="nmt_nfkc",
    minloglevel=2,
  )
  return f"{prefix}.model"


def test_ids_are_fairseqs(model):
  vocabulary = make_vocabulary(f"xlmr:{model}")
  pieces = sentencepiece.SentencePieceProcessor(model_file=model)
  # fairseq's Dictionary: four special tokens, the pieces from the third on, <mask>.
  table = ["<s>", "<pad>", "</s>", "<unk>", *map(pieces.id_to_piece, range(3, 60))]
  table += ["<mask>"]
  assert vocabulary.vocab_size == len(table) == 62
  special = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
  assert special == (0, 2, 3)
  tokens = vocabulary.encode(f"{TEXT} ß <s></s>")
  spelt = [table[token] for token in tokens]
  known = pieces.encode(f"{TEXT} ß <s></s>", out_type=str)
  assert spelt == [piece if piece in table else "<unk>" for piece in known]
  assert "<unk>" in spelt
  assert min(tokens) == 3
  assert vocabulary.decode([*vocabulary.encode(TEXT), 2]) == TEXT
  assert vocabulary.decode([0, 1, *vocabulary.encode("fox"), 61]) == "fox"
  token_bytes_V = count_token_bytes(vocabulary)
  assert (token_bytes_V.shape, token_bytes_V.dtype) == ((62,), np.int32)
  assert token_bytes_V[[0, 1, 2, 3, 61]].tolist() == [0] * 5
  # One more than the text has, because the model begins it with a space.
  assert token_bytes_V[vocabulary.encode(TEXT)].sum() == len(TEXT) + 1


def test_what_pads_is_no_target(cfg, model, tmp_path):
  (tmp_path / "a.txt").write_text(f"{TEXT}\n" * 9)
  cfg = dataclasses.replace(
    cfg,
    source="text",
    train=str(tmp_path / "a.txt"),
    valid=str(tmp_path / "a.txt"),
    vocabulary=f"xlmr:{model}",
    sequence_length=16,
  )
  batches = list(make_eval_feed(cfg, 4))
  targets = np.concatenate([batch["targets"] for batch in batches])
  weights = np.concatenate([batch["weights"] for batch in batches])
  inputs = np.concatenate([batch["inputs"] for batch in batches])
  assert ((targets == 0) == (weights == 0)).all()
  assert 1 not in targets
  assert (targets == 2).sum() == 1
  assert (inputs[:, 0] == 0).all()  # <s>
  token_bytes_V = count_token_bytes(make_vocabulary(cfg.vocabulary))
  counted = sum(count_bytes(batch, token_bytes_V) for batch in batches)
  # Line ends become spaces; the first line has one before it, the last none behind it.
  assert counted == 9 * (len(TEXT) + 1)


def test_refuses(model, tmp_path, refuses):
  with refuses(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH', 'hf:DIR' or a SentencePiece "
    "model's path, got vocabulary='xlmr:no/such.model' (FileNotFoundError)."
  ):
    make_vocabulary("xlmr:no/such.model")
  t5 = str(tmp_path / "t5")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([TEXT] * 9),
    model_prefix=t5,
    model_type="bpe",
    vocab_size=50,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  with refuses(
    "The SentencePiece model of xlmr:PATH must have unk id 0, bos id 1 and eos id 2, "
    f"got 2, -1 and 1 in {t5}.model."
  ):
    make_vocabulary(f"xlmr:{t5}.model")
  assert identify_vocabulary(f"xlmr:{model}") != identify_vocabulary(model)
