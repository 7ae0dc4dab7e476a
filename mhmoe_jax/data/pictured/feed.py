"""Feeds of pictures with texts: resumable batches to train on, all of them to evaluate.

A task's rows say what an example is; which one comes when follows from its number.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any, Protocol

import numpy as np

from mhmoe_jax.data.images.augment import augment, squash
from mhmoe_jax.data.images.identity import ACCEPT, check_kept, check_same, identify
from mhmoe_jax.data.images.numbered import NumberedFeed, Place, Row, one_pass
from mhmoe_jax.data.images.shapes import random_state
from mhmoe_jax.data.images.sources import SPLITS, open_source
from mhmoe_jax.data.pictured.config import PicturedConfig
from mhmoe_jax.data.pictured.text import TextWindow
from mhmoe_jax.data.vocabularies import identify_vocabulary


class Rows(Protocol):
  """The examples of a split."""

  def __len__(self) -> int: ...

  def __call__(self, place: Place) -> Row:
    """The arrays of an example."""


class Pictured:
  """What the rows of every task are made with.

  Args:
    cfg: of the data.
    size: height and width of pictures for the model.
    split: "train", where pictures are augmented, or "validation".

  Attributes:
    source: the pictures, and what is known of them.
    text: makes the arrays of a text.
  """

  def __init__(self, cfg: PicturedConfig, size: int, split: str):
    self._cfg, self._size, self._split = cfg, size, split
    self.source = open_source(cfg.pictures, split, size)
    keys = "data.text_length", "data.cut_texts"
    self.text = TextWindow(cfg.vocabulary, cfg.text_length, cfg.cut_texts, keys)

  def draw(self, place: Place) -> np.random.RandomState:
    """All that is drawn for an example comes from here."""
    return random_state(self._cfg.seed, SPLITS.index(self._split), *place)

  def pixels(self, pixels: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """A picture as the model sees it, uint8 (size, size, 3)."""
    if self._split == "train":
      return augment(pixels, self._size, self._cfg.augment, draw)
    return squash(pixels, self._size)


class PicturedFeed(Iterator[Row]):
  """Endless training batches, whose place is a number.

  Args:
    rows: of the training split.
    cfg: of the data.
    size: height and width of pictures for the model.
    batch_size: of all streams.
    streams: numbers of those to read, ascending.
    kept: by name, what else tells the data from others and never may change, because
      parameters of the model belong to it.
  """

  def __init__(
    self,
    rows: Rows,
    cfg: PicturedConfig,
    size: int,
    batch_size: int,
    streams: Sequence[int],
    kept: Mapping[str, str] | None = None,
  ):
    part = batch_size // cfg.streams
    mine = [i * part + row for i in streams for row in range(part)]
    self._feed = NumberedFeed(rows, len(rows), batch_size, mine, cfg.seed)
    self._kept = dict(kept or {})
    self.pipeline = _describe(cfg, size, batch_size) | self._kept

  def __next__(self) -> Row:
    return next(self._feed)

  def save(self, streams: Sequence[int]) -> dict[int, bytes]:
    """Returns the places of these streams."""
    place = {"batch": self._feed.next_batch, "pipeline": self.pipeline}
    return dict.fromkeys(streams, json.dumps(place).encode())

  def restore(self, states: Mapping[int, bytes], accept_changes: bool = False) -> str:
    """Moves to the places that `save` returned, in this process or others.

    Args:
      states: by stream.
      accept_changes: whether, where they are the places of other data, it begins anew.
        What is kept may not change even so.

    Returns:
      What a user should know, or "".

    Raises:
      ValueError: a stream has no place, or that of other data.
    """
    places = [json.loads(state) for state in states.values()]
    now = json.loads(json.dumps(self.pipeline))
    for name in self._kept:
      for place in places:
        check_kept(place["pipeline"], now, name, name)
    try:
      for place in places:
        check_same(place["pipeline"], now)
    except ValueError as error:
      if accept_changes:
        return f"the data begins anew: {error}"
      raise ValueError(f"{error}{ACCEPT}") from None
    self._feed.next_batch = places[0]["batch"]
    return ""


def read_all(rows: Rows, batch_size: int) -> Iterator[tuple[Row, dict[str, float]]]:
  """Validation batches of every example once, for `Task.eval_batches`."""
  return ((batch, {}) for batch in one_pass(rows, len(rows), batch_size))


def _describe(cfg: PicturedConfig, size: int, batch_size: int) -> dict[str, Any]:
  """All that decides which examples come and what they are, as JSON values."""
  values = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
  about = {name: x for name, x in values.items() if not dataclasses.is_dataclass(x)}
  about |= {"vocabulary": identify_vocabulary(cfg.vocabulary)}
  about |= {"batch_size": batch_size, "model.picture_size": size}
  about |= {f"augment.{key}": x for key, x in cfg.augment.describe().items()}
  return about | {f"pictures.{key}": x for key, x in identify(cfg.pictures).items()}
