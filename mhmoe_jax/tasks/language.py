"""Language modelling: the next token, of text in one language or many.

Bits per byte divide by the bytes of the text, not by tokens, so models with different
vocabularies can be compared.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.objective import cross_entropy, router_losses
from mhmoe_jax.tasks.task import Batch, Feed, Loss, Params, Sums, Task


class LanguageEvaluation(NamedTuple):
  """Means over a validation split."""

  loss: float  # nats per target token
  bits_per_byte: float
  num_tokens: int
  num_bytes: int
  load_NHE: np.ndarray | None  # load of each MoE layer, see `RouterStats.load_HE`
  members: Mapping[str, "LanguageEvaluation"] = MappingProxyType({})  # of a mixture

  @property
  def perplexity(self) -> float:
    """Per token of the model's vocabulary."""
    return math.exp(min(self.loss, 700.0))

  @property
  def loads(self) -> dict[str, np.ndarray]:
    """The load of all tokens, without a name."""
    return {} if self.load_NHE is None else {"": self.load_NHE}

  def scalars(self) -> dict[str, float]:
    """Loss, perplexity and bits per byte, of every member too."""
    found = {}
    for name, part in {"": self, **self.members}.items():
      where = f"{name}/" if name else ""
      found[where + "loss"] = part.loss
      found[where + "perplexity"] = part.perplexity
      found[where + "bits_per_byte"] = part.bits_per_byte
    return found

  def in_short(self) -> str:
    """Loss and bits per byte."""
    return f"loss {self.loss:.4f}  bits per byte {self.bits_per_byte:.4f}"

  def in_words(self) -> list[str]:
    """A line, and one for each member of a mixture."""
    words = f"{self._in_words()} per token, over {self.num_bytes:,} bytes"
    members = [
      f"  {name:13} {part._in_words()}, over {part.num_bytes:,} bytes"
      for name, part in self.members.items()
    ]
    return [f"validation      {words}", *members]

  def _in_words(self) -> str:
    return f"{self.bits_per_byte:.4f} bits per byte, perplexity {self.perplexity:.3f}"


