"""GPT-4's vocabulary, cl100k_base of tiktoken.

Training pads targets with 0, but 0 is "!" in cl100k_base. So every id is one higher
here: 0 pads, tiktoken's token t is t + 1, "<|endoftext|>" ends a document. That makes
100,278 ids with the special ones; the 100,287 rows of the first paper's embedding
(2404.15045) also have some of the authors' own, which they did not publish.
"""

import os

import tiktoken

from mhmoe_jax.data.vocabularies import Vocabulary

_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # tiktoken's name for it: its SHA-1


def load_cl100k() -> "TiktokenVocabulary":
  """Loads cl100k_base from $TIKTOKEN_CACHE_DIR, or downloads it to there.

  Raises:
    ValueError: it is not there and cannot be had.
  """
  try:
    return TiktokenVocabulary(tiktoken.get_encoding("cl100k_base"))
  except (OSError, ValueError) as error:  # No network; a file that is another.
    cache = os.environ.get("TIKTOKEN_CACHE_DIR")
    raise ValueError(
      f"vocabulary='cl100k' needs {_URL} as the file {_FILE} in $TIKTOKEN_CACHE_DIR, "
      f"got TIKTOKEN_CACHE_DIR={cache!r} and no download ({type(error).__name__})."
    ) from None


class TiktokenVocabulary(Vocabulary):
  """An encoding of tiktoken; texts are only text, whatever special tokens they spell.

  Args:
    encoding: with the special token "<|endoftext|>".
  """

  unk_id = None  # Every byte is a token.

  def __init__(self, encoding: tiktoken.Encoding):
    self._encoding = encoding
    self.vocab_size, self.eos_id = encoding.n_vocab + 1, encoding.eot_token + 1

  def encode(self, text: str) -> list[int]:
    return [token + 1 for token in self._encoding.encode_ordinary(text)]

  def spell(self, token: int) -> bytes:
    if token < 1 or self._encoding.is_special_token(token - 1):
      return b""
    try:
      return self._encoding.decode_single_token_bytes(token - 1)
    except KeyError:  # cl100k_base has gaps between its special tokens.
      return b""
