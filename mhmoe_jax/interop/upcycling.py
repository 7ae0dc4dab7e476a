"""A model with experts made of a trained one without (sparse upcycling, 2212.05055).

An SMoE gets the dense FFN as each of its experts, and a fresh router. With
`renormalize` the weights of a token's experts sum to 1, and since the experts are
alike, the new model computes what the old one did, to rounding, where its dispatch
drops nothing; without, its FFNs' outputs are smaller by the sum of the weights, until
training has mended that.

An MH-MoE cannot have copies: its experts see sub-tokens. The dense FFN becomes the
expert that every token uses, the others are fresh, and the last map of the merge layer
begins at zero: zero is added to what the old model computed, which stays the same to
the last bit. The first step's gradient moves the merge layer, the next the experts.
"""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from mhmoe_jax import sharding
from mhmoe_jax.checkpoints.saved import load_config, restore_params
from mhmoe_jax.interop import runs
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.moe.config import DROPLESS
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve

# Of a model, what an upcycled one may have of its own.
_OWN = {"ffn", "moe", "moe_every", "init", "dropout", "moe_dropout"}
_OWN |= {"dtype", "remat", "scan_unroll"}


def upcycle(workdir: str, config: ConfigDict, out: str) -> str:
  """Writes a run of `config` that goes on from the dense model of `workdir`.

  Args:
    workdir: of the dense run.
    config: of the new run, an SMoE or an MH-MoE.
    out: workdir of the new run, which must be new.

  Returns:
    What the new model computes, in words.

  Raises:
    ValueError: the two models do not fit each other.
  """
  cfg, dense = resolve(config), resolve(ConfigDict(load_config(workdir)))
  for run in (cfg, dense):
    run.need("language", "upcycling")
  _check(dense.model, cfg.model)
  if cfg.data.vocabulary != dense.data.vocabulary:
    raise ValueError(
      "data.vocabulary must be that of the dense run, got "
      f"{cfg.data.vocabulary!r} and {dense.data.vocabulary!r}."
    )
  runs.check_new(out)
  abstract = runs.lay_out(cfg)["params"]
  layout = jax.tree.map(lambda x: x.sharding, abstract)
  mesh = jax.tree.leaves(layout)[0].mesh
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  shapes = jax.eval_shape(lambda: init_params(dense.model, jax.random.key(0)))
  wanted = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    sharding.tree_shardings(shapes, mesh, rules),
  )
  make = jax.jit(
    lambda old: combine(old, init_params(cfg.model, _key(cfg.train.seed)), cfg.model),
    out_shardings=layout,
  )
  runs.start_run(config, out, make(restore_params(workdir, wanted)))
  return _promise(cfg.model)


def combine(dense: dict, fresh: dict, config: TransformerConfig) -> dict:
  """Parameters of `config`, from those of a dense model and fresh ones.

  Args:
    dense: of a model of one block to the period.
    fresh: of `config`, of which router, experts, head layer and merge layer stay.
    config: of the new model.
  """
  period = config.period
  old = dense["layers"]["block_0"]
  layers = {}
  for i in range(period):
    # Layer n is block n % period of period n // period.
    block = jax.tree.map(lambda x, i=i: x[i::period], old)
    if i == period - 1:
      new, ffn = fresh["layers"][f"block_{i}"]["moe"], block.pop("ffn")
      block["moe"] = _as_moe(ffn, new, config)
    layers[f"block_{i}"] = block
  return dense | {"layers": layers}


def _as_moe(ffn: dict, fresh: dict, config: TransformerConfig) -> dict:
  moe = config.layer
  if config.ffn == "smoe":
    names = {name.rpartition("_")[0]: name for name in ffn}
    experts = {
      name: jax.numpy.repeat(
        ffn[names[name.rpartition("_")[0]]][:, None], moe.num_experts, axis=1
      )
      for name in fresh["experts"]
    }
    return fresh | {"experts": experts}
  last = f"_{moe.num_linear - 1}_"
  merge = {k: x * 0 if last in k else x for k, x in fresh["merge"].items()}
  return fresh | {"merge": merge, "shared": ffn}


def _key(seed: int) -> jax.Array:
  return jax.random.split(jax.random.key(seed))[0]


def _promise(config: TransformerConfig) -> str:
  if config.ffn == "mhmoe":
    return "it computes what the dense model does, to the last bit"
  if config.layer.renormalize and config.layer.dispatch in DROPLESS:
    return "it computes what the dense model does, to rounding"
  if config.layer.renormalize:
    return "it computes what the dense model does for tokens that find a slot"
  return "its FFNs' outputs are the dense model's times a token's summed weights"


def _check(dense: TransformerConfig, config: TransformerConfig) -> None:
  moe = config.layer
  if dense.ffn != "dense" or config.ffn == "dense":
    raise ValueError(
      "upcycling makes an smoe or an mhmoe of a dense model, got "
      f"ffn={config.ffn!r} of ffn={dense.ffn!r}."
    )
  own = _OWN if config.period > 1 else _OWN | {"ffn_dim"}
  if config.attention_shape == dense.attention_shape:  # 0 stands for a default
    own = own | {"num_kv_heads", "head_dim"}
  for field in dataclasses.fields(config):
    ours, theirs = getattr(config, field.name), getattr(dense, field.name)
    if field.name not in own and ours != theirs:
      raise ValueError(
        f"{field.name} must be that of the dense model, got {field.name}={ours!r} and "
        f"{theirs!r}."
      )
  for field in dataclasses.fields(dense.style):
    if field.name != "init":
      _need(moe, field.name, getattr(dense, field.name), "is the dense model's")
  if config.ffn == "smoe":
    _need(moe, "expert_dim", dense.ffn_dim, "is the dense model's ffn_dim")
    _need(moe, "shared_dim", 0, "of an upcycled smoe")
    _need(moe, "residual", False, "of an upcycled smoe")
    return
  _need(moe, "shared_dim", dense.ffn_dim, "is the dense model's ffn_dim")
  _need(moe, "use_merge_layer", True, "begins at zero")
  if not moe.num_linear:
    raise ValueError("An upcycled mhmoe needs a merge layer, got num_linear=0.")


def _need(moe: Any, name: str, value: Any, why: str) -> None:
  if getattr(moe, name) != value:
    raise ValueError(
      f"moe.{name} must be {value!r}, which {why}, got {name}={getattr(moe, name)!r}."
    )
