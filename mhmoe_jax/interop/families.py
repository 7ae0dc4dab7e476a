"""Hugging Face's decoders that ours can compute, and their configs read into ours.

What of a config.json our decoder cannot compute is refused with a line that names it.
The other direction: expressing.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mhmoe_jax.interop import layout
from mhmoe_jax.models.config import TransformerConfig

_ATTENTION = {
  "attention_norm/scale": "input_layernorm.weight",
  "attention/w_q": "self_attn.q_proj.weight",
  "attention/w_k": "self_attn.k_proj.weight",
  "attention/w_v": "self_attn.v_proj.weight",
  "attention/w_o": "self_attn.o_proj.weight",
  "attention/q_norm/scale": "self_attn.q_norm.weight",
  "attention/k_norm/scale": "self_attn.k_norm.weight",
  "ffn_norm/scale": "post_attention_layernorm.weight",
  "ffn/w_gate": "mlp.gate_proj.weight",
  "ffn/w_in": "mlp.up_proj.weight",
  "ffn/w_out": "mlp.down_proj.weight",
}


def _expert_names(where: str, gate: str, up: str, down: str) -> dict[str, str]:
  names = {"w_gate": gate, "w_in": up, "w_out": down}
  return {
    f"moe/experts/{ours}": f"{where}.experts.{{}}.{theirs}.weight"
    for ours, theirs in names.items()
  }


class Family(NamedTuple):
  """A decoder of Hugging Face's.

  Attributes:
    architecture: its class there.
    ffn: "dense" or "smoe".
    qk_norm: as in `TransformerConfig`.
    defaults: of the keys that a config.json may leave out.
    expert_dim: the key of an expert's hidden width.
    num_experts: the key of their number, as it writes it.
    router, experts: names of their tensors.
  """

  architecture: str
  ffn: str
  qk_norm: str
  defaults: Mapping[str, Any]
  expert_dim: str = ""
  num_experts: str = ""
  router: str = ""
  experts: Mapping[str, str] = {}

  def pieces(self, config: TransformerConfig) -> list[layout.Piece]:
    """Where its files have the parameters of `config`."""
    names = _ATTENTION | {"moe/router/w": self.router}
    return layout.linear_pieces(config, names, self.experts)


_MLP_EXPERTS = {
  "router": "mlp.gate.weight",
  "experts": _expert_names("mlp", "gate_proj", "up_proj", "down_proj"),
}
FAMILIES = {
  "llama": Family(
    "LlamaForCausalLM", "dense", "none", {"rope_theta": 1e4, "rms_norm_eps": 1e-6}
  ),
  "mixtral": Family(
    "MixtralForCausalLM",
    "smoe",
    "none",
    {"rope_theta": 1e6, "rms_norm_eps": 1e-5, "norm_topk_prob": True},
    "intermediate_size",
    "num_local_experts",
    "block_sparse_moe.gate.weight",
    _expert_names("block_sparse_moe", "w1", "w3", "w2"),
  ),
  "olmoe": Family(
    "OlmoeForCausalLM",
    "smoe",
    "whole",
    {"rope_theta": 1e4, "rms_norm_eps": 1e-5, "norm_topk_prob": False},
    "intermediate_size",
    "num_experts",
    **_MLP_EXPERTS,
  ),
  "qwen3_moe": Family(
    "Qwen3MoeForCausalLM",
    "smoe",
    "head",
    {"rope_theta": 1e4, "rms_norm_eps": 1e-6, "norm_topk_prob": False},
    "moe_intermediate_size",
    "num_experts",
    **_MLP_EXPERTS,
  ),
}
# Keys that change what a model computes in a way that ours cannot: what they must be.
_REFUSED = {
  "hidden_act": ("silu",),
  "attention_bias": (False, None),
  "mlp_bias": (False, None),
  "clip_qkv": (None,),
  "mlp_only_layers": ([], None),
  "partial_rotary_factor": (1, None),
  "quantization_config": (None,),
  "rope_scaling": (None,),
  "sliding_window": (None,),
}


def find_family(about: Mapping[str, Any]) -> Family:
  """The family of a config.json.

  Raises:
    ValueError: it is of none, or its model computes something that ours cannot.
  """
  kind = about.get("model_type")
  if not isinstance(kind, str) or kind not in FAMILIES:
    raise ValueError(
      f"model_type of config.json must be one of mhmoe, {', '.join(FAMILIES)}, "
      f"got model_type={kind!r}."
    )
  about = dict(about)
  if kind == "qwen3_moe" and not about.get("use_sliding_window"):
    about["sliding_window"] = None
  scaling = _table(about, "rope_scaling")
  if scaling.get("rope_type", scaling.get("type")) == "default":
    about["rope_scaling"] = None
  rope = _table(about, "rope_parameters")
  if rope.get("rope_type", "default") != "default":
    about["rope_scaling"] = rope
  about.setdefault("partial_rotary_factor", rope.get("partial_rotary_factor"))
  for key, allowed in {**_REFUSED, "hidden_act": ("silu", None)}.items():
    if about.get(key) not in allowed:
      raise ValueError(
        f"{key} of config.json must be {_words(allowed)}, nothing else can be "
        f"expressed here, got {key}={about[key]!r}."
      )
  return FAMILIES[kind]


def _table(about: Mapping[str, Any], key: str) -> Mapping[str, Any]:
  found = about.get(key) or {}
  if not isinstance(found, dict):
    raise ValueError(f"{key} of config.json must be an object, got {found!r}.")
  return found


def _words(allowed: tuple) -> str:
  return " or ".join("absent" if x is None else repr(x) for x in allowed)


def read_model(family: Family, about: Mapping[str, Any]) -> dict[str, Any]:
  """The keys of `config.model` that a config.json decides; "moe" is a table in it.

  Raises:
    ValueError: a key is missing, or not a number.
  """

  def number(*keys, default=None, kind=int):
    for key in keys:
      if about.get(key) is not None:
        return _number(key, about[key], kind)
    if default is None:
      raise ValueError(f"config.json must have {keys[0]}, got none.")
    return default

  rope = _table(about, "rope_parameters")
  theta = rope.get("rope_theta", about.get("rope_theta"))
  theta = family.defaults["rope_theta"] if theta is None else theta
  epsilon = family.defaults["rms_norm_eps"]
  heads = number("num_attention_heads")
  model = {
    "vocab_size": number("vocab_size"),
    "num_layers": number("num_hidden_layers"),
    "embed_dim": number("hidden_size"),
    "num_attention_heads": heads,
    "num_kv_heads": number("num_key_value_heads", default=heads),
    "head_dim": number("head_dim", default=0),
    "qk_norm": family.qk_norm,
    "ffn": family.ffn,
    "ffn_dim": number("intermediate_size"),
    "moe_every": number("decoder_sparse_step", default=1),
    "activation": "swiglu",
    "use_bias": False,
    "norm": "rmsnorm",
    "norm_epsilon": float(number("rms_norm_eps", default=epsilon, kind=float)),
    "sub_ln": False,
    "bitnet": False,
    "rope_theta": float(_number("rope_theta", theta, float)),
    "scale_embeddings": False,
    "tie_embeddings": bool(about.get("tie_word_embeddings", False)),
  }
  if family.ffn == "smoe":
    renormalize = about.get("norm_topk_prob", family.defaults["norm_topk_prob"])
    model["moe"] = {
      "num_heads": 1,
      "num_linear": 0,
      "activation": "swiglu",
      "use_bias": False,
      "sub_ln": False,
      "bitnet": False,
      "num_experts": number(family.num_experts, "num_local_experts", "num_experts"),
      "expert_dim": number(family.expert_dim),
      "top_k": number("num_experts_per_tok"),
      "router": "linear",
      "renormalize": bool(renormalize),
      "residual": False,
      "shared_dim": 0,
      "dispatch": "sorted",
    }
  return model


def _number(key: str, value: Any, kind: type) -> int | float:
  if isinstance(value, bool) or not isinstance(value, kind | int):
    raise ValueError(
      f"{key} of config.json must be of type {kind.__name__}, got {value!r}."
    )
  return value
