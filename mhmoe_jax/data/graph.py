"""The vocabularies inside of tensorflow's graphs, where text is read for training.

They encode as those of vocabularies.py do. Bytes and SentencePiece have operations of
tensorflow, which need no Python between the threads; tiktoken has none.
"""

import numpy as np

from mhmoe_jax.data.pieces import SentencePieceVocabulary
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.vocabularies import ByteVocabulary, Vocabulary
from mhmoe_jax.data.xlmr import OFFSET, UNK, XlmrVocabulary


def in_graph(vocabulary: Vocabulary) -> seqio.Vocabulary:
  """Returns a vocabulary as seqio's, with the same ids."""
  if isinstance(vocabulary, ByteVocabulary):
    return seqio.ByteVocabulary()
  if isinstance(vocabulary, XlmrVocabulary):
    return _Xlmr(vocabulary)
  if type(vocabulary) is SentencePieceVocabulary:
    return seqio.SentencePieceVocabulary(vocabulary.path)
  return _InPython(vocabulary)


class _InPython(seqio.Vocabulary):
  """A vocabulary that tensorflow calls."""

  def __init__(self, vocabulary: Vocabulary):
    super().__init__()
    self._vocabulary = vocabulary

  @property
  def eos_id(self) -> int:
    return self._vocabulary.eos_id

  @property
  def unk_id(self) -> int | None:
    return self._vocabulary.unk_id

  @property
  def _base_vocab_size(self) -> int:
    return self._vocabulary.vocab_size

  def _encode(self, s: str) -> list[int]:
    return self._vocabulary.encode(s)

  def _decode(self, ids) -> str:
    return self._vocabulary.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text):
      # Eager TensorFlow passes an array, a graph bytes.
      text = np.asarray(text, object).item()
      return np.array(self._vocabulary.encode(text.decode()), np.int32)

    # Without state, or an iterator over it could not be saved.
    tokens = tf.numpy_function(
      encode, [tf.convert_to_tensor(s)], tf.int32, stateful=False
    )
    return tf.ensure_shape(tokens, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    raise NotImplementedError  # Nothing here reads tokens back in a graph.

  def __eq__(self, other) -> bool:
    return self is other

  __hash__ = object.__hash__


class _Xlmr(_InPython):
  """fairseq's ids from those that tensorflow's operation gives."""

  def __init__(self, vocabulary: XlmrVocabulary):
    super().__init__(vocabulary)
    self._pieces = seqio.SentencePieceVocabulary(vocabulary.path)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    tokens = self._pieces.encode_tf(s)
    return tf.where(tokens == 0, UNK, tokens + OFFSET)
