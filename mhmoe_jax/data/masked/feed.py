"""Feeds of all three kinds: a batch is {"image": ..., "text": ..., "pair": ...}."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any

import numpy as np

from mhmoe_jax.data import validation
from mhmoe_jax.data.images.identity import ACCEPT, check_kept, check_same, identify
from mhmoe_jax.data.images.numbered import NumberedFeed, one_pass
from mhmoe_jax.data.masked.config import MaskedDataConfig
from mhmoe_jax.data.masked.rows import Rows, Sizes
from mhmoe_jax.data.streams import make_train_feed

Batch = dict[str, dict[str, np.ndarray]]


class MaskedFeed(Iterator[Batch]):
  """Endless training batches, whose place can be saved.

  Pictures are numbered over the whole run, and which rows are made here follows from
  the streams, so that their place is the number of the batch. Text has its own.

  Args:
    cfg: of the data.
    sizes: of the model.
    batch_size: examples of each kind, of all streams.
    streams: numbers of those to read, ascending.
    codes: what tells the visual vocabulary from others.

  Raises:
    ValueError: pictures or texts cannot be read.
  """

  def __init__(
    self,
    cfg: MaskedDataConfig,
    sizes: Sizes,
    batch_size: int,
    streams: Sequence[int],
    codes: str,
  ):
    self._texts = make_train_feed(cfg.text, batch_size, streams)
    self._rows = rows = Rows(cfg, sizes, "train")
    size = batch_size // cfg.streams
    self._mine = [i * size + row for i in streams for row in range(size)]
    self._batch_size, self._next = batch_size, 0
    # In orders of their own, should both read the same pictures.
    kinds = {
      "image": (rows.image, rows.images, cfg.seed),
      "pair": (rows.pair, rows.pairs, cfg.seed + 1),
    }
    self._pictures = {
      kind: NumberedFeed(make, len(source), batch_size, self._mine, seed)
      for kind, (make, source, seed) in kinds.items()
    }
    self.pipeline = _describe(cfg, sizes, batch_size) | {"codes": codes}
    self.pipeline |= {f"text {k}": x for k, x in self._texts.pipeline.items()}

  def __next__(self) -> Batch:
    first = self._next * self._batch_size
    numbers = [first + row for row in self._mine]
    text = self._rows.text(next(self._texts), numbers)
    pictures = {kind: next(feed) for kind, feed in self._pictures.items()}
    self._next += 1
    return pictures | {"text": text}

  def save(self, streams: Sequence[int]) -> dict[int, bytes]:
    """Returns the places of these streams."""
    place = json.dumps({"batch": self._next, "pipeline": self.pipeline}).encode()
    texts = self._texts.save(streams)
    return {stream: place + b"\n" + text for stream, text in texts.items()}

  def restore(self, states: Mapping[int, bytes], accept_changes: bool = False) -> str:
    """Moves to the places that `save` returned, in this process or others.

    Args:
      states: by stream.
      accept_changes: whether, where they are the places of other data, it begins anew.
        Visual codes of another vocabulary mean something else, and are refused.

    Returns:
      What a user should know, or "".

    Raises:
      ValueError: a stream has no place, or that of other pictures, texts, masks or
        visual codes.
    """
    parts = {stream: state.partition(b"\n") for stream, state in states.items()}
    places = [json.loads(place) for place, _, _ in parts.values()]
    for place in places:
      check_kept(place["pipeline"], self.pipeline, "codes", "visual vocabulary")
    try:
      for place in places:
        check_same(place["pipeline"], self.pipeline)
      texts = {stream: text for stream, (_, _, text) in parts.items()}
      note = self._texts.restore(texts)
    except ValueError as error:
      problem = str(error).partition(" With --accept_changed_data")[0]
      if accept_changes:
        return f"the data begins anew: {problem}"
      raise ValueError(f"{problem}{ACCEPT}") from None
    self._next = places[0]["batch"]
    for feed in self._pictures.values():
      feed.next_batch = self._next
    return note


def eval_batches(
  cfg: MaskedDataConfig, sizes: Sizes, batch_size: int
) -> dict[str, Iterator[dict[str, np.ndarray]]]:
  """Validation batches of each kind; every example once, with one mask.

  Rows that fill up a last batch have "real" 0 and no weight.
  """
  rows = Rows(cfg, sizes, "validation")
  return {
    "image": one_pass(rows.image, len(rows.images), batch_size),
    "text": _texts(cfg, rows, batch_size),
    "pair": one_pass(rows.pair, len(rows.pairs), batch_size),
  }


def _texts(cfg: MaskedDataConfig, rows: Rows, batch_size: int):
  for nth, batch in enumerate(validation.make_eval_feed(cfg.text, batch_size)):
    first = nth * batch_size
    yield rows.text(batch, list(range(first, first + batch_size)))


def _describe(cfg: MaskedDataConfig, sizes: Sizes, batch_size: int) -> dict[str, Any]:
  """All that decides which pictures come and what is hidden, as JSON values."""
  about = {
    "seed": cfg.seed,
    "streams": cfg.streams,
    "batch_size": batch_size,
    "pair_length": cfg.pair_length,
    "cut_pairs": cfg.cut_pairs,
    **{f"model.{name}": x for name, x in sizes._asdict().items()},
  }
  for name, table in (
    ("augment", cfg.augment.describe()),
    ("pair_augment", cfg.pair_augment.describe()),
    ("mask", dataclasses.asdict(cfg.mask)),
  ):
    about |= {f"{name}.{key}": x for key, x in table.items()}
  for name, part in (("images", cfg.images), ("pairs", cfg.pairs)):
    about |= {f"{name}.{key}": x for key, x in identify(part).items()}
  return about
