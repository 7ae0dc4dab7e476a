"""Vocabularies: text to tokens and back, and the bytes of text behind each token.

Losses per token of two vocabularies cannot be compared, bits per byte can:
loss / log(2) * tokens / bytes. `count_token_bytes` supplies the bytes.

No tensorflow here, for a prompt needs none: graph.py takes these into its graphs.
The kinds that need a library are in pieces.py, xlmr.py and bpe.py.
"""

import abc
import codecs
from collections.abc import Iterable
import hashlib

from etils import epath
import numpy as np

_XLMR, _HUGGING_FACE = "xlmr:", "hf:"


class Vocabulary(abc.ABC):
  """Tokens from 0, which pads, to vocab_size - 1.

  Attributes:
    vocab_size: V.
    eos_id: the token that ends a document.
    unk_id: the token of text that no other spells; None where there is no such text.
  """

  vocab_size: int
  eos_id: int
  unk_id: int | None
  pad_id = 0

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """The tokens of a text, without an end."""

  @abc.abstractmethod
  def spell(self, token: int) -> bytes:
    """The UTF-8 text that a token stands for, perhaps a part of a character.

    Nothing for pad, eos, unk and other control tokens, and ids that no token has.
    """

  def decode(self, tokens: Iterable[int], after: str = "") -> str:
    """The text that tokens add behind the text `after`, whose tokens came before them.

    Bytes that are no character become U+FFFD; of a character that the end cuts, nothing
    is left.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    added = decoder.decode(b"".join(map(self.spell, tokens)))
    return added.removeprefix(self._space_behind(after))

  def _space_behind(self, text: str) -> str:
    """What is spelt behind a text, before a word that follows it at once.

    Some SentencePiece models begin every text with a space, and some leave out those at
    its end; the next word brings them along, though they are there already.
    """
    word = "e"
    before, behind = (
      b"".join(map(self.spell, self.encode(x))).decode() for x in (text, text + word)
    )
    if not behind.startswith(before):
      return ""
    return behind.removeprefix(before).removesuffix(word)


class ByteVocabulary(Vocabulary):
  """pad 0, eos 1, unk 2, then byte b at b + 3, as in ByT5."""

  vocab_size, eos_id, unk_id = 259, 1, 2

  def encode(self, text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]

  def spell(self, token: int) -> bytes:
    return bytes([token - 3]) if 3 <= token < self.vocab_size else b""


def begin_id(name: str) -> int:
  """The token before the first of every document: pad, but for "hf:DIR"."""
  if name.startswith(_HUGGING_FACE):
    from mhmoe_jax.data import huggingface

    return huggingface.read_ids(name.removeprefix(_HUGGING_FACE))[0]
  return 0


def make_vocabulary(name: str) -> Vocabulary:
  """Returns the vocabulary of a name: "bytes", "cl100k", "xlmr:PATH" or a path.

  "cl100k" is GPT-4's, from a file that bpe.py finds or downloads. "xlmr:PATH" is the
  SentencePiece model at the path, with the ids of fairseq (xlmr.py), a path alone the
  model with its own; "hf:DIR" the tokenizer of a folder of Hugging Face's.

  Raises:
    ValueError: the file is not there or not a model, or its pad id is not 0, or it has
      no eos id.
  """
  if name == "bytes":
    return ByteVocabulary()
  if name == "cl100k":
    from mhmoe_jax.data.bpe import load_cl100k

    return load_cl100k()
  if name.startswith(_HUGGING_FACE):
    from mhmoe_jax.data import huggingface

    return huggingface.load_huggingface(name.removeprefix(_HUGGING_FACE))
  if name.startswith(_XLMR):
    from mhmoe_jax.data.xlmr import XlmrVocabulary as Kind
  else:
    from mhmoe_jax.data.pieces import SentencePieceVocabulary as Kind
  try:
    return Kind(name.removeprefix(_XLMR))
  except (OSError, RuntimeError) as error:  # No file; no model.
    raise _no_vocabulary(name, error) from None


def identify_vocabulary(name: str) -> str:
  """Returns what tells a vocabulary from others: its name, or its file's SHA-256.

  Raises:
    ValueError: the file is not there.
  """
  if name in ("bytes", "cl100k"):
    return name
  if name.startswith(_HUGGING_FACE):
    from mhmoe_jax.data import huggingface

    return huggingface.identify(name.removeprefix(_HUGGING_FACE))
  kind = _XLMR if name.startswith(_XLMR) else ""
  try:
    content = epath.Path(name.removeprefix(_XLMR)).read_bytes()
  except OSError as error:
    raise _no_vocabulary(name, error) from None
  return f"{kind}sha256 {hashlib.sha256(content).hexdigest()}"


def count_token_bytes(vocabulary: Vocabulary) -> np.ndarray:
  """Returns token_bytes_V: the UTF-8 bytes of text that each token stands for.

  pad, eos, unk and other control tokens stand for none. The sum over an encoded text is
  exactly its length for "bytes", "cl100k" and models of tokenizer.py. Another
  SentencePiece model may normalise the text or emit unk; then it is the length of what
  is left.

  Returns:
    (V,) int32, V = vocabulary.vocab_size.
  """
  tokens = range(vocabulary.vocab_size)
  return np.array([len(vocabulary.spell(token)) for token in tokens], np.int32)


def find_drawable(vocabulary: Vocabulary, vocab_size: int) -> np.ndarray:
  """Which rows of a model of `vocab_size` may be drawn, (V,) bool: text, and the end.

  Not pad, unk and other control tokens, and no id that no token has, of which cl100k
  has some among its tokens and a model perhaps more behind them.
  """
  drawable_V = np.zeros(vocab_size, bool)
  drawable_V[: vocabulary.vocab_size] = count_token_bytes(vocabulary) > 0
  drawable_V[vocabulary.eos_id] = True
  return drawable_V


def _no_vocabulary(name: str, error: Exception) -> ValueError:
  return ValueError(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH', 'hf:DIR' or a SentencePiece "
    f"model's path, got vocabulary={name!r} ({type(error).__name__})."
  )


def check_size(name: str, vocab_size: int) -> None:
  """Raises ValueError unless an embedding of `vocab_size` has a row for every token."""
  size = make_vocabulary(name).vocab_size
  if size > vocab_size:
    raise ValueError(
      f"model.vocab_size must be at least the vocabulary's size, "
      f"got model.vocab_size={vocab_size}, {size} tokens in {name!r}."
    )
