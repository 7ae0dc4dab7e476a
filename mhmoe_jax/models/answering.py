"""The encoder with BEiT-3's heads for answers and for statements (2208.10442).

As in its released code: an answer is told from [CLS] alone, which no last norm has
touched; a statement from [CLS] and the first token beside each of its pictures.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.encoder_blocks import Pools
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.norm import Norm


@dataclasses.dataclass(frozen=True)
class AnsweringConfig(EncoderConfig):
  """Configuration of `AnsweringModel`.

  Attributes: as in `EncoderConfig`, and
    num_answers: of which it chooses one.
  """

  num_answers: int

  def __post_init__(self):
    super().__post_init__()
    if self.num_answers < 1:
      raise ValueError(
        f"num_answers must be at least 1, got num_answers={self.num_answers}."
      )


class AnsweringModel(nn.Module):
  """Scores of all answers to a question about a picture.

  Attributes: as of `Encoder`.
  """

  config: AnsweringConfig
  deterministic: bool = True
  trace: bool = False

  @nn.compact
  def __call__(self, inputs: Inputs) -> tuple[jax.Array, Pools]:
    """Applies the model.

    Args:
      inputs: pictures with questions.

    Returns:
      float32 logits of answers, (B, V), V = `num_answers`; the auxiliary values of
      `Encoder`.
    """
    encoder = Encoder(
      self.config, self.deterministic, self.trace, norm_output=False, name="encoder"
    )
    x_BLD, pools = encoder(inputs)
    head = AnswerHead(self.config, self.config.num_answers, name="answer_head")
    return head(x_BLD[:, 0]), pools


class JudgingModel(nn.Module):
  """Whether a statement about some pictures is true.

  Attributes: as of `Encoder`, and
    num_pictures: that a statement is about.
  """

  config: EncoderConfig
  num_pictures: int
  deterministic: bool = True
  trace: bool = False

  @nn.compact
  def __call__(self, inputs: Inputs) -> tuple[jax.Array, Pools]:
    """Applies the model.

    Args:
      inputs: every picture of a statement with the statement, one after the other.

    Returns:
      float32 logits, (B / num_pictures, 2), of false and true; the auxiliary values of
      `Encoder`.
    """
    cfg = self.config
    encoder = Encoder(cfg, self.deterministic, self.trace, name="encoder")
    x_BLD, pools = encoder(inputs)
    firsts_B2D = x_BLD[:, jnp.array([0, cfg.num_image])]
    x_BD = firsts_B2D.reshape(-1, self.num_pictures * 2 * cfg.embed_dim)
    return StatementHead(cfg, name="statement_head")(x_BD), pools


class AnswerHead(nn.Module):
  """(B, D) -> float32 (B, V): a pooler, and a network of one hidden layer."""

  config: EncoderConfig
  size: int

  @nn.compact
  def __call__(self, x_BD: jax.Array) -> jax.Array:
    cfg, D = self.config, self.config.embed_dim
    x_BD = Norm(cfg.norm, cfg.norm_epsilon, name="pooler_norm")(x_BD)
    x_BP = jnp.tanh(Linear("DP", D, name="pooler")(x_BD))
    x_BF = Linear("DF", 2 * D, name="in")(x_BP)
    x_BF = Norm(cfg.norm, cfg.norm_epsilon, "F", name="norm")(x_BF)
    return Linear("FV", self.size, name="out")(gelu(x_BF), jnp.float32)


class StatementHead(nn.Module):
  """(B, pictures * 2 * D) -> float32 (B, 2): a network of one hidden layer.

  It begins a thousand times smaller than others, so that all statements are as likely.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(self, x_BD: jax.Array) -> jax.Array:
    cfg = self.config
    x_BD = Norm(cfg.norm, cfg.norm_epsilon, name="in_norm")(x_BD)
    x_BF = Linear("DF", 2 * cfg.embed_dim, 1e-3, name="in")(x_BD)
    x_BF = Norm(cfg.norm, cfg.norm_epsilon, "F", name="norm")(x_BF)
    return Linear("FV", 2, 1e-3, name="out")(gelu(x_BF), jnp.float32)


class Linear(nn.Module):
  """A linear map with a bias, named by its two dimensions."""

  letters: str
  size: int
  scale: float = 1.0  # of the weights at the start

  @nn.compact
  def __call__(self, x_BD: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
    init = nn.initializers.truncated_normal(0.02 * self.scale)
    shape = x_BD.shape[-1], self.size
    w_DF = self.param(f"w_{self.letters}", init, shape).astype(x_BD.dtype)
    zeros = nn.initializers.zeros_init()
    b_F = self.param(f"b_{self.letters[1]}", zeros, shape[1:])
    y_BF = jnp.matmul(x_BD, w_DF, preferred_element_type=dtype)
    return y_BF + b_F.astype(y_BF.dtype)[None]


def gelu(x: jax.Array) -> jax.Array:
  """With the error function, as in BEiT-3."""
  return nn.gelu(x, approximate=False)
