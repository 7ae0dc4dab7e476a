"""A trained model loses nothing, whatever the text."""

import pytest

from mhmoe_jax.data import tokenizer
from mhmoe_jax.data.vocabularies import count_token_bytes, make_vocabulary

TEXTS = ["The quick brown fox\njumps over the lazy dog. " * 5, "日本語のテキスト。\n"]


@pytest.fixture
def model(tmp_path) -> str:
  path = str(tmp_path / "trained.model")
  tokenizer.train_sentencepiece(TEXTS, 320, path)
  return path


def test_is_lossless(model, nasty):
  vocabulary = make_vocabulary(model)
  token_bytes_V = count_token_bytes(vocabulary)
  for text in (nasty, *TEXTS, " ", "\n", "\t\t", "a" * 1000, "▂▂", nasty[::-1]):
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert token_bytes_V[tokens].sum() == len(text.encode())


def test_counts_the_bytes_of_its_own_space_sign(model):
  vocabulary = make_vocabulary(model)
  tokens = vocabulary.encode("a▁b")
  assert vocabulary.decode(tokens) == "a▂b"
  assert count_token_bytes(vocabulary)[tokens].sum() == len("a▁b".encode())


def test_special_tokens(model):
  spoken = make_vocabulary(model).tokenizer
  assert (spoken.pad_id(), spoken.eos_id(), spoken.unk_id(), spoken.bos_id()) == (
    0,
    1,
    2,
    -1,
  )
  assert spoken.vocab_size() == 320
  # The line end is one token, alone.
  assert [p for p in map(spoken.id_to_piece, range(320)) if "\n" in p] == ["\n"]


def test_is_deterministic(model, tmp_path):
  again = tmp_path / "again.model"
  tokenizer.train_sentencepiece(iter(TEXTS), 320, str(again))
  with open(model, "rb") as file:
    assert again.read_bytes() == file.read()


def test_learns_from_lines_of_any_length(tmp_path, monkeypatch):
  monkeypatch.setattr(tokenizer, "_LINE_CHARACTERS", 50)
  monkeypatch.setattr(tokenizer, "_LINE_BYTES", 200)
  path = str(tmp_path / "long.model")
  tokenizer.train_sentencepiece(["wörter ohne Ende " * 1000], 280, path)
  assert len(make_vocabulary(path).encode(" ohne")) < 5


def test_refuses_no_text(tmp_path, refuses):
  with refuses("texts must hold some text, got 0 lines."):
    tokenizer.train_sentencepiece(["", ""], 300, str(tmp_path / "a.model"))


@pytest.mark.parametrize(
  ("vocab_size", "problem"),
  [
    (
      270,
      "Vocabulary size is smaller than required_chars. 270 vs 298. Increase vocab_size "
      "or decrease character_coverage with --character_coverage option.",
    ),
    (
      10**6,
      "Vocabulary size too high (1000000). Please set it to a value <= 379.",
    ),
  ],
)
def test_refuses_size(tmp_path, vocab_size, problem, refuses):
  with refuses(
    f"vocab_size must suit the texts, got vocab_size={vocab_size}. SentencePiece: "
    f"{problem}"
  ):
    tokenizer.train_sentencepiece(TEXTS, vocab_size, str(tmp_path / "a.model"))


def test_passes_on_an_error_in_the_texts(tmp_path):
  def read():
    yield "text\n"
    raise ValueError("Every line must be good, got line=2.")

  with pytest.raises(ValueError, match=r"^Every line must be good, got line=2.$"):
    tokenizer.train_sentencepiece(read(), 300, str(tmp_path / "a.model"))
