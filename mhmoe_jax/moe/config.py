"""The choices a Multi-Head MoE layer offers, checked before anything is built."""

import dataclasses
import math
import numbers

# GELU is x times the normal distribution function of x, or an approximation by tanh.
ACTIVATIONS = ("gelu", "gelu_tanh", "swiglu")
NORMS = ("rmsnorm", "layernorm")
# Biases and the router's linear map: as PyTorch's `nn.Linear` starts them and so the
# papers' code, uniform in +-1 / sqrt(fan_in), or zeros and `lecun_normal`.
INITS = ("flax", "torch")
ROUTERS = ("linear", "cosine", "projected")
DROPLESS = ("sorted", "rounds")
DISPATCHES = (*DROPLESS, "capacity", "einsum")
BACKENDS = ("auto", "fused", "ragged", "batched", "blocks")


def check_number(name: str, value, kind: type = int, least: float | None = None):
  """The value as a plain int or finite float; numpy's numbers will do.

  Raises:
    ValueError: naming it, if it is something else, less than `least`, or of no array.
  """
  accepted = {int: numbers.Integral, float: numbers.Real}[kind]
  if not isinstance(value, accepted) or isinstance(value, bool):
    raise ValueError(
      f"{name} must be of type {kind.__name__}, got {name}={value!r} "
      f"of type {type(value).__name__}."
    )
  if not math.isfinite(value):
    raise ValueError(f"{name} must be finite, got {name}={value}.")
  if least is not None and value < least:
    raise ValueError(f"{name} must be at least {least}, got {name}={value}.")
  return kind(value)


def check_fields(config) -> None:
  """Holds the fields of a frozen dataclass to their types; numbers become plain ones.

  Raises:
    ValueError: naming the field, its value and both types, or if it is not finite.
  """
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.type in (int, float):
      value = check_number(field.name, value, field.type)
      if field.type is int and abs(value) >= 2**31:
        raise ValueError(
          f"{field.name} must fit into 32 bits, got {field.name}={value}."
        )
      object.__setattr__(config, field.name, value)
    elif not isinstance(value, field.type):
      raise ValueError(
        f"{field.name} must be of type {field.type.__name__}, "
        f"got {field.name}={value!r} of type {type(value).__name__}."
      )


