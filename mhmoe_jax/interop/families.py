"""Configs of Hugging Face's decoders, read into ours and written from ours.

What of a config.json our decoder cannot compute is refused with a line that names it,
and so is what of ours none of these families can.
"""

from collections.abc import Mapping
import dataclasses
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
  if kind not in FAMILIES:
    raise ValueError(
      f"model_type of config.json must be one of mhmoe, {', '.join(FAMILIES)}, "
      f"got model_type={kind!r}."
    )
  about = dict(about)
  if kind == "qwen3_moe" and not about.get("use_sliding_window"):
    about["sliding_window"] = None
  scaling = about.get("rope_scaling") or {}
  if scaling.get("rope_type", scaling.get("type")) == "default":
    about["rope_scaling"] = None
  rope = about.get("rope_parameters") or {}
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


def _words(allowed: tuple) -> str:
  return " or ".join("absent" if x is None else repr(x) for x in allowed)


def read_model(family: Family, about: Mapping[str, Any]) -> dict[str, Any]:
  """The keys of `config.model` that a config.json decides; "moe" is a table in it.

  Raises:
    ValueError: a key is missing, or not a number.
  """

  def number(*keys, default=None):
    for key in keys:
      if about.get(key) is not None:
        value = about[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
          raise ValueError(f"{key} of config.json must be a number, got {value!r}.")
        return value
    if default is None:
      raise ValueError(f"config.json must have {keys[0]}, got none.")
    return default

  rope = about.get("rope_parameters") or {}
  theta = rope.get("rope_theta", about.get("rope_theta"))
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
    "norm_epsilon": float(
      number("rms_norm_eps", default=family.defaults["rms_norm_eps"])
    ),
    "sub_ln": False,
    "bitnet": False,
    "rope_theta": float(theta or family.defaults["rope_theta"]),
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


def choose_family(config: TransformerConfig) -> str:
  """The model_type of the first family that computes exactly what `config` does.

  Raises:
    ValueError: naming what the one that comes nearest cannot express.
  """
  ours, differing = _computes(config), {}
  for kind, family in FAMILIES.items():
    if (family.ffn == "dense") == (config.ffn == "dense"):
      theirs = _computes(_read_back(config, kind))
      common = ours.keys() & theirs.keys()  # Dense FFNs may be on one side only.
      differing[kind] = sorted(x for x in common if ours[x] != theirs[x])
  kind = min(differing, key=lambda kind: len(differing[kind]))
  if differing[kind]:
    theirs = _computes(_read_back(config, kind))
    needs = ", ".join(f"{name}={theirs[name]!r}" for name in differing[kind])
    found = ", ".join(f"{name}={ours[name]!r}" for name in differing[kind])
    raise ValueError(
      f"None of {', '.join(FAMILIES)} can express this model; {kind} comes nearest "
      f"and needs {needs}, got {found}."
    )
  return kind


# What a model computes does not depend on these: they are of training or of machines,
# or say again what is said otherwise, or `export_pieces` sees to them.
_FREE = {"dropout", "moe_dropout", "init", "dtype", "remat", "scan_unroll", "moe"}
_FREE |= {"num_attention_heads", "num_kv_heads", "head_dim"}
_FREE |= {"tie_embeddings", "scale_embeddings"}
_FREE_MOE = {"expert_dropout", "init", "backend", "capacity_factor", "router_norm"}
_FREE_MOE |= {"eval_capacity_factor", "router_dim", "router_temperature"}
_FREE_MOE |= {"linear_bias", "use_head_layer", "use_merge_layer"}  # without linear maps
# And not on the latter without the former.
_NEED = {"gate_bias": "use_bias", "ffn_norm": "sub_ln", "ffn_norm_epsilon": "sub_ln"}


def _computes(config: TransformerConfig) -> dict[str, Any]:
  """What decides the function that a model of Hugging Face's kinds computes."""
  found = _without(dataclasses.asdict(config), _FREE)
  found |= dict(
    zip(("heads", "kv_heads", "head_dim"), config.attention_shape, strict=True)
  )
  if config.ffn == "dense":
    return _without(found, {"moe_every"})
  moe = _without(dataclasses.asdict(config.layer), _FREE_MOE)
  if config.layer.dispatch == "ragged":
    moe["dispatch"] = "sorted"
  unused = {"ffn_dim"} if config.period == 1 else set()
  return _without(found, unused) | {f"moe.{name}": x for name, x in moe.items()}


def _without(table: dict[str, Any], free: set[str]) -> dict[str, Any]:
  free = free | {name for name, needs in _NEED.items() if not table.get(needs, True)}
  return {name: x for name, x in table.items() if name not in free}


def _read_back(config: TransformerConfig, kind: str) -> TransformerConfig:
  model = read_model(FAMILIES[kind], _write(config, kind, 1))
  moe = dataclasses.replace(config.moe, **model.pop("moe", {}))
  return dataclasses.replace(config, **model, moe=moe)


def export_pieces(config: TransformerConfig) -> list[layout.Piece]:
  """`Family.pieces` of a model of ours, whose embeddings may be scaled.

  sqrt(D) goes into the embeddings; if the output shares them, it gets its own.
  """
  family = FAMILIES[choose_family(config)]
  pieces = family.pieces(config)
  if not config.scale_embeddings:
    return pieces
  embedding, *rest = pieces
  if config.tie_embeddings:  # Beside each other, so that they are read once.
    rest.insert(0, embedding._replace(name="lm_head.weight"))
  return [embedding._replace(scale=config.embed_dim**0.5), *rest]


def write_model(config: TransformerConfig, length: int) -> dict[str, Any]:
  """The config.json of an exported model.

  Args:
    config: of the model.
    length: tokens of the sequences it was trained on.
  """
  return _write(config, choose_family(config), length)


def _write(config: TransformerConfig, kind: str, length: int) -> dict[str, Any]:
  family, (A, J, Q) = FAMILIES[kind], config.attention_shape
  about = {
    "architectures": [family.architecture],
    "model_type": kind,
    "vocab_size": config.vocab_size,
    "hidden_size": config.embed_dim,
    "intermediate_size": config.ffn_dim,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": A,
    "num_key_value_heads": J,
    "hidden_act": "silu",
    "max_position_embeddings": length,
    "rms_norm_eps": config.norm_epsilon,
    # Transformers before and since its version 5.
    "rope_theta": config.rope_theta,
    "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    "tie_word_embeddings": config.tie_embeddings and not config.scale_embeddings,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "float32",
  }
  if kind != "olmoe":
    about["head_dim"] = Q
  if family.ffn == "smoe":
    moe = config.layer
    about |= {
      family.expert_dim: moe.expert_dim,
      family.num_experts: moe.num_experts,
      "num_experts_per_tok": moe.top_k,
    }
    if kind != "mixtral":
      about["norm_topk_prob"] = moe.renormalize
  if kind == "qwen3_moe":
    about |= {"decoder_sparse_step": config.moe_every, "mlp_only_layers": []}
  return about
