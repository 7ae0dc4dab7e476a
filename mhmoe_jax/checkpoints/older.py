"""Configs of runs that are older than some of today's keys, in today's words."""

from typing import Any

# Keys that runs may be older than, and what such runs did: of any task, of language.
_YOUNGER_OF_ALL = {
  "init": "",
  "optimizer": {"layer_decay": 1.0, "rates": {}},
  "model": {"moe": {"round_factor": 1.25}},
  "data": {"augment": {"randaugment": 0}, "pair_augment": {"randaugment": 0}},
}
# The heads of a task, which the key "head_rate" was of.
_HEADS = {
  "masked": ("image_head", "text_head"),
  "vqa": ("answer_head",),
  "nlvr": ("statement_head",),
  "captioning": ("text_head",),
}
_YOUNGER = {
  "data": {"prepared": ""},
  "train": {
    "image_every": 0,
    "harness_every": 0,
    "harness_tasks": "mhmoe_paper1",
    "harness_data": "",
    "harness_limit": 0,
  },
  "model": {
    "num_kv_heads": 0,
    "head_dim": 0,
    "qk_norm": "none",
    "scale_embeddings": True,
    "gate_bias": False,
    "ffn_norm": "layernorm",
    "ffn_norm_epsilon": 1e-5,
    "init": "flax",
    "moe": {
      "gate_bias": False,
      "linear_bias": False,
      "ffn_norm": "layernorm",
      "ffn_norm_epsilon": 1e-5,
      "init": "flax",
      "expert_dropout": 0.0,
      "router_norm": 0.0,
    },
  },
}


def in_todays_words(config: dict[str, Any]) -> dict[str, Any]:
  """A saved config that may be older than some of today's keys, with all of them."""
  config = {"task": "language"} | config
  if "head_rate" in config.get("optimizer", {}):
    config = config | {"optimizer": _before_rates(config["optimizer"], config["task"])}
  config = _supply(config, _YOUNGER_OF_ALL)
  remat = config.get("model", {}).get("remat")
  if isinstance(remat, bool):  # whether to compute blocks again
    config["model"]["remat"] = "blocks" if remat else "none"
  moe = config.get("model", {}).get("moe", {})
  if moe.get("dispatch") == "ragged":  # what it sent, "rounds" sends in pieces
    moe["dispatch"] = "rounds"
  if config["task"] != "language":
    return config
  if "norm_epsilon" not in config.get("model", {"norm_epsilon": None}):
    config = config | {"model": _before_norm_epsilon(config["model"])}
  return _supply(config, _YOUNGER)


def _before_rates(optimizer: dict[str, Any], task: str) -> dict[str, Any]:
  """The table `optimizer` of a run from before that key, in today's words."""
  others = {name: x for name, x in optimizer.items() if name != "head_rate"}
  rate = optimizer["head_rate"]
  heads = _HEADS.get(task, ()) if rate != 1 else ()
  return others | {"rates": dict.fromkeys(heads, rate)}


def _before_norm_epsilon(model: dict[str, Any]) -> dict[str, Any]:
  """The table `model` of a run from before that key, in today's words."""
  epsilons = {"rmsnorm": 1e-6, "layernorm": 1e-5}

  def renamed(table):
    # The tanh form was the only one, and called "gelu".
    tanh = table["activation"] == "gelu"
    return table | {"activation": "gelu_tanh" if tanh else table["activation"]}

  return renamed(model) | {
    "norm_epsilon": epsilons[model["norm"]],
    "moe_dropout": model["dropout"],
    "moe": renamed(model["moe"]),
  }


def _supply(table: dict[str, Any], younger: dict[str, Any]) -> dict[str, Any]:
  """`table` with the keys of `younger` that it lacks, but for tables with keys."""
  tables = {
    name: _supply(value, younger.get(name, {}))
    for name, value in table.items()
    if isinstance(value, dict)
  }
  keys = {name: x for name, x in younger.items() if not isinstance(x, dict) or not x}
  return keys | table | tables
