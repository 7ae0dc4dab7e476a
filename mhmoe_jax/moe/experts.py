"""The experts' parameters: one array per matrix, all experts stacked.

Initialised as the authors' code does, with PyTorch's default of `nn.Linear`: uniform in
+-1 / sqrt(fan_in). `batch_axis=(0,)` keeps the expert axis out of the fan.
"""

from flax import linen as nn
import jax.numpy as jnp

from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.moe.grouped import ExpertWeights

_expert_init = nn.initializers.variance_scaling(
  1 / 3, "fan_in", "uniform", batch_axis=(0,)
)


class ExpertFfn(nn.Module):
  """Creates the weights of E experts; `grouped.expert_ffn` says what they compute."""

  config: MoeConfig
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, width: int) -> ExpertWeights:
    """The weights in `dtype`, for sub-tokens of `width` M."""
    cfg = self.config
    E, M, F = cfg.num_experts, width, cfg.expert_dim
    zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
    gated = cfg.activation == "swiglu"
    weights = ExpertWeights(
      w_in_EMF=self.param("w_in_EMF", _expert_init, (E, M, F)),
      w_out_EFM=self.param("w_out_EFM", _expert_init, (E, F, M)),
      w_gate_EMF=self.param("w_gate_EMF", _expert_init, (E, M, F)) if gated else None,
      b_in_EF=self.param("b_in_EF", zeros, (E, F)) if cfg.use_bias else None,
      b_out_EM=self.param("b_out_EM", zeros, (E, M)) if cfg.use_bias else None,
      norm_scale_EF=self.param("norm_scale_EF", ones, (E, F)) if cfg.sub_ln else None,
      norm_bias_EF=self.param("norm_bias_EF", zeros, (E, F)) if cfg.sub_ln else None,
    )
    return ExpertWeights(*(w if w is None else w.astype(self.dtype) for w in weights))