@dataclasses.dataclass(frozen=True)
class FfnStyle:
  """What the FFNs of a model have in common; `MoeConfig` says what each field is."""

  activation: str
  use_bias: bool
  gate_bias: bool
  sub_ln: bool
  ffn_norm: str
  ffn_norm_epsilon: float
  bitnet: bool
  init: str

  @classmethod
  def of(cls, config) -> "FfnStyle":
    """Out of a config that has these fields among others, checked."""
    for name, allowed in (
      ("activation", ACTIVATIONS),
      ("ffn_norm", NORMS),
      ("init", INITS),
    ):
      if getattr(config, name) not in allowed:
        raise ValueError(
          f"{name} must be one of {', '.join(allowed)}, "
          f"got {name}={getattr(config, name)!r}."
        )
    return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class MoeConfig:
  """Configuration of `MultiHeadMoe`. SMoE is `num_heads=1, num_linear=0`.

  Raises ValueError for values that cannot work, naming the rule and the numbers.
  """

  num_heads: int  # H, sub-tokens per token; must divide the model width
  num_experts: int  # E, one pool shared by all heads
  expert_dim: int  # F, hidden width of an expert
  top_k: int = 2  # K, experts per sub-token
  num_linear: int = 1  # layers n of the head and the merge layer each; 0 is identity
  activation: str = "gelu"  # or "gelu_tanh", two matrices, or "swiglu", three
  use_bias: bool = True  # in head layer, merge layer and experts
  gate_bias: bool = True  # under use_bias: SwiGLU's gate has one, too
  linear_bias: bool = False  # in head and merge layer even without use_bias
  sub_ln: bool = False  # a norm on the experts' hidden activations (Magneto)
  ffn_norm: str = "layernorm"  # its kind, or "rmsnorm"
  ffn_norm_epsilon: float = 1e-5  # what it adds to the variance
  init: str = "flax"  # of biases and the router's linear map, or "torch": as nn.Linear
  expert_dropout: float = 0.0  # of each expert's output, before its weight, in training
  use_head_layer: bool = True  # False: only the merge layer, 2411.16205 Table 5
  use_merge_layer: bool = True  # False: only the head layer
  shared_dim: int = 0  # hidden width of the expert that every token uses; 0: none
  bitnet: bool = False  # ternary experts, 8-bit activations (2402.17764)
  residual: bool = False  # add the sub-token to the experts' sum, 2404.15045 Eq. 6
  router: str = "linear"  # "linear" (Eq. 5), "cosine" (X-MoE) or "projected"
  router_dim: int = 16  # R, width of the cosine and projected routers
  router_norm: float = 1.5  # of the projected router's embeddings, kept; 0: free
  router_temperature: float = 0.3  # initial temperature of the cosine router
  renormalize: bool = False  # make the K weights of a sub-token sum to 1
  dispatch: str = "sorted"  # or "rounds"; dropping: "capacity", "einsum"
  backend: str = "auto"  # by platform, or one of `BACKENDS`
  capacity_factor: float = 1.25  # of "capacity" and "einsum", in training
  eval_capacity_factor: float = 2.0  # of the same, in evaluation
  round_factor: float = 1.25  # of "rounds": rows of a round over an even share

  def __post_init__(self):
    check_fields(self)
    for name in ("num_heads", "num_experts", "expert_dim", "top_k", "router_dim"):
      if getattr(self, name) < 1:
        raise ValueError(
          f"{name} must be at least 1, got {name}={getattr(self, name)}."
        )
    for name in ("num_linear", "shared_dim"):
      if getattr(self, name) < 0:
        raise ValueError(
          f"{name} must be at least 0, got {name}={getattr(self, name)}."
        )
    if self.top_k > self.num_experts:
      raise ValueError(
        f"top_k must be at most num_experts, got top_k={self.top_k}, "
        f"num_experts={self.num_experts}."
      )
    for name in (
      "capacity_factor",
      "eval_capacity_factor",
      "round_factor",
      "router_temperature",
      "ffn_norm_epsilon",
    ):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {name}={getattr(self, name)}.")
    if not 0 <= self.expert_dropout < 1:
      raise ValueError(
        f"expert_dropout must be in [0, 1), got expert_dropout={self.expert_dropout}."
      )
    if self.router_norm < 0:
      raise ValueError(
        f"router_norm must be at least 0, got router_norm={self.router_norm}."
      )
    FfnStyle.of(self)
    for name, allowed in (
      ("router", ROUTERS),
      ("dispatch", DISPATCHES),
      ("backend", BACKENDS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f"{name} must be one of {', '.join(allowed)}, "
          f"got {name}={getattr(self, name)!r}."
        )
    self._check_that_it_learns()

  def _check_that_it_learns(self) -> None:
    """Refuses what would train without an error, but with gradients of zero."""
    if self.num_experts > 1 and self.renormalize and self.top_k == 1:
      raise ValueError(
        "renormalize needs a top_k of at least 2, because a single weight is always 1 "
        f"and teaches the router nothing, got top_k={self.top_k}, renormalize=True."
      )
    if self.num_experts > 1 and self.router != "linear" and self.router_dim == 1:
      raise ValueError(
        "router_dim must be at least 2 unless the router is linear, because a unit "
        f"vector of width 1 is constant, got router_dim=1, router={self.router!r}."
      )

  @property
  def dropless(self) -> "MoeConfig":
    """The same, in a dispatch that has room for every sub-token."""
    if self.dispatch in DROPLESS:
      return self
    return dataclasses.replace(self, dispatch="sorted")

  @property
  def style(self) -> FfnStyle:
    """Of the experts, and of the one that every token uses."""
    return FfnStyle.of(self)