def init_params(config: TransformerConfig, key: jax.Array) -> Params:
  """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
  # One token is enough, since no parameter's shape depends on how many there are; but
  # one example cannot be split over a mesh.
  one_BL = jnp.ones((1, 1), jnp.int32)
  return Decoder(config).init(key, one_BL, one_BL * 0, one_BL)["params"]


@dataclasses.dataclass(frozen=True)
class Language(Task):
  """Next-token prediction by a causal decoder.

  A batch has "inputs", "targets", "positions", "segments" int32 and "weights" float32,
  each (B, L).

  Attributes:
    model: `TransformerConfig`.
    data: `DataConfig`.
    objective: `ObjectiveConfig`.
  """

  __hash__ = Task.__hash__

  @property
  def text_vocabulary(self) -> str:
    """The name of the vocabulary of the text."""
    return self.data.vocabulary

  @property
  def tokens_per_example(self) -> int:
    """L."""
    return self.data.sequence_length

  def init(self, key: jax.Array) -> Params:
    """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
    return init_params(self.model, key)

  def batch_shapes(self, batch_size: int) -> Batch:
    """A training batch as jax.ShapeDtypeStruct."""
    names = ("inputs", "targets", "positions", "segments")
    dtypes = dict.fromkeys(names, jnp.int32) | {"weights": jnp.float32}
    shape = batch_size, self.data.sequence_length
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in dtypes.items()}

  def totals(self, batch: Batch) -> jax.Array:
    """The number of targets."""
    return jnp.maximum(batch["weights"].sum(), 1.0)

  def loss(
    self, params: Params, fixed: Params, batch: Batch, key: jax.Array, totals: Any
  ) -> Loss:
    """Cross-entropy over the batch's targets, and the routers' losses."""
    return lm_loss(
      self.objective, Decoder(self.model, False), params, batch, key, totals
    )

  def count(self, params: Params, fixed: Params, batch: Batch) -> Sums:
    """Nats, tokens, and the load of the MoE layers times the tokens."""
    logits_BLV, aux, _ = Decoder(self.model).apply(
      {"params": params}, batch["inputs"], batch["positions"], batch["segments"]
    )
    sums = {
      "nll": cross_entropy(logits_BLV, batch["targets"], batch["weights"]),
      "num_tokens": batch["weights"].sum(),
    }
    if aux is not None:
      sums["load_NHE"] = aux.stats.load_HE * sums["num_tokens"]
    return sums

  def summarize(self, sums: Mapping[str, Sums]) -> LanguageEvaluation:
    """Means over the split.

    Of a mixture every member counts alike, whatever its size: losses, bits per byte and
    loads are means over the members, the perplexity is their geometric mean.
    """
    members = {name: _summarize(part) for name, part in sums.items()}
    if members.keys() == {""}:
      return members[""]
    every = list(members.values())
    return LanguageEvaluation(
      loss=float(np.mean([e.loss for e in every])),
      bits_per_byte=float(np.mean([e.bits_per_byte for e in every])),
      num_tokens=sum(e.num_tokens for e in every),
      num_bytes=sum(e.num_bytes for e in every),
      load_NHE=None
      if every[0].load_NHE is None
      else np.mean([e.load_NHE for e in every], axis=0),
      members=members,
    )

  def check(self) -> None:
    """Raises ValueError unless the embedding has a row for every token."""
    from mhmoe_jax.data.vocabularies import check_size

    check_size(self.data.vocabulary, self.model.vocab_size)

  def train_feed(self, batch_size: int, streams: Sequence[int]) -> Feed:
    """An endless feed of shuffled text."""
    from mhmoe_jax.data.streams import make_train_feed, warn_of_overlap

    feed = make_train_feed(self.data, batch_size, streams)
    warn_of_overlap(self.data)
    return feed

  def eval_batches(
    self, batch_size: int
  ) -> Mapping[str, Iterator[tuple[Batch, dict[str, float]]]]:
    """The validation text, or that of every member of a mixture, with its bytes."""
    members = self.data.members() or {"": self.data}
    return {name: _read(data, batch_size) for name, data in members.items()}


def lm_loss(
  config, model, params: Params, batch: Batch, key: jax.Array, num_targets: jax.Array
) -> Loss:
  """The training loss of (a part of) a batch.

  Args:
    config: `ObjectiveConfig`, weights of the auxiliary losses.
    model: a `Decoder`.
    params: its parameters.
    batch: as of `Language`.
    key: of dropout.
    num_targets: summed weights of the whole batch, so that the losses of its parts add
      up to the mean over its targets.
  """
  logits_BLV, aux, _ = model.apply(
    {"params": params},
    batch["inputs"],
    batch["positions"],
    batch["segments"],
    rngs={"dropout": key},
  )
  nll = cross_entropy(logits_BLV, batch["targets"], batch["weights"]) / num_targets
  mean, means = router_losses(config, aux)
  return Loss(nll, mean, {"loss": nll}, means)


def _summarize(sums: Sums) -> LanguageEvaluation:
  if not sums or not sums["num_bytes"]:
    raise ValueError("the validation split must have at least one token, got none.")
  nll, num_tokens = float(sums["nll"]), int(sums["num_tokens"])
  load_NHE = sums.get("load_NHE")
  return LanguageEvaluation(
    loss=nll / num_tokens,
    bits_per_byte=nll / math.log(2) / sums["num_bytes"],
    num_tokens=num_tokens,
    num_bytes=sums["num_bytes"],
    load_NHE=None if load_NHE is None else load_NHE / num_tokens,
  )


def _read(data: Any, batch_size: int) -> Iterator[tuple[Batch, dict[str, float]]]:
  from mhmoe_jax.data import validation, vocabularies

  vocabulary = vocabularies.make_vocabulary(data.vocabulary)
  token_bytes_V = vocabularies.count_token_bytes(vocabulary)
  for batch in validation.make_eval_feed(data, batch_size):
    yield batch, {"num_bytes": validation.count_bytes(batch, token_bytes_V)}
