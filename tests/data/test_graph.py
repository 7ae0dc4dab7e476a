"""The same ids in the graph, in Python, and from seqio's own vocabularies."""

import pytest
import sentencepiece
import seqio
import tiktoken

from mhmoe_jax.data.bpe import TiktokenVocabulary
from mhmoe_jax.data.graph import in_graph
from mhmoe_jax.data.quiet import tf
from mhmoe_jax.data.tokenizer import train_sentencepiece
from mhmoe_jax.data.vocabularies import make_vocabulary
from tests.data.conftest import NASTY

TEXTS = [NASTY, NASTY[::-1], "", " ", "  a  b  ", "\n", "\0", "</s><s>", "ß<unk>", "▁▂"]


def train_model(path, kind):
  """A model of ours, one that normalises as T5's does, or one of fairseq's kind."""
  if kind == "lossless":
    train_sentencepiece([NASTY] * 9, 360, str(path))
    return
  special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the quick brown fox jumps", "漢字 ab é"] * 9),
    model_prefix=str(path.with_suffix("")),
    model_type="bpe",
    vocab_size=70,
    normalization_rule_name="nmt_nfkc",
    minloglevel=2,
    **(special if kind == "t5" else {}),
  )


@pytest.mark.parametrize("kind", ["bytes", "lossless", "t5", "xlmr"])
def test_equals_seqio(tmp_path, kind):
  path = tmp_path / "a.model"
  name = "bytes" if kind == "bytes" else str(path)
  if kind != "bytes":
    train_model(path, kind)
  if kind == "bytes":
    oracle = seqio.ByteVocabulary()
  else:
    oracle = seqio.SentencePieceVocabulary(name)
  vocabulary = make_vocabulary(f"xlmr:{name}" if kind == "xlmr" else name)
  graph = in_graph(vocabulary)
  ids = (graph.vocab_size, graph.eos_id, graph.unk_id, graph.pad_id)
  ours = (vocabulary.vocab_size, vocabulary.eos_id, vocabulary.unk_id, 0)
  assert ids == ours
  if kind != "xlmr":
    known = (oracle.vocab_size, oracle.eos_id, oracle.unk_id, oracle.pad_id)
    assert ids == known
  # fairseq's <unk> is 3, its pieces are one higher.
  shift = (lambda t: t + 1 if t else 3) if kind == "xlmr" else (lambda t: t)
  for text in TEXTS:
    tokens = vocabulary.encode(text)
    assert tokens == [shift(token) for token in oracle.encode(text)]
    assert graph.encode_tf(tf.constant(text)).numpy().tolist() == tokens
    if oracle.unk_id not in oracle.encode(text):
      assert vocabulary.decode(tokens) == oracle.decode(oracle.encode(text))


def test_tiktoken_in_the_graph():
  ranks = {bytes([byte]): byte for byte in range(256)} | {b"he": 256, b" t": 257}
  encoding = tiktoken.Encoding(
    "small",
    pat_str=r".|\n",
    mergeable_ranks=ranks,
    special_tokens={"<|endoftext|>": 260},
  )
  vocabulary = TiktokenVocabulary(encoding)
  graph = in_graph(vocabulary)
  assert (graph.vocab_size, graph.eos_id, graph.unk_id) == (262, 261, None)
  for text in [*TEXTS, "he the<|endoftext|>"]:
    tokens = vocabulary.encode(text)
    assert graph.encode_tf(tf.constant(text)).numpy().tolist() == tokens
    assert vocabulary.decode(tokens) == text
