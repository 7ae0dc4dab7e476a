"""Visual question answering: which of the known answers people would give.

BEiT-3's recipe (2208.10442 appendix B): a sigmoid for each answer, trained on the share
of people that it satisfies, and the official accuracy of the likeliest one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.answering import AnsweringModel
from mhmoe_jax.models.encoder_blocks import Pools
from mhmoe_jax.tasks import pictured
from mhmoe_jax.tasks.task import Batch, Feed, Loss, Params, Sums, Task

ANSWERS = "answers.json"  # in the folder of a run
_TYPES = ("yes/no", "number", "other")  # of answers, by the number in a batch


class VqaEvaluation(NamedTuple):
  """Means over the questions of a validation split."""

  loss: float  # summed over the answers
  accuracy: float  # official, in [0, 1]
  by_type: Mapping[str, tuple[float, int]]  # accuracy and questions of types of answers
  loads: Mapping[str, np.ndarray]  # of the tokens of each modality

  def scalars(self) -> dict[str, float]:
    """Loss and accuracy, of each type of answers too."""
    types = {f"accuracy/{name}": x for name, (x, _) in self.by_type.items()}
    return {"loss": self.loss, "accuracy": self.accuracy} | types

  def in_short(self) -> str:
    """Loss and accuracy."""
    return f"loss {self.loss:.4f}  accuracy {self.accuracy:.2%}"

  def in_words(self) -> list[str]:
    """A line for all questions, and one for each type of answers."""
    count = sum(n for _, n in self.by_type.values())
    return [f"validation      accuracy {self.accuracy:.2%} of {count:,} questions"] + [
      f"  {name:13} accuracy {x:.2%} of {n:,} questions"
      for name, (x, n) in self.by_type.items()
    ]


@dataclasses.dataclass(frozen=True)
class Vqa(pictured.PicturedTask):
  """Answering questions about pictures.

  A batch has "pixels" uint8 (B, Y, X, 3), "tokens", "positions", "segments" int32
  (B, T) and "targets" float32 (B, V), V answers. In validation "real", "accuracies" of
  each answer and "type" besides, as `VqaRows` says.

  Attributes:
    model: `AnsweringConfig`.
    data: `VqaDataConfig`.
    objective: `EncoderObjectiveConfig`.
  """

  __hash__ = Task.__hash__

  def init(self, key: jax.Array) -> Params:
    """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
    inputs = pictured.example_inputs(self.model)
    return AnsweringModel(self.model).init(key, inputs)["params"]

  def prepare(self, workdir: str, say: Callable[[str], None]) -> None:
    """Writes the known answers to the folder of the run."""
    answers = self._answers()
    answers.save(f"{workdir}/{ANSWERS}")
    say(f"answers: {len(answers):,}, such as {', '.join(answers.words[:5])}")

  def batch_shapes(self, batch_size: int) -> Batch:
    """A training batch as jax.ShapeDtypeStruct."""
    shapes = pictured.batch_shapes(self.model, self.data, batch_size)
    targets = jax.ShapeDtypeStruct((batch_size, self.model.num_answers), jnp.float32)
    return shapes | {"targets": targets}

  def totals(self, batch: Batch) -> jax.Array:
    """The number of questions."""
    return jnp.float32(len(batch["targets"]))

  def loss(
    self, params: Params, fixed: Params, batch: Batch, key: jax.Array, totals: Any
  ) -> Loss:
    """Cross-entropy of all answers, the mean over questions, and router losses."""
    logits_BV, pools = self._apply(params, batch, {"dropout": key})
    share = binary_cross_entropy(logits_BV, batch["targets"]).sum() / totals
    right = _of_likeliest(logits_BV, batch["targets"]).sum() / totals
    mean, means = pictured.pool_losses(self.objective, pools)
    return Loss(share, mean, {"loss": share, "accuracy": right}, means)

  def count(self, params: Params, fixed: Params, batch: Batch) -> Sums:
    """Losses, accuracies and questions by type of answers, and loads."""
    logits_BV, pools = self._apply(params, batch, None)
    real_B = batch["real"]
    loss_B = binary_cross_entropy(logits_BV, batch["targets"])
    accuracy_B = _of_likeliest(logits_BV, batch["accuracies"])
    is_type_BX = jax.nn.one_hot(batch["type"], len(_TYPES)) * real_B[:, None]
    loads = pictured.count_loads(pictured.inputs_of(self.model, batch), pools)
    return {
      "loss": (loss_B * real_B).sum(),
      "accuracy": (is_type_BX * accuracy_B[:, None]).sum(axis=0),
      "count": is_type_BX.sum(axis=0),
      "loads": loads,
    }

  def predict(self, params: Params, batch: Batch) -> jax.Array:
    """The probability of each answer, (B, V), of a batch without labels."""
    return jax.nn.sigmoid(self._apply(params, batch, None)[0])

  def summarize(self, sums: Mapping[str, Sums]) -> VqaEvaluation:
    """Means over the split."""
    (found,) = sums.values()
    if not found:
      raise ValueError("the validation split must have a question, got none.")
    accuracy, count = (np.asarray(found[k], np.float64) for k in ("accuracy", "count"))
    return VqaEvaluation(
      loss=float(found["loss"] / count.sum()),
      accuracy=float(accuracy.sum() / count.sum()),
      by_type={
        name: (float(x / n), int(n))
        for name, x, n in zip(_TYPES, accuracy, count, strict=True)
        if n
      },
      loads=pictured.mean_loads(found["loads"]),
    )

  def check(self) -> None:
    """Raises ValueError for another number of answers, and for what data lack."""
    pictured.check_vocabulary(self.model, self.data)
    found, wanted = len(self._answers()), self.model.num_answers
    if found != wanted:
      raise ValueError(
        "model.num_answers must be the number of known answers, got "
        f"num_answers={wanted}, and {found} answers of at least "
        f"{self.data.answers.least_count} training questions each."
      )
    next(iter(self.eval_batches(1)["questions"]))

  def train_feed(self, batch_size: int, streams: Sequence[int]) -> Feed:
    """An endless feed of questions with a known answer."""
    from mhmoe_jax.data.pictured.feed import PicturedFeed

    kept = {"answers": self._answers().fingerprint}
    size = self.model.picture_size
    rows = self._rows("train")
    return PicturedFeed(rows, self.data, size, batch_size, streams, kept)

  def eval_batches(
    self, batch_size: int
  ) -> Mapping[str, Iterator[tuple[Batch, dict[str, float]]]]:
    """All validation questions."""
    from mhmoe_jax.data.pictured.feed import read_all

    return {"questions": read_all(self._rows("validation"), batch_size)}

  def _apply(self, params: Params, batch: Batch, rngs: Any) -> tuple[jax.Array, Pools]:
    """Logits of answers, (B, V), and auxiliary values; `rngs` in training."""
    model = AnsweringModel(self.model, deterministic=rngs is None)
    inputs = pictured.inputs_of(self.model, batch)
    return model.apply({"params": params}, inputs, rngs=rngs)

  def _answers(self):
    from mhmoe_jax.data.pictured.answers import find_answers

    return find_answers(self.data.pictures, self.data.answers)

  def _rows(self, split: str):
    from mhmoe_jax.data.pictured.vqa import VqaRows

    return VqaRows(self.data, self.model.picture_size, split, self._answers())


def binary_cross_entropy(logits_BV: jax.Array, targets_BV: jax.Array) -> jax.Array:
  """-t log s(x) - (1 - t) log (1 - s(x)), s a sigmoid, summed over V; nats, (B,)."""
  return (jax.nn.softplus(logits_BV) - targets_BV * logits_BV).sum(axis=-1)


def _of_likeliest(logits_BV: jax.Array, scores_BV: jax.Array) -> jax.Array:
  """The score of the likeliest answer, (B,)."""
  best_B1 = logits_BV.argmax(axis=-1, keepdims=True)
  return jnp.take_along_axis(scores_BV, best_B1, axis=1)[:, 0]
