"""As many parameters as X, as much work as X: the expert width or number that gives it.

Integer arithmetic on one MoE layer, as the papers do it (2411.16205 Eq. 6 to 9, with
SwiGLU's third matrix). The router is left out, as there, and additions are: it is a
thousandth of a layer, and with it the second paper's models would not be equal to the
integer, which they are. `parity` weighs whole models, routers and all.
"""

from collections.abc import Callable
import dataclasses

from mhmoe_jax.moe.config import MoeConfig


def parameters(layer: MoeConfig, embed_dim: int) -> int:
  """Parameters of a layer between tokens of width `embed_dim`, without its router."""
  width, bias = embed_dim // layer.num_heads, layer.use_bias or layer.linear_bias
  return (
    layer.num_experts * _ffn_parameters(layer, width, layer.expert_dim)
    + _ffn_parameters(layer, embed_dim, layer.shared_dim)
    + _linear_layers(layer) * embed_dim * (embed_dim + bias)
  )


def macs(layer: MoeConfig, embed_dim: int) -> int:
  """Multiply-adds of a layer's matrices for one token, without its router.

  Each of H sub-tokens of width D / H goes through K experts: H drops out.
  """
  hidden = layer.top_k * layer.expert_dim + layer.shared_dim
  return embed_dim * (_matrices(layer) * hidden + _linear_layers(layer) * embed_dim)


def match_expert_dim(
  layer: MoeConfig,
  like: MoeConfig,
  embed_dim: int,
  count: Callable[[MoeConfig, int], int],
) -> int:
  """The largest `expert_dim` at which `layer` counts no more than `like`.

  Args:
    layer: the layer to fit; its own `expert_dim` does not matter.
    like: the layer to match.
    embed_dim: D of both.
    count: `parameters` or `macs`.
  """
  return _largest("expert_dim", 1, layer, like, embed_dim, count)


def match_num_experts(layer: MoeConfig, like: MoeConfig, embed_dim: int) -> int:
  """The largest `num_experts` at which `layer` has no more parameters than `like`."""
  return _largest("num_experts", layer.top_k, layer, like, embed_dim, parameters)


def _largest(name, least, layer, like, embed_dim, count):
  # Both counts grow in proportion to width and number.
  low, high = (
    count(dataclasses.replace(layer, **{name: n}), embed_dim)
    for n in (least, least + 1)
  )
  target = count(like, embed_dim)
  if target < low:
    raise ValueError(
      f"the layer to match must leave room for {name}={least}, got {target} "
      f"{count.__name__} to match with at least {low}."
    )
  return least + (target - low) // (high - low)


def _matrices(layer: MoeConfig) -> int:
  return 3 if layer.activation == "swiglu" else 2


def _linear_layers(layer: MoeConfig) -> int:
  return layer.num_linear * (layer.use_head_layer + layer.use_merge_layer)


def _ffn_parameters(layer: MoeConfig, width: int, hidden: int) -> int:
  if hidden == 0:
    return 0
  gated = layer.activation == "swiglu" and layer.gate_bias
  biases = ((1 + gated) * hidden + width) * layer.use_bias
  norm = {"rmsnorm": 1, "layernorm": 2}[layer.ffn_norm] * hidden * layer.sub_ln
  return _matrices(layer) * width * hidden + biases + norm
