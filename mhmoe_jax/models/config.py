"""The choices a Transformer offers, checked before anything is built."""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any

from mhmoe_jax.models.remat import POLICIES
from mhmoe_jax.moe.config import NORMS, FfnStyle, MoeConfig, check_fields

FFNS = ("dense", "smoe", "mhmoe")
QK_NORMS = ("none", "head", "whole")
DTYPES = ("float32", "bfloat16")


def check_blocks(
  config: Any,
  counts: Iterable[str],
  choices: Mapping[str, Iterable[str]],
  rates: Iterable[str],
) -> None:
  """Raises ValueError for what no model of Transformer blocks can have.

  Args:
    config: of the model.
    counts: of its own fields those that are at least 1.
    choices: of its own fields those with a few values.
    rates: fields in [0, 1).
  """
  check_fields(config)
  shared = ("num_layers", "embed_dim", "num_attention_heads", "ffn_dim", "moe_every")
  for name in (*counts, *shared):
    if getattr(config, name) < 1:
      raise ValueError(
        f"{name} must be at least 1, got {name}={getattr(config, name)}."
      )
  shared = {"ffn": FFNS, "norm": NORMS, "dtype": DTYPES, "remat": POLICIES}
  for name, allowed in (shared | choices).items():
    if getattr(config, name) not in allowed:
      raise ValueError(
        f"{name} must be one of {', '.join(allowed)}, "
        f"got {name}={getattr(config, name)!r}."
      )
  for name in rates:
    if not 0 <= getattr(config, name) < 1:
      raise ValueError(f"{name} must be in [0, 1), got {name}={getattr(config, name)}.")
  for name in ("norm_epsilon", "ffn_norm_epsilon"):
    if not getattr(config, name) > 0:
      raise ValueError(f"{name} must be positive, got {name}={getattr(config, name)}.")
  FfnStyle.of(config)
  if config.ffn == "mhmoe" and config.embed_dim % config.moe.num_heads:
    raise ValueError(
      f"num_heads must divide embed_dim, got num_heads={config.moe.num_heads}, "
      f"embed_dim={config.embed_dim}."
    )


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Configuration of `Decoder`; configs/base.py says what each field is for."""

  vocab_size: int
  num_layers: int
  embed_dim: int
  num_attention_heads: int
  num_kv_heads: int
  head_dim: int
  qk_norm: str
  ffn: str
  ffn_dim: int
  moe_every: int
  moe: MoeConfig
  activation: str
  use_bias: bool
  gate_bias: bool
  norm: str
  norm_epsilon: float
  sub_ln: bool
  ffn_norm: str
  ffn_norm_epsilon: float
  init: str
  bitnet: bool
  rope_theta: float
  scale_embeddings: bool
  tie_embeddings: bool
  dropout: float
  moe_dropout: float
  dtype: str
  remat: str
  scan_unroll: int

  def __post_init__(self):
    check_blocks(
      self,
      counts=("vocab_size", "scan_unroll"),
      choices={"qk_norm": QK_NORMS},
      rates=("dropout", "moe_dropout"),
    )
    if self.head_dim < 0 or self.head_dim % 2:
      raise ValueError(
        f"head_dim must be even, or 0 for embed_dim / num_attention_heads, "
        f"got head_dim={self.head_dim}."
      )
    if not self.head_dim and self.embed_dim % (2 * self.num_attention_heads):
      raise ValueError(
        f"num_attention_heads must divide embed_dim into even widths, "
        f"got num_attention_heads={self.num_attention_heads}, "
        f"embed_dim={self.embed_dim}."
      )
    if self.num_kv_heads < 0 or self.num_attention_heads % (self.num_kv_heads or 1):
      raise ValueError(
        f"num_kv_heads must divide num_attention_heads, or be 0 for as many, "
        f"got num_kv_heads={self.num_kv_heads}, "
        f"num_attention_heads={self.num_attention_heads}."
      )
    if self.ffn != "dense" and self.num_layers % self.moe_every:
      raise ValueError(
        f"moe_every must divide num_layers, got moe_every={self.moe_every}, "
        f"num_layers={self.num_layers}."
      )

  @property
  def attention_shape(self) -> tuple[int, int, int]:
    """(A, J, Q): heads of queries, heads of keys and values, width of either."""
    A = self.num_attention_heads
    return A, self.num_kv_heads or A, self.head_dim or self.embed_dim // A

  @property
  def layer(self) -> MoeConfig:
    """The MoE layer that `ffn` asks for: an SMoE has one head and no linear layers."""
    if self.ffn == "smoe":
      return dataclasses.replace(self.moe, num_heads=1, num_linear=0)
    return self.moe

  @property
  def style(self) -> FfnStyle:
    """Of the dense FFNs."""
    return FfnStyle.of(self)

  @property
  def dropless(self) -> "TransformerConfig":
    """The same model, whose MoE layers find room for every sub-token."""
    return dataclasses.replace(self, moe=self.moe.dropless)

  @property
  def period(self) -> int:
    """Blocks until the pattern of dense and MoE blocks repeats."""
    return 1 if self.ffn == "dense" else self.moe_every

  @property
  def moe_blocks(self) -> list[int]:
    """Numbers of the blocks that have an MoE layer: the last of each period."""
    if self.ffn == "dense":
      return []
    return list(range(self.period - 1, self.num_layers, self.period))

  @property
  def num_pools(self) -> int:
    """Of experts in an MoE layer, of which a token sees one."""
    return 1
