"""GPT-4's vocabulary, cl100k_base of tiktoken, as a seqio Vocabulary.

Training pads targets with 0, but 0 is "!" in cl100k_base. So every id is one higher
here: 0 pads, tiktoken's token t is t + 1, "<|endoftext|>" ends a document. That makes
100,278 ids with the special ones; the 100,287 rows of the first paper's embedding
(2404.15045) also have some of the authors' own, which they did not publish.
"""

from collections.abc import Iterable
import os

import numpy as np
import tiktoken

from mhmoe_jax.data.quiet import seqio, tf

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


class TiktokenVocabulary(seqio.Vocabulary):
  """An encoding of tiktoken; texts are only text, whatever special tokens they spell.

  Args:
    encoding: with the special token "<|endoftext|>".
  """

  def __init__(self, encoding: tiktoken.Encoding):
    super().__init__()
    self._encoding = encoding

  @property
  def eos_id(self) -> int:
    return self._encoding.eot_token + 1

  @property
  def unk_id(self) -> None:
    """Every byte is a token."""
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self._encoding.n_vocab + 1

  def count_bytes(self) -> np.ndarray:
    """Returns the bytes of each token, (V,) int32; none for special and unused ids."""
    bytes_V = np.zeros(self.vocab_size, np.int32)
    for token in range(self._encoding.n_vocab):
      if not self._encoding.is_special_token(token):
        try:
          piece = self._encoding.decode_single_token_bytes(token)
        except KeyError:  # cl100k_base has gaps between its special tokens.
          continue
        bytes_V[token + 1] = len(piece)
    return bytes_V

  def _encode(self, s: str) -> list[int]:
    return [token + 1 for token in self._encoding.encode_ordinary(s)]

  def _decode(self, ids: Iterable[int]) -> str:
    return self._encoding.decode(
      [token - 1 for token in ids if token not in (self.pad_id, self.eos_id)]
    )

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text):
      # Eager TensorFlow passes an array, a graph bytes.
      text = np.asarray(text, object).item()
      return np.array(self._encode(text.decode()), np.int32)

    # Without state, or an iterator over it could not be saved.
    tokens = tf.numpy_function(
      encode, [tf.convert_to_tensor(s)], tf.int32, stateful=False
    )
    return tf.ensure_shape(tokens, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(tokens):
      return self._decode(tokens.tolist()).encode()

    return tf.numpy_function(decode, [ids], tf.string, stateful=False)

  def __eq__(self, other) -> bool:
    return (
      isinstance(other, TiktokenVocabulary)
      and self._encoding.name == other._encoding.name
    )

  def __hash__(self) -> int:
    return hash(self._encoding.name)
