"""Tokenizers of Hugging Face's folders."""

import json

import pytest
import sentencepiece
import tokenizers

from mhmoe_jax.data import vocabularies
from mhmoe_jax.data.graph import in_graph
from mhmoe_jax.data.huggingface import export_vocabulary
from mhmoe_jax.data.packing import pack
from mhmoe_jax.data.quiet import tf


def write(directory, **about):
  (directory / "config.json").write_text(json.dumps(about))


@pytest.fixture
def sentences(tmp_path):
  """A folder as Llama's: unk 0, bos 1, eos 2, bytes for what is unknown."""
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a quick brown fox, a lazy dog"] * 9),
    model_prefix=str(tmp_path / "tokenizer"),
    vocab_size=290,
    model_type="bpe",
    byte_fallback=True,
    minloglevel=2,
  )
  write(tmp_path, bos_token_id=1, eos_token_id=2)
  return tmp_path


@pytest.fixture
def pieces(tmp_path):
  """A folder as OLMoE's: byte-level pairs, one special token, which only ends."""
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=270,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(["a quick brown fox, a lazy dog"] * 9, trainer)
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  write(tmp_path, bos_token_id=None, eos_token_id=[0, 7])
  return tmp_path


def test_sentencepiece(sentences):
  name = f"hf:{sentences}"
  vocabulary = vocabularies.make_vocabulary(name)
  assert (vocabularies.begin_id(name), vocabulary.eos_id) == (1, 2)
  text = "a lazy fox: \u00fc"
  tokens = vocabulary.encode(text)
  assert vocabulary.decode(tokens) == text
  # The model puts a space in front.
  bytes_V = vocabularies.count_token_bytes(vocabulary)
  assert bytes_V[tokens].sum() == len(text.encode()) + 1
  assert bytes_V[:3].tolist() == [0, 0, 0]
  assert in_graph(vocabulary).encode_tf(text).numpy().tolist() == tokens


def test_byte_level_pairs(pieces, nasty):
  name = f"hf:{pieces}"
  vocabulary = vocabularies.make_vocabulary(name)
  assert (vocabularies.begin_id(name), vocabulary.eos_id) == (0, 0)
  assert vocabulary.vocab_size == 270
  bytes_V = vocabularies.count_token_bytes(vocabulary)
  for text in (nasty, "a lazy dog", "<|endoftext|>"):
    tokens = vocabulary.encode(text)
    assert in_graph(vocabulary).encode_tf(text).numpy().tolist() == tokens
    assert 0 not in tokens  # A text that spells a special token is only text.
    assert vocabulary.decode(tokens) == text
    assert bytes_V[tokens].sum() == len(text.encode())
  assert len(vocabulary.encode("a lazy dog")) < 10


def test_words_with_numbers_of_their_own_by_hand(tmp_path):
  """Ids with gaps, a byte, a marked space, and a token that the file would add."""
  words = {"a": 0, "\u2581b": 5, "<0x41>": 7}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "a"))
  tokenizer.add_special_tokens(["<s>"])
  begins = tokenizer.token_to_id("<s>")
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", begins)]
  )
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  write(tmp_path, bos_token_id=None, eos_token_id=[7, 9])
  name = f"hf:{tmp_path}"
  vocabulary = vocabularies.make_vocabulary(name)
  # Without a token that begins documents, the one that ends them does.
  assert (vocabularies.begin_id(name), vocabulary.eos_id) == (7, 7)
  assert vocabulary.vocab_size == 8
  assert vocabulary.encode("a") == [0]
  spelled = [vocabulary.spell(i) for i in (0, 5, 7, begins, 6, -1)]
  assert spelled == [b"a", b" b", b"A", b"", b"", b""]


def test_documents_begin_with_the_folders_token():
  windows = tf.data.Dataset.from_generator(
    lambda: iter([{"targets": [5, 6]}, {"targets": [7]}]),
    output_signature={"targets": tf.TensorSpec([None], tf.int32)},
  )
  (batch,) = pack(windows, 4, batch_size=1, begin=9)
  assert batch["inputs"].numpy().tolist() == [[9, 5, 9, 0]]


@pytest.mark.parametrize(
  "ids",
  [
    {},
    {"bos_token_id": 1},
    {"eos_token_id": "</s>"},
    {"bos_token_id": "<s>", "eos_token_id": 2},
  ],
)
def test_a_folder_that_does_not_say_what_ends(tmp_path, ids):
  write(tmp_path, **ids)
  with pytest.raises(ValueError, match=r"eos_token_id of .* must be the number of a"):
    vocabularies.make_vocabulary(f"hf:{tmp_path}")


def test_folders_without(tmp_path):
  with pytest.raises(ValueError, match=r"needs .*config.json, which says what ends"):
    vocabularies.make_vocabulary(f"hf:{tmp_path}")
  write(tmp_path, eos_token_id=2)
  for use in (vocabularies.make_vocabulary, vocabularies.identify_vocabulary):
    with pytest.raises(ValueError, match=r"needs tokenizer.model or tokenizer.json"):
      use(f"hf:{tmp_path}")
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(ValueError, match=r"tokenizer.json must be a tokenizer, got"):
    vocabularies.make_vocabulary(f"hf:{tmp_path}")


def test_exported_and_read_back(sentences, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  write(out, **export_vocabulary(f"hf:{sentences}", str(out)))
  ours, theirs = (f"hf:{folder}" for folder in (sentences, out))
  identify = vocabularies.identify_vocabulary
  assert identify(ours) == identify(theirs)
  # Another end is another vocabulary.
  write(out, bos_token_id=1, eos_token_id=3)
  assert identify(ours) != identify(theirs)
  write(out, bos_token_id=2, eos_token_id=2)
  assert identify(ours) != identify(theirs)


def test_exported_bytes_are_read_by_their_library(tmp_path, nasty):
  about = export_vocabulary("bytes", str(tmp_path))
  assert about["vocabulary"] == "bytes"
  write(tmp_path, **about)
  ours, theirs = map(vocabularies.make_vocabulary, ("bytes", f"hf:{tmp_path}"))
  assert (theirs.vocab_size, theirs.eos_id) == (259, 1)
  assert vocabularies.begin_id(f"hf:{tmp_path}") == 0
  for text in (nasty, "a  b\n", "</s>"):
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.decode(theirs.encode(text)) == text
