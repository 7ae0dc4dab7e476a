"""The parameters of FFNs: one alone, and many experts with every matrix stacked.

Matrices start as PyTorch's `nn.Linear` does, and so the authors' code: uniform in
+-1 / sqrt(fan_in), where one expert is the fan. Biases start so as well with
`init="torch"`, and at zero with "flax". `ffn.expert_ffn` says what an FFN computes.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.moe import bitnet
from mhmoe_jax.moe.config import FfnStyle, MoeConfig
from mhmoe_jax.moe.ffn import ExpertWeights, Formula, expert_ffn
from mhmoe_jax.sharding import constrain


class ExpertFfn(nn.Module):
  """Creates the weights of E experts."""

  config: MoeConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, width: int) -> ExpertWeights:
    """The weights in `dtype`, for sub-tokens of `width` M."""
    cfg = self.config
    weights = _create(self, cfg.style, width, cfg.expert_dim, cfg.num_experts)
    if cfg.bitnet:
      weights = _quantize(weights, jnp.full(cfg.num_experts, bitnet.LEVELS))
    return jax.tree.map(lambda w: w.astype(self.dtype), weights)


class DenseFfn(nn.Module):
  """The FFN of a dense block, or the expert that every token uses.

  Attributes:
    dim: F, its hidden width.
    style: see `FfnStyle`.
  """

  dim: int
  style: FfnStyle

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    D = x_BLD.shape[-1]
    weights = _create(self, self.style, D, self.dim)
    if self.style.bitnet:
      weights = _quantize(weights, jnp.float32(bitnet.LEVELS))
    weights = jax.tree.map(lambda w: w.astype(x_BLD.dtype), weights)
    y_RD = expert_ffn(weights, x_BLD.reshape(-1, D))
    return constrain(y_RD.reshape(x_BLD.shape), "BLD")


def bias_init(init: str, fan_in: int) -> nn.initializers.Initializer:
  """Of the bias of a linear layer with `fan_in` inputs, see `config.INITS`."""
  if init == "flax":
    return nn.initializers.zeros_init()
  bound = fan_in**-0.5

  def uniform(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return uniform


def _create(
  module: nn.Module, style: FfnStyle, width: int, hidden: int, *stack: int
) -> ExpertWeights:
  """Parameters of `module`: of one FFN, or with `stack` = E of as many experts."""
  e, m = ("E", "M") if stack else ("", "D")
  matrix = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", batch_axis=tuple(range(len(stack)))
  )
  from_width, from_hidden = (bias_init(style.init, n) for n in (width, hidden))
  zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
  gated = style.activation == "swiglu"
  centred = style.sub_ln and style.ffn_norm == "layernorm"

  def param(name, init, *shape, wanted=True):
    return module.param(name, init, (*stack, *shape), jnp.float32) if wanted else None

  # In this order, which the draws of the initial values follow.
  return ExpertWeights(
    w_in_EMF=param(f"w_in_{e}{m}F", matrix, width, hidden),
    w_out_EFM=param(f"w_out_{e}F{m}", matrix, hidden, width),
    w_gate_EMF=param(f"w_gate_{e}{m}F", matrix, width, hidden, wanted=gated),
    b_in_EF=param(f"b_in_{e}F", from_width, hidden, wanted=style.use_bias),
    b_out_EM=param(f"b_out_{e}{m}", from_hidden, width, wanted=style.use_bias),
    norm_scale_EF=param(f"norm_scale_{e}F", ones, hidden, wanted=style.sub_ln),
    norm_bias_EF=param(f"norm_bias_{e}F", zeros, hidden, wanted=centred),
    b_gate_EF=param(
      f"b_gate_{e}F",
      from_width,
      hidden,
      wanted=gated and style.use_bias and style.gate_bias,
    ),
    formula=Formula(style.activation == "gelu_tanh", style.ffn_norm_epsilon),
  )


def _quantize(weights: ExpertWeights, levels: jax.Array) -> ExpertWeights:
  # Each expert's matrix has a scale of its own, over its whole hidden width, however
  # that is split over devices: this is outside shard_map.
  gate = weights.w_gate_EMF
  return weights._replace(
    w_in_EMF=bitnet.ternary(weights.w_in_EMF, levels.ndim),
    w_out_EFM=bitnet.ternary(weights.w_out_EFM, levels.ndim),
    w_gate_EMF=None if gate is None else bitnet.ternary(gate, levels.ndim),
    levels_E=levels,
  )
