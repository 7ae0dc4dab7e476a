"""A text that belongs to a picture, as tokens in a window of its own."""

import numpy as np

from mhmoe_jax.data.vocabularies import begin_id, make_vocabulary

Row = dict[str, np.ndarray]


class TextWindow:
  """Texts as [first, pieces, last, padding], as BEiT-3 sees them.

  Args:
    vocabulary: its name.
    length: T, tokens of the window.
    cut: cut longer texts; else they are errors.
    keys: names of `length` and `cut` in the config, for errors.
  """

  def __init__(self, vocabulary: str, length: int, cut: bool, keys: tuple[str, str]):
    self._vocabulary, self._begin = make_vocabulary(vocabulary), begin_id(vocabulary)
    self._length, self._cut, self._keys = length, cut, keys

  def __call__(self, text: str, name: str) -> Row:
    """The arrays of a text, each int32 (T,).

    Args:
      text: of any length.
      name: of its picture, for errors.

    Returns:
      "tokens", "positions" and "segments", 1 in the text and 0 behind it.

    Raises:
      ValueError: it is longer than the window.
    """
    pieces, room = self._vocabulary.encode(text), self._length - 2
    if len(pieces) > room and not self._cut:
      length, cut = self._keys
      raise ValueError(
        f"a text must fit into {length} with a token before and one behind it, unless "
        f"{cut}, got {len(pieces)} tokens, {length.split('.')[-1]}={self._length}, of "
        f"{name}."
      )
    seen = [self._begin, *pieces[:room], self._vocabulary.eos_id]
    tokens = np.zeros(self._length, np.int32)
    tokens[: len(seen)] = seen
    places = np.arange(self._length, dtype=np.int32)
    segments = (places < len(seen)).astype(np.int32)
    return {"tokens": tokens, "positions": places, "segments": segments}
