"""Which of Hugging Face's decoders computes exactly what a model of ours does.

No list of conditions says so. The config that would be written is read back, and every
setting that decides what is computed must come out as it went in.
"""

import dataclasses
from typing import Any

from mhmoe_jax.interop import families, layout
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.moe.config import DROPLESS

# What a model computes does not depend on these: they are of training or of machines,
# or say again what is said otherwise, or `export_pieces` sees to them.
_FREE = {"dropout", "moe_dropout", "init", "dtype", "remat", "scan_unroll", "moe"}
_FREE |= {"num_attention_heads", "num_kv_heads", "head_dim"}
_FREE |= {"tie_embeddings", "scale_embeddings"}
_FREE_MOE = {"expert_dropout", "init", "backend", "capacity_factor", "router_norm"}
_FREE_MOE |= {"eval_capacity_factor", "round_factor"}
_FREE_MOE |= {"router_dim", "router_temperature"}
_FREE_MOE |= {"linear_bias", "use_head_layer", "use_merge_layer"}  # without linear maps
# And not on the latter without the former.
_NEED = {"gate_bias": "use_bias", "ffn_norm": "sub_ln", "ffn_norm_epsilon": "sub_ln"}


def choose_family(config: TransformerConfig) -> str:
  """The model_type of the first family that computes exactly what `config` does.

  Raises:
    ValueError: naming what the one that comes nearest cannot express.
  """
  if config.ffn != "dense" and config.moe.num_experts == 1:
    raise ValueError(
      "Hugging Face's experts have a router, so num_experts must be at least 2, got "
      "num_experts=1."
    )
  ours, differing = _computes(config), {}
  for kind, family in families.FAMILIES.items():
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
      f"None of {', '.join(families.FAMILIES)} can express this model; {kind} comes "
      f"nearest and needs {needs}, got {found}."
    )
  return kind


def _computes(config: TransformerConfig) -> dict[str, Any]:
  """What decides the function that a model of Hugging Face's kinds computes."""
  found = _without(dataclasses.asdict(config), _FREE)
  found |= dict(
    zip(("heads", "kv_heads", "head_dim"), config.attention_shape, strict=True)
  )
  if config.ffn == "dense":
    return _without(found, {"moe_every"})
  moe = _without(dataclasses.asdict(config.layer), _FREE_MOE)
  if config.layer.dispatch in DROPLESS:
    moe["dispatch"] = "sorted"
  unused = {"ffn_dim"} if config.period == 1 else set()
  return _without(found, unused) | {f"moe.{name}": x for name, x in moe.items()}


def _without(table: dict[str, Any], free: set[str]) -> dict[str, Any]:
  free = free | {name for name, needs in _NEED.items() if not table.get(needs, True)}
  return {name: x for name, x in table.items() if name not in free}


def _read_back(config: TransformerConfig, kind: str) -> TransformerConfig:
  model = families.read_model(families.FAMILIES[kind], _write(config, kind, 1))
  moe = dataclasses.replace(config.moe, **model.pop("moe", {}))
  return dataclasses.replace(config, **model, moe=moe)


def export_pieces(config: TransformerConfig) -> list[layout.Piece]:
  """`Family.pieces` of a model of ours, whose embeddings may be scaled.

  sqrt(D) goes into the embeddings; if the output shares them, it gets its own.
  """
  family = families.FAMILIES[choose_family(config)]
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
  family, (A, J, Q) = families.FAMILIES[kind], config.attention_shape
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
