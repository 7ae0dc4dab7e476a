"""Captioning as masked modelling, BEiT-3's fine-tuning (2208.10442 section 3.1.2).

The picture sees itself, a token of the caption the picture, itself and what is left of
it; so masked tokens, of which a caption's end may be one, are told from what a writer
knows. Captions are written by beam search (models/captioning.py).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.evals import captions
from mhmoe_jax.models.captioning import Language, write_captions
from mhmoe_jax.models.masked import MaskedModel
from mhmoe_jax.tasks import pictured
from mhmoe_jax.tasks.captioning_evaluation import CaptioningEvaluation
from mhmoe_jax.tasks.masked_evaluation import Part
from mhmoe_jax.tasks.objective import cross_entropy
from mhmoe_jax.tasks.task import Batch, Feed, Loss, Params, Sums, Task


@dataclasses.dataclass(frozen=True)
class Captioning(pictured.PicturedTask):
  """Telling masked tokens of captions from a picture and what is left of them.

  A batch has "pixels" uint8 (B, Y, X, 3), "tokens", "positions", "segments" int32
  (B, T), "token_places", "targets" int32 and "weights" float32 (B, J). Validation has
  batches to write captions of, too: "pixels" and "number" int32 (B,).

  Attributes:
    model: `EncoderConfig`.
    data: `CaptionDataConfig`.
    objective: `CaptioningObjectiveConfig`.
  """

  __hash__ = Task.__hash__

  def init(self, key: jax.Array) -> Params:
    """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
    inputs, place_BJ = pictured.example_inputs(self.model), jnp.zeros((1, 1), jnp.int32)
    return MaskedModel(self.model).init(key, inputs, None, place_BJ)["params"]

  def batch_shapes(self, batch_size: int) -> Batch:
    """A training batch as jax.ShapeDtypeStruct."""
    from mhmoe_jax.data.masking import room

    shape_BJ = batch_size, room(self.data.mask_share, self.data.text_length)
    dtypes = {"token_places": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    masked = {k: jax.ShapeDtypeStruct(shape_BJ, dtype) for k, dtype in dtypes.items()}
    return pictured.batch_shapes(self.model, self.data, batch_size) | masked

  def totals(self, batch: Batch) -> jax.Array:
    """Masked tokens."""
    return jnp.maximum(batch["weights"].sum(), 1.0)

  def loss(
    self, params: Params, fixed: Params, batch: Batch, key: jax.Array, totals: Any
  ) -> Loss:
    """Cross-entropy over masked tokens, with smoothed targets; the routers' losses."""
    logits_BJV, _, pools = self._apply(params, batch, {"dropout": key})
    nll, correct = _score(logits_BJV, batch, self.objective.label_smoothing)
    mean, metrics = pictured.pool_losses(self.objective, pools)
    shares = {"loss": nll / totals, "accuracy": correct / totals}
    return Loss(shares["loss"], mean, shares, metrics)

  def count(self, params: Params, fixed: Params, batch: Batch) -> Sums:
    """Of masked tokens nats, hits, number and loads; or captions by picture."""
    if "number" in batch:
      tokens_BT, _ = self.write(params, batch["pixels"], batch["real"] > 0)
      real_B = batch["real"].astype(jnp.int32)
      # Each in a row of its own, so that adding up batches puts them side by side.
      rows_C = jnp.arange(self.objective.num_captions)
      place_CB = (rows_C[:, None] == batch["number"][None]) * real_B[None]
      return {"tokens": place_CB @ tokens_BT, "is_written": place_CB.sum(axis=1)}
    logits_BJV, inputs, pools = self._apply(params, batch, None)
    nll, correct = _score(logits_BJV, batch, 0.0)
    sums = {"nll": nll, "correct": correct, "count": batch["weights"].sum()}
    return sums | {"loads": pictured.count_loads(inputs, pools)}

  def summarize(self, sums: Mapping[str, Sums]) -> CaptioningEvaluation:
    """Means over the split, and captions with their scores."""
    from mhmoe_jax.data.pictured.captions import read_captions

    masked, written = sums["masked"], sums["captions"]
    if not masked or not written:
      raise ValueError("the validation split must have a picture, got none.")
    count = float(masked["count"])
    found = Part(
      float(masked["nll"]) / count, float(masked["correct"]) / count, int(count)
    )
    references = read_captions(self.data, self.objective.num_captions)
    numbers = np.flatnonzero(written["is_written"])
    texts = [self.to_text(written["tokens"][i]) for i in numbers]
    references = [references[i] for i in numbers]
    return CaptioningEvaluation(
      found,
      texts,
      references,
      captions.score(texts, references),
      pictured.mean_loads(masked["loads"]),
    )

  def write(
    self, params: Params, pixels_BYXC: jax.Array, real_B: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The best caption of each picture: tokens (B, T), and what they are worth (B,)."""
    from mhmoe_jax.data.vocabularies import begin_id, find_drawable, make_vocabulary

    vocabulary = make_vocabulary(self.data.vocabulary)
    allowed_V = find_drawable(vocabulary, self.model.vocab_size)
    return write_captions(
      self.model,
      params,
      pictured.inputs_of(self.model, {"pixels": pixels_BYXC}).patches_BPU,
      real_B,
      Language(
        begin_id(self.data.vocabulary),
        vocabulary.eos_id,
        vocabulary.vocab_size,
        jnp.asarray(allowed_V),
      ),
      length=self.data.text_length,
      num_beams=self.objective.num_beams,
      length_penalty=self.objective.length_penalty,
    )

  def to_text(self, tokens_T: np.ndarray) -> str:
    """A caption in words, of what `write` returned of a picture."""
    from mhmoe_jax.data.vocabularies import make_vocabulary

    vocabulary, tokens = make_vocabulary(self.data.vocabulary), tokens_T[1:].tolist()
    if vocabulary.eos_id in tokens:
      tokens = tokens[: tokens.index(vocabulary.eos_id)]
    return vocabulary.decode(tokens).strip()

  def check(self) -> None:
    """Raises ValueError for a vocabulary that does not fit the model, or no caption."""
    if self._mask_id() >= self.model.vocab_size:
      raise ValueError(
        "model.vocab_size must be above the vocabulary's size, for [MASK] behind it, "
        f"got model.vocab_size={self.model.vocab_size}, {self._mask_id()} tokens in "
        f"{self.data.vocabulary!r}."
      )
    # What is wrong with all of them shall not wait for the first evaluation.
    for kind in self.eval_batches(1).values():
      next(iter(kind))

  def train_feed(self, batch_size: int, streams: Sequence[int]) -> Feed:
    """An endless feed."""
    from mhmoe_jax.data.pictured.captions import CaptionRows
    from mhmoe_jax.data.pictured.feed import PicturedFeed

    size = self.model.picture_size
    rows = CaptionRows(self.data, size, self._mask_id(), "train")
    return PicturedFeed(rows, self.data, size, batch_size, streams)

  def eval_batches(
    self, batch_size: int
  ) -> Mapping[str, Iterator[tuple[Batch, dict[str, float]]]]:
    """Batches of all masked captions, and of pictures to write captions of."""
    from mhmoe_jax.data.pictured.captions import CaptionRows, UncaptionedRows
    from mhmoe_jax.data.pictured.feed import read_all

    size, count = self.model.picture_size, self.objective.num_captions
    masked = CaptionRows(self.data, size, self._mask_id(), "validation")
    return {
      "masked": read_all(masked, batch_size),
      "captions": read_all(UncaptionedRows(self.data, size, count), batch_size),
    }

  def _apply(self, params: Params, batch: Batch, rngs: Any):
    """Logits of tokens at masked places, what was seen, and auxiliary values."""
    # The picture has 0, so that it sees no caption, and every token the picture.
    inputs = pictured.inputs_of(self.model, batch | {"order": 1 + batch["positions"]})
    model = MaskedModel(self.model, deterministic=rngs is None)
    _, logits_BJV, pools = model.apply(
      {"params": params}, inputs, None, batch["token_places"], rngs=rngs
    )
    return logits_BJV, inputs, pools

  def _mask_id(self) -> int:
    from mhmoe_jax.data.vocabularies import make_vocabulary

    return make_vocabulary(self.data.vocabulary).vocab_size


def _score(
  logits_BJV: jax.Array, batch: Batch, smoothing: float
) -> tuple[jax.Array, jax.Array]:
  """Nats and hits, summed; smoothed targets have that share of all tokens alike."""
  targets_BJ, weights_BJ = batch["targets"], batch["weights"]
  nll = cross_entropy(logits_BJV, targets_BJ, weights_BJ)
  if smoothing:
    even_BJ = jax.nn.logsumexp(logits_BJV, axis=-1) - logits_BJV.mean(axis=-1)
    nll = (1 - smoothing) * nll + smoothing * (even_BJ * weights_BJ).sum()
  right_BJ = logits_BJV.argmax(axis=-1) == targets_BJ
  return nll, (right_BJ * weights_BJ).sum()
