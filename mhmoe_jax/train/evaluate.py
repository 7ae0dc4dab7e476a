"""Perplexity and bits per byte of a validation split, and what the routers did on it.

Bits per byte divide by the bytes of the text, not by tokens, so models with different
vocabularies can be compared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import math
from types import MappingProxyType
from typing import NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.data import validation, vocabularies
from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.train.objective import Batch, cross_entropy


class Evaluation(NamedTuple):
  """Means over a validation split."""

  loss: float  # nats per target token
  bits_per_byte: float
  num_tokens: int
  num_bytes: int
  load_NHE: np.ndarray | None  # load of each MoE layer, see `RouterStats.load_HE`
  members: Mapping[str, "Evaluation"] = MappingProxyType({})  # of a mixture

  @property
  def perplexity(self) -> float:
    """Per token of the model's vocabulary."""
    return math.exp(min(self.loss, 700.0))


def make_eval_step(
  config: TransformerConfig,
) -> Callable[[dict, Batch], dict[str, jax.Array]]:
  """A pure function of parameters and a batch; sums, so that batches can be added."""
  model = Decoder(config)

  def eval_step(params, batch: Batch):
    logits_BLV, aux, _ = model.apply(
      {"params": params}, batch["inputs"], batch["positions"], batch["segments"]
    )
    sums = {
      "nll": cross_entropy(logits_BLV, batch["targets"], batch["weights"]),
      "num_tokens": batch["weights"].sum(),
    }
    if aux is not None:
      sums["load_NHE"] = aux.stats.load_HE * sums["num_tokens"]
    return sums

  return eval_step


def evaluate(
  eval_step: Callable, params, batches: Iterable[tuple[Batch, int]], limit: int
) -> Evaluation:
  """Runs `eval_step` over `batches`.

  Args:
    eval_step: jitted `make_eval_step`, with results on every device.
    params: the model's parameters.
    batches: batches on the devices, each with the bytes of text of its targets.
    limit: how many batches at most; 0 for all.
  """
  sums, num_bytes = None, 0
  for i, (batch, batch_bytes) in enumerate(batches):
    if limit and i >= limit:
      break
    part = eval_step(params, batch)
    sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
    num_bytes += batch_bytes
  if sums is None or not num_bytes:
    raise ValueError("the validation split must have at least one token, got none.")
  sums = jax.tree.map(np.asarray, sums)
  nll, num_tokens = float(sums["nll"]), int(sums["num_tokens"])
  load_NHE = sums.get("load_NHE")
  return Evaluation(
    loss=nll / num_tokens,
    bits_per_byte=nll / math.log(2) / num_bytes,
    num_tokens=num_tokens,
    num_bytes=num_bytes,
    load_NHE=None if load_NHE is None else load_NHE / num_tokens,
  )


def evaluate_split(
  eval_step: Callable,
  params,
  data: DataConfig,
  batch_size: int,
  mesh: Mesh,
  limit: int = 0,
) -> Evaluation:
  """Runs `eval_step` over the validation split of `data`, at most `limit` batches.

  Of a mixture every member counts alike, whatever its size: losses, bits per byte and
  loads are means over the members, the perplexity is their geometric mean.
  """

  def run(data: DataConfig) -> Evaluation:
    return evaluate(eval_step, params, _batches(data, batch_size, mesh), limit)

  if not data.mixture:
    return run(data)
  members = {name: run(member) for name, member in data.members().items()}
  every = list(members.values())
  return Evaluation(
    loss=float(np.mean([e.loss for e in every])),
    bits_per_byte=float(np.mean([e.bits_per_byte for e in every])),
    num_tokens=sum(e.num_tokens for e in every),
    num_bytes=sum(e.num_bytes for e in every),
    load_NHE=None
    if every[0].load_NHE is None
    else np.mean([e.load_NHE for e in every], axis=0),
    members=members,
  )


def _batches(
  data: DataConfig, batch_size: int, mesh: Mesh
) -> Iterator[tuple[Batch, int]]:
  """Validation batches on the devices of `mesh`, each with its bytes of text."""
  vocabulary = vocabularies.make_vocabulary(data.vocabulary)
  token_bytes_V = vocabularies.count_token_bytes(vocabulary)
  for batch in validation.make_eval_feed(data, batch_size):
    num_bytes = validation.count_bytes(batch, token_bytes_V)
    yield sharding.place_batch(batch, mesh, batch_size), num_bytes


def check_vocabulary(name: str, vocab_size: int) -> None:
  """Raises ValueError unless the embedding has a row for every token."""
  size = vocabularies.make_vocabulary(name).vocab_size
  if size > vocab_size:
    raise ValueError(
      f"model.vocab_size must be at least the vocabulary's size, "
      f"got model.vocab_size={vocab_size}, {size} tokens in {name!r}."
    )
