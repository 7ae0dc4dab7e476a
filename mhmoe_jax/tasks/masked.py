"""Masked multi-modal modelling, BEiT-3's objective (2208.10442 section 2.2).

Every step has a batch of pictures, one of texts and one of pictures with a text. Parts
of each are hidden, and what was there is told: of text the token, of a picture the id
of the patch in a visual vocabulary (codes/), which is fixed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.codes import vocabulary
from mhmoe_jax.models.encoder_blocks import Pools
from mhmoe_jax.models.masked import Answer, MaskedModel, Question
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.tasks import filling, run_codes
from mhmoe_jax.tasks.masked_evaluation import MaskedEvaluation, Part
from mhmoe_jax.tasks.masked_objective import Guesses, score
from mhmoe_jax.tasks.pictured import (
  count_loads,
  example_inputs,
  inputs_of,
  pool_losses,
)
from mhmoe_jax.tasks.task import Batch, Feed, Loss, Params, Sums, Task


@dataclasses.dataclass(frozen=True)
class Masked(Task):
  """Telling what is hidden in pictures, in texts, and in pictures with a text.

  A batch has tables of arrays, "image", "text" and "pair": of what has a picture
  "pixels" uint8 (B, Y, X, 3), "masked" bool (B, P) and "patch_places" int32 (B, J); of
  what has a text "tokens", "positions", "segments" int32 (B, T), "token_places",
  "targets" int32 and "weights" float32 (B, J). Validation batches are of one kind.

  Attributes:
    model: `EncoderConfig`.
    data: `MaskedDataConfig`.
    objective: `MaskedObjectiveConfig`.
  """

  __hash__ = Task.__hash__

  def __post_init__(self):
    longest = max(self.data.text.sequence_length, self.data.pair_length)
    if self.model.text_length < longest:
      raise ValueError(
        "model.text_length must be at least data.text.sequence_length and "
        f"data.pair_length, got text_length={self.model.text_length}, "
        f"sequence_length={self.data.text.sequence_length}, "
        f"pair_length={self.data.pair_length}."
      )

  @property
  def text_vocabulary(self) -> str:
    """The name of the vocabulary of texts, alone and with pictures."""
    return self.data.text.vocabulary

  @property
  def tokens_per_example(self) -> int:
    """Of a picture, a text, and a picture with a text."""
    texts = self.data.text.sequence_length + self.data.pair_length
    return 2 * self.model.num_image + texts

  @property
  def codes(self) -> vocabulary.VisualVocabulary:
    """What is fixed of the visual vocabulary."""
    kind, model = self.data.codes.kind, self.model
    return vocabulary.VisualVocabulary(kind, model.num_codes, model.patch_size)

  def init(self, key: jax.Array) -> Params:
    """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
    place_BJ = jnp.zeros((1, 1), jnp.int32)
    inputs = example_inputs(self.model)
    return MaskedModel(self.model).init(key, inputs, place_BJ, place_BJ)["params"]

  def fixed_shapes(self) -> Params:
    """The arrays of the visual vocabulary as jax.ShapeDtypeStruct."""
    return vocabulary.array_shapes(self.codes)

  def prepare(self, workdir: str, say: Callable[[str], None]) -> None:
    """Fits the run's own visual vocabulary, unless the config names another."""
    if not self.data.codes.path:
      run_codes.prepare(self.data, self.codes, self.model.picture_size, workdir, say)

  def make_fixed(self, workdir: str) -> Params:
    """Reads the visual vocabulary.

    Raises:
      ValueError: it is not there, damaged, or of other patches or codes.
    """
    folder = self.data.codes.path or run_codes.folder_of(workdir)
    return run_codes.load(folder, self.codes).arrays

  def batch_shapes(self, batch_size: int) -> Batch:
    """A training batch as jax.ShapeDtypeStruct."""
    from mhmoe_jax.data.images.masks import count_masked
    from mhmoe_jax.data.masking import room

    model, data = self.model, self.data
    P, Y = model.num_patches, model.picture_size

    def shape(dtype, *sizes):
      return jax.ShapeDtypeStruct((batch_size, *sizes), dtype)

    def picture(ratio):
      return {
        "pixels": shape(jnp.uint8, Y, Y, 3),
        "masked": shape(jnp.bool_, P),
        "patch_places": shape(jnp.int32, count_masked(ratio, P)),
      }

    def text(length, ratio):
      names, J = ("tokens", "positions", "segments"), room(ratio, length)
      return {name: shape(jnp.int32, length) for name in names} | {
        "token_places": shape(jnp.int32, J),
        "targets": shape(jnp.int32, J),
        "weights": shape(jnp.float32, J),
      }

    mask = data.mask
    pair = picture(mask.pair_image) | text(data.pair_length, mask.pair_text)
    alone = picture(mask.image), text(data.text.sequence_length, mask.text)
    return {"image": alone[0], "text": alone[1], "pair": pair}

  def totals(self, batch: Batch) -> dict[str, jax.Array]:
    """Masked places of each modality in each kind of example."""
    found = {}
    for kind, part in batch.items():
      if "pixels" in part:
        found[_name(kind, "image")] = jnp.float32(part["patch_places"].size)
      if "tokens" in part:
        found[_name(kind, "text")] = jnp.maximum(part["weights"].sum(), 1.0)
    return found

  def loss(
    self, params: Params, fixed: Params, batch: Batch, key: jax.Array, totals: Any
  ) -> Loss:
    """Cross-entropy over masked places, and the routers' losses."""
    share, mean = jnp.float32(0), jnp.float32(0)
    shares, means = {}, {}
    weights = self.objective.shares()
    rngs = {"dropout": key}
    told = self._guess(params, fixed, {kind: batch[kind] for kind in weights}, rngs)
    for kind, weight in weights.items():
      guesses, pools = told[kind]
      names = {modality: _name(kind, modality) for modality in guesses}
      total = sum(totals[name] for name in names.values())
      share += weight * sum(found.nll for found in guesses.values()) / total
      for modality, name in names.items():
        found = guesses[modality]
        shares[f"{name}/loss"] = found.nll / totals[name]
        shares[f"{name}/accuracy"] = found.correct / totals[name]
      naming = functools.partial(_name, kind)
      loss, metrics = pool_losses(self.objective, pools, naming)
      mean += weight * loss
      means |= metrics
    return Loss(share, mean, {"loss": share, **shares}, means)

  def count(self, params: Params, fixed: Params, batch: Batch) -> Sums:
    """Nats, right guesses and places of each modality, and loads times the tokens."""
    ((guesses, pools),) = self._guess(params, fixed, {"": batch}, None).values()
    sums = {modality: found._asdict() for modality, found in guesses.items()}
    for modality, load in count_loads(inputs_of(self.model, batch), pools).items():
      sums[modality] |= load
    return sums

  def summarize(self, sums: Mapping[str, Sums]) -> MaskedEvaluation:
    """Means over the split."""
    parts, loads, counts = {}, {}, {}
    for kind, found in sums.items():
      if not all(part["count"] for part in found.values()) or not found:
        raise ValueError(
          f"the validation split must have something to mask, got no {kind} with any."
        )
      for modality, part in found.items():
        count = float(part["count"])
        parts[_name(kind, modality)] = Part(
          float(part["nll"]) / count, float(part["correct"]) / count, int(count)
        )
        if "load_NHE" in part:
          loads[modality] = loads.get(modality, 0) + part["load_NHE"]
          counts[modality] = counts.get(modality, 0) + float(part["tokens"])
    return MaskedEvaluation(parts, {m: x / counts[m] for m, x in loads.items()})

  def check(self) -> None:
    """Raises ValueError for a vocabulary that does not fit the model's heads."""
    name, size = self.data.text.vocabulary, self._mask_id()
    if size >= self.model.vocab_size:
      raise ValueError(
        "model.vocab_size must be above the vocabulary's size, for [MASK] behind it, "
        f"got model.vocab_size={self.model.vocab_size}, {size} tokens in {name!r}."
      )
    if self.data.codes.path:
      run_codes.load(self.data.codes.path, self.codes)
    # What is wrong with all of them shall not wait for the first evaluation.
    for kind in self.eval_batches(1).values():
      next(iter(kind))

  def train_feed(self, batch_size: int, streams: Sequence[int]) -> Feed:
    """An endless feed of all three kinds."""
    from mhmoe_jax.data.masked.feed import MaskedFeed

    codes = self.data.codes
    told = str(dataclasses.replace(codes, path=""))
    if codes.path:
      told = run_codes.load(codes.path, self.codes).fingerprint
    return MaskedFeed(self.data, self._sizes(), batch_size, streams, told)

  def eval_batches(
    self, batch_size: int
  ) -> Mapping[str, Iterator[tuple[Batch, dict[str, float]]]]:
    """Validation batches of each kind."""
    from mhmoe_jax.data.masked.feed import eval_batches

    kinds = eval_batches(self.data, self._sizes(), batch_size)
    return {kind: ((batch, {}) for batch in found) for kind, found in kinds.items()}

  def show(
    self, params: Params, fixed: Params, batches: Mapping[str, Batch]
  ) -> dict[str, dict[str, jax.Array]]:
    """Pictures, their masks, and what the model and the vocabulary make of them."""
    shown = {}
    for kind in ("image", "pair"):
      batch = jax.tree.map(lambda x: x[: filling.SHOWN], batches[kind])
      (answer,) = self._apply(params, [batch], None)
      ids_BJ = answer.codes_BJW.argmax(axis=-1)
      shown[kind] = filling.fill_in(self.codes, fixed, batch, ids_BJ)
    return shown

  def draw(self, shown: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Originals, what is seen and what is filled in, for both kinds of pictures."""
    titles = {"image": "pictures alone", "pair": "pictures with a text"}
    return {
      f"filled_in_{kind}": filling.draw(shown[kind], title)
      for kind, title in titles.items()
    }

  def _apply(self, params: Params, batches: Sequence[Batch], rngs: Any) -> list[Answer]:
    """What the model says of batches of some kinds; `rngs` in training."""
    questions = [
      Question(
        inputs_of(self.model, batch),
        batch.get("patch_places"),
        batch.get("token_places"),
      )
      for batch in batches
    ]
    model = MaskedModel(self.model, deterministic=rngs is None)
    return model.apply({"params": params}, questions, rngs=rngs, method="together")

  def _guess(
    self, params: Params, fixed: Params, batches: Mapping[str, Batch], rngs: Any
  ) -> dict[str, tuple[dict[str, Guesses], Pools]]:
    """What is told of each modality in batches by kind; `rngs` in training."""
    told = {}
    answers = self._apply(params, list(batches.values()), rngs)
    for (kind, batch), answer in zip(batches.items(), answers, strict=True):
      guesses = {}
      if answer.codes_BJW is not None:
        patches_BPU = normalize(to_patches(batch["pixels"], self.model.patch_size))
        ids_BP = vocabulary.encode(self.codes, fixed, patches_BPU)
        targets_BJ = jnp.take_along_axis(ids_BP, batch["patch_places"], axis=1)
        weights_BJ = jnp.ones(targets_BJ.shape, jnp.float32)
        if "real" in batch:
          weights_BJ *= batch["real"][:, None]
        guesses["image"] = score(answer.codes_BJW, targets_BJ, weights_BJ)
      if answer.tokens_BJV is not None:
        guesses["text"] = score(answer.tokens_BJV, batch["targets"], batch["weights"])
      told[kind] = guesses, answer.pools
    return told

  def _mask_id(self) -> int:
    from mhmoe_jax.data.vocabularies import make_vocabulary

    return make_vocabulary(self.data.text.vocabulary).vocab_size

  def _sizes(self):
    from mhmoe_jax.data.masked.rows import Sizes

    return Sizes(self.model.picture_size, self.model.patch_size, self._mask_id())


def _name(kind: str, modality: str) -> str:
  """Of a modality in a kind of example, or of a pool of experts there."""
  return kind if kind == modality else f"{kind}/{modality}"
