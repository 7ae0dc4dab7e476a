"""Visual reasoning: is a statement about some pictures true? NLVR2 and NLVR.

BEiT-3's recipe (2208.10442 appendix B): the encoder sees each picture with the
statement, and a head what it made of [CLS] and the first token in all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.answering import JudgingModel
from mhmoe_jax.models.encoder import Inputs
from mhmoe_jax.models.encoder_blocks import Pools
from mhmoe_jax.tasks import pictured
from mhmoe_jax.tasks.task import Batch, Feed, Loss, Params, Sums, Task

# Pictures of a statement, by their arrangement.
NUM_PICTURES = {"one": 1, "two": 2, "boxes": 3}


class NlvrEvaluation(NamedTuple):
  """Means over the statements of a validation split."""

  loss: float  # nats
  accuracy: float  # in [0, 1]
  count: int  # of statements
  consistency: float  # share of the sentences of which all statements are told right
  sentences: int
  loads: Mapping[str, np.ndarray]  # of the tokens of each modality

  def scalars(self) -> dict[str, float]:
    """Loss, accuracy and consistency."""
    names = ("loss", "accuracy", "consistency")
    return {name: getattr(self, name) for name in names}

  def in_short(self) -> str:
    """Loss and accuracy."""
    return f"loss {self.loss:.4f}  accuracy {self.accuracy:.2%}"

  def in_words(self) -> list[str]:
    """A line, and one for consistency where a sentence is said more than once."""
    count = f"{self.count:,} statements"
    lines = [f"validation      accuracy {self.accuracy:.2%} of {count}"]
    if self.sentences < self.count:
      lines.append(
        f"  consistency   {self.consistency:.2%} of {self.sentences:,} sentences are "
        "told right of all their pictures"
      )
    return lines


@dataclasses.dataclass(frozen=True)
class Nlvr(pictured.PicturedTask):
  """Telling whether statements about pictures are true.

  A batch has "pixels" uint8 (B, K, Y, X, 3), K pictures of each statement, "tokens",
  "positions", "segments" int32 (B, T) and "label" int32 (B,). In validation "real" and
  "sentence" besides, as `NlvrRows` says.

  Attributes:
    model: `EncoderConfig`.
    data: `NlvrDataConfig`.
    objective: `EncoderObjectiveConfig`.
  """

  __hash__ = Task.__hash__

  @property
  def num_pictures(self) -> int:
    """K."""
    return NUM_PICTURES[self.data.arrangement]

  @property
  def tokens_per_example(self) -> int:
    """Of every picture, each with the statement."""
    return self.num_pictures * super().tokens_per_example

  def init(self, key: jax.Array) -> Params:
    """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
    one = pictured.example_inputs(self.model)
    inputs = jax.tree.map(lambda x: jnp.repeat(x, self.num_pictures, axis=0), one)
    return JudgingModel(self.model, self.num_pictures).init(key, inputs)["params"]

  def batch_shapes(self, batch_size: int) -> Batch:
    """A training batch as jax.ShapeDtypeStruct."""
    shapes = pictured.batch_shapes(self.model, self.data, batch_size)
    pixels = shapes["pixels"]
    size = batch_size, self.num_pictures, *pixels.shape[1:]
    return shapes | {
      "pixels": jax.ShapeDtypeStruct(size, pixels.dtype),
      "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }

  def totals(self, batch: Batch) -> jax.Array:
    """The number of statements."""
    return jnp.float32(len(batch["label"]))

  def loss(
    self, params: Params, fixed: Params, batch: Batch, key: jax.Array, totals: Any
  ) -> Loss:
    """Cross-entropy of true and false, and router losses."""
    logits_BV, pools, _ = self._apply(params, batch, {"dropout": key})
    loss_B, right_B = _score(logits_BV, batch["label"])
    share = loss_B.sum() / totals
    mean, means = pictured.pool_losses(self.objective, pools)
    metrics = {"loss": share, "accuracy": right_B.sum() / totals}
    return Loss(share, mean, metrics, means)

  def count(self, params: Params, fixed: Params, batch: Batch) -> Sums:
    """Losses, right and all statements, those of each sentence, and loads."""
    logits_BV, pools, inputs = self._apply(params, batch, None)
    loss_B, right_B = _score(logits_BV, batch["label"])
    real_B, said_BS = batch["real"], batch["sentence"]
    return {
      "loss": (loss_B * real_B).sum(),
      "right": (right_B * real_B).sum(),
      "count": real_B.sum(),
      "said": said_BS.sum(axis=0),
      "wrong": (said_BS * (1 - right_B)[:, None]).sum(axis=0),
      "loads": pictured.count_loads(inputs, pools),
    }

  def summarize(self, sums: Mapping[str, Sums]) -> NlvrEvaluation:
    """Means over the split."""
    (found,) = sums.values()
    if not found:
      raise ValueError("the validation split must have a statement, got none.")
    said = np.asarray(found["said"]) > 0
    return NlvrEvaluation(
      loss=float(found["loss"] / found["count"]),
      accuracy=float(found["right"] / found["count"]),
      count=int(found["count"]),
      consistency=float((np.asarray(found["wrong"])[said] == 0).mean()),
      sentences=int(said.sum()),
      loads=pictured.mean_loads(found["loads"]),
    )

  def check(self) -> None:
    """Raises ValueError for a vocabulary that does not fit, and for what data lack."""
    pictured.check_vocabulary(self.model, self.data)
    next(iter(self.eval_batches(1)["statements"]))

  def train_feed(self, batch_size: int, streams: Sequence[int]) -> Feed:
    """An endless feed of statements."""
    from mhmoe_jax.data.pictured.feed import PicturedFeed

    size = self.model.picture_size
    return PicturedFeed(self._rows("train"), self.data, size, batch_size, streams)

  def eval_batches(
    self, batch_size: int
  ) -> Mapping[str, Iterator[tuple[Batch, dict[str, float]]]]:
    """All validation statements."""
    from mhmoe_jax.data.pictured.feed import read_all

    return {"statements": read_all(self._rows("validation"), batch_size)}

  def _apply(
    self, params: Params, batch: Batch, rngs: Any
  ) -> tuple[jax.Array, Pools, Inputs]:
    """Logits of false and true, (B, 2), auxiliary values, and what the encoder saw."""
    names = ("pixels", "tokens", "positions", "segments", "real")
    # Each picture with the statement: B * K rows.
    seen = {
      name: batch[name].reshape(-1, *batch[name].shape[2:])
      if name == "pixels"
      else jnp.repeat(batch[name], self.num_pictures, axis=0)
      for name in names
      if name in batch
    }
    inputs = pictured.inputs_of(self.model, seen)
    model = JudgingModel(self.model, self.num_pictures, deterministic=rngs is None)
    logits_BV, pools = model.apply({"params": params}, inputs, rngs=rngs)
    return logits_BV, pools, inputs

  def _rows(self, split: str):
    from mhmoe_jax.data.pictured.nlvr import NlvrRows

    return NlvrRows(self.data, self.model.picture_size, split)


def _score(logits_BV: jax.Array, labels_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Losses, nats, and 1 where the likelier of the two is right; each (B,)."""
  log_p_BV = jax.nn.log_softmax(logits_BV)
  loss_B = -jnp.take_along_axis(log_p_BV, labels_B[:, None], axis=1)[:, 0]
  right_B = (logits_BV.argmax(axis=-1) == labels_B).astype(jnp.float32)
  return loss_B, right_B
