"""What tasks on pictures and text share: inputs, router losses, loads by modality."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.encoder import Inputs
from mhmoe_jax.models.encoder_blocks import Pools
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.tasks.objective import ObjectiveConfig
from mhmoe_jax.tasks.task import Batch, Sums, Task


@dataclasses.dataclass(frozen=True)
class EncoderObjectiveConfig(ObjectiveConfig):
  """Weights of the auxiliary losses of an encoder.

  Attributes:
    balance_weight: of the balance loss, summed over the MoE layers.
    router_z_weight: of the router z-loss, likewise.
    local_entropy_weight: of LIMoE's local loss of each modality (2206.02770).
    global_entropy_weight: of its global loss.
    global_entropy_least: nats, above which that is 0; the log of a number of experts.
  """

  local_entropy_weight: float
  global_entropy_weight: float
  global_entropy_least: float


class PicturedTask(Task):
  """A task on pictures that have a text each, `data.text_length` tokens at most."""

  def __post_init__(self):
    if self.model.text_length < self.data.text_length:
      raise ValueError(
        "model.text_length must be at least data.text_length, got "
        f"model.text_length={self.model.text_length}, "
        f"data.text_length={self.data.text_length}."
      )

  @property
  def text_vocabulary(self) -> str:
    """The name of the vocabulary of texts."""
    return self.data.vocabulary

  @property
  def tokens_per_example(self) -> int:
    """Of a picture and its text."""
    return self.model.num_image + self.data.text_length


def inputs_of(model: EncoderConfig, batch: Batch) -> Inputs:
  """What an encoder sees of a batch.

  Args:
    model: of the encoder.
    batch: of what has a picture "pixels" uint8 (B, Y, X, 3), perhaps "masked" (B, P)
      and, where rows may be padding, "real" (B,); of what has a text "tokens",
      "positions" and "segments" (B, T), perhaps "order".
  """
  found = {}
  if "pixels" in batch:
    found["patches_BPU"] = normalize(to_patches(batch["pixels"], model.patch_size))
    found["masked_BP"] = batch.get("masked")
    found["real_B"] = batch["real"] > 0 if "real" in batch else None
  for name in ("tokens", "positions", "segments", "order"):
    if name in batch:
      found[f"{name}_BT"] = batch[name]
  return Inputs(**found)


def example_inputs(model: EncoderConfig) -> Inputs:
  """A picture with a text of one token, to initialise parameters with."""
  one_BT = jnp.ones((1, 1), jnp.int32)
  patches_BPU = jnp.zeros((1, model.num_patches, 3 * model.patch_size**2))
  masked_BP = jnp.zeros(patches_BPU.shape[:2], bool)
  return Inputs(patches_BPU, masked_BP, one_BT, one_BT * 0, one_BT)


def batch_shapes(model: EncoderConfig, data: Any, batch_size: int) -> Batch:
  """Pictures and texts of a training batch as jax.ShapeDtypeStruct."""
  Y, T = model.picture_size, data.text_length
  text = jax.ShapeDtypeStruct((batch_size, T), jnp.int32)
  return {
    "pixels": jax.ShapeDtypeStruct((batch_size, Y, Y, 3), jnp.uint8),
    **dict.fromkeys(("tokens", "positions", "segments"), text),
  }


def check_vocabulary(model: EncoderConfig, data: Any) -> None:
  """Raises ValueError unless the embedding has a row for every token."""
  from mhmoe_jax.data.vocabularies import check_size

  check_size(data.vocabulary, model.vocab_size)


def pool_losses(
  config: EncoderObjectiveConfig, pools: Pools, name: Callable[[str], str] = str
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted auxiliary losses of all pools, and what their routers did.

  Args:
    config: the weights.
    pools: as of `Encoder`.
    name: what metrics of a pool or a modality are called.

  Returns:
    The loss, and metrics of each pool and of each modality in it, (N, ...).
  """
  loss, metrics = jnp.float32(0), {}
  for pool, aux in pools.items():
    loss += config.balance_weight * aux.balance_loss.sum()
    loss += config.router_z_weight * aux.router_z_loss.sum()
    metrics[f"{name(pool)}/balance_loss"] = aux.balance_loss
    metrics[f"{name(pool)}/router_z_loss"] = aux.router_z_loss
    for modality, part in aux.parts.items():
      unused = jax.nn.relu(config.global_entropy_least - part.global_entropy)
      loss += config.local_entropy_weight * part.local_entropy.sum()
      loss += config.global_entropy_weight * unused.sum()
      where = name(modality)
      metrics[f"{where}/local_entropy"] = part.local_entropy
      metrics[f"{where}/global_entropy"] = part.global_entropy
      metrics |= {f"{where}/router/{k}": x for k, x in part.stats._asdict().items()}
  return loss, metrics


def count_loads(inputs: Inputs, pools: Pools) -> dict[str, Sums]:
  """Loads times tokens, and tokens, of each modality, to be added up over batches."""
  tokens = {}
  if inputs.patches_BPU is not None:
    B, P, _ = inputs.patches_BPU.shape
    rows = jnp.float32(B) if inputs.real_B is None else inputs.real_B.sum()
    tokens["image"] = rows * jnp.float32(P + 1)
  if inputs.tokens_BT is not None:
    tokens["text"] = (inputs.segments_BT > 0).sum().astype(jnp.float32)
  return {
    modality: {
      "load_NHE": part.stats.load_HE * tokens[modality],
      "tokens": tokens[modality],
    }
    for aux in pools.values()
    for modality, part in aux.parts.items()
  }


def mean_loads(sums: Mapping[str, Sums]) -> dict[str, np.ndarray]:
  """The load of each modality, of what `count_loads` added up to."""
  return {name: part["load_NHE"] / part["tokens"] for name, part in sums.items()}
