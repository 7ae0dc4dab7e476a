"""The choices a multi-modal encoder offers, checked before anything is built."""

import dataclasses

from mhmoe_jax.models.config import check_blocks
from mhmoe_jax.moe.config import FfnStyle, MoeConfig

BACKBONES = ("multiway", "shared")
POOLS = ("modality", "shared")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Configuration of `Encoder`.

  Attributes: as in `TransformerConfig`, and
    vocab_size: V, tokens of text.
    num_codes: W, of the visual vocabulary.
    picture_size: height and width of a picture, pixels.
    patch_size: height and width of a patch; divides `picture_size`.
    text_length: positions of text, the longest there may be.
    backbone: "multiway", weights for each modality, or "shared", the same for both.
    pools: "modality", experts for each modality, or "shared", one pool for both.
    moe_last: MoE layers are in the last so many blocks.
    moe_every: of them, in every n-th; divides `moe_last`.
    drop_path: share of examples that the last block is left out for, in training; it
      rises with depth from 0 (1603.09382).
  """

  vocab_size: int
  num_codes: int
  picture_size: int
  patch_size: int
  text_length: int
  num_layers: int
  embed_dim: int
  num_attention_heads: int
  backbone: str
  pools: str
  ffn: str
  ffn_dim: int
  moe_last: int
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
  dropout: float
  drop_path: float
  dtype: str
  remat: str

  def __post_init__(self):
    check_blocks(
      self,
      counts=(
        "vocab_size",
        "num_codes",
        "picture_size",
        "patch_size",
        "text_length",
        "moe_last",
      ),
      choices={"backbone": BACKBONES, "pools": POOLS},
      rates=("dropout", "drop_path"),
    )
    for whole, part in (
      ("picture_size", "patch_size"),
      ("embed_dim", "num_attention_heads"),
      ("moe_last", "moe_every"),
    ):
      if getattr(self, whole) % getattr(self, part):
        raise ValueError(
          f"{part} must divide {whole}, got {part}={getattr(self, part)}, "
          f"{whole}={getattr(self, whole)}."
        )
    if self.moe_last > self.num_layers:
      raise ValueError(
        f"moe_last must be at most num_layers, got moe_last={self.moe_last}, "
        f"num_layers={self.num_layers}."
      )

  @property
  def layer(self) -> MoeConfig:
    """The MoE layer that `ffn` asks for: an SMoE has one head and no linear layers."""
    if self.ffn == "smoe":
      return dataclasses.replace(self.moe, num_heads=1, num_linear=0)
    return self.moe

  @property
  def dropless(self) -> "EncoderConfig":
    """The same model, whose MoE layers find room for every sub-token."""
    return dataclasses.replace(self, moe=self.moe.dropless)

  @property
  def style(self) -> FfnStyle:
    """Of the dense FFNs."""
    return FfnStyle.of(self)

  @property
  def num_patches(self) -> int:
    """Patches of a picture."""
    return (self.picture_size // self.patch_size) ** 2

  @property
  def num_image(self) -> int:
    """Places of a picture: its patches, and [CLS] before them."""
    return self.num_patches + 1

  @property
  def moe_blocks(self) -> list[int]:
    """Numbers of the blocks that have an MoE layer."""
    if self.ffn == "dense":
      return []
    first = self.num_layers - self.moe_last
    return list(range(first + self.moe_every - 1, self.num_layers, self.moe_every))

  @property
  def num_pools(self) -> int:
    """Of experts in an MoE layer, of which a token sees one."""
    return 2 if self.pools == "modality" else 1
