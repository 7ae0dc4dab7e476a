"""tiktoken's encodings: shifted by one for padding, exact in bytes, resumable."""

import base64
import dataclasses

import numpy as np
import pytest
import requests
import tiktoken
import tiktoken.load

from mhmoe_jax.data import bpe
from mhmoe_jax.data.streams import make_train_feed
from mhmoe_jax.data.vocabularies import count_token_bytes, make_vocabulary
from tests.data.batches import assert_equal, take


@pytest.fixture
def _small_cl100k(tmp_path, monkeypatch):
  """All bytes and two merges, where tiktoken caches cl100k_base."""
  pieces = [bytes([byte]) for byte in range(256)] + [b"he", b" t"]
  lines = (b"%s %d\n" % (base64.b64encode(p), n) for n, p in enumerate(pieces))
  (tmp_path / bpe._FILE).write_bytes(b"".join(lines))
  monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
  monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
  monkeypatch.setattr(tiktoken.load, "check_hash", lambda data, wanted: True)


@pytest.mark.usefixtures("_small_cl100k")
def test_ids_are_one_higher(nasty):
  vocabulary = make_vocabulary("cl100k")
  assert vocabulary.encode("he th") == [257, 258, ord("h") + 1]
  special = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
  assert (vocabulary.vocab_size, special) == (100_278, (0, 100_258, None))
  assert vocabulary.vocab_size <= 100_287  # rows of the first paper's embedding
  text = nasty + "<|endoftext|>!"
  tokens = vocabulary.encode(text)
  assert {0, vocabulary.eos_id}.isdisjoint(tokens)
  assert vocabulary.decode([*tokens, vocabulary.eos_id]) == text
  token_bytes_V = count_token_bytes(vocabulary)
  assert (token_bytes_V.shape, token_bytes_V.dtype) == ((100_278,), np.int32)
  assert token_bytes_V[tokens].sum() == len(text.encode())
  assert token_bytes_V[[0, 100_257, 100_258, 100_277]].tolist() == [0, 0, 0, 0]


@pytest.mark.usefixtures("_small_cl100k")
def test_resume_is_bit_for_bit(text_cfg):
  cfg = dataclasses.replace(text_cfg, vocabulary="cl100k")
  feed = make_train_feed(cfg, 40)
  take(feed, 5)
  state = feed.save([0])
  expected = take(feed, 12)
  resumed = make_train_feed(cfg, 40)
  resumed.restore({0: state[0]})
  assert_equal(take(resumed, 12), expected)


def test_without_file_and_network(tmp_path, monkeypatch, refuses):
  def fail(url):
    raise requests.ConnectionError(f"no {url}")

  monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
  monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
  monkeypatch.setattr(requests, "get", fail)
  with refuses(
    "vocabulary='cl100k' needs https://openaipublic.blob.core.windows.net/encodings/"
    "cl100k_base.tiktoken as the file 9b5ad71b2ce5302211f9c61530b329a4922fc6a4 in "
    f"$TIKTOKEN_CACHE_DIR, got TIKTOKEN_CACHE_DIR='{tmp_path}' and no download "
    "(ConnectionError)."
  ):
    make_vocabulary("cl100k")
