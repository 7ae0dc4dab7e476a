"""Exports a tiny random model of each family, with our logits of a few tokens.

PYTHONPATH=. python experiments/2611_interop/export.py runs/interop
python experiments/2611_interop/check.py runs/interop  # with torch, transformers
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from mhmoe_jax.checkpoints import restore
from mhmoe_jax.interop import exporting, runs
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve

SMOE = {"ffn": "smoe", "moe_every": 1}
MODELS = {
  "llama": {"ffn": "dense", "num_kv_heads": 2, "head_dim": 24},
  "mixtral": SMOE | {"num_kv_heads": 1, "norm_epsilon": 1e-5},
  "olmoe": SMOE | {"qk_norm": "whole"},
  "qwen3_moe": SMOE | {"qk_norm": "head", "moe_every": 2, "head_dim": 16},
}


def main(out: str) -> None:
  """Makes a run of each, exports it and computes its logits."""
  jax.config.update("jax_default_matmul_precision", "highest")
  for name, model in MODELS.items():
    config = base.get_config()
    config.model.activation = "swiglu"
    config.model.update(model)
    config.model.moe.renormalize = name != "olmoe"
    config.mesh.data = 1
    cfg = resolve(config)
    layout = jax.tree.map(lambda x: x.sharding, runs.lay_out(cfg)["params"])
    make = jax.jit(
      lambda model: init_params(model, jax.random.key(0)),
      static_argnums=0,
      out_shardings=layout,
    )
    folder = pathlib.Path(out) / name
    runs.start_run(config, str(folder / "run"), make(cfg.model))
    exporting.export_model(cfg, str(folder / "run"), str(folder / "exported"))
    _, params = restore.load_model(str(folder / "run"))
    tokens_BL = jax.random.randint(jax.random.key(1), (2, 32), 3, 259)
    positions_BL = jnp.broadcast_to(jnp.arange(32), (2, 32))
    inputs = tokens_BL, positions_BL, jnp.ones_like(tokens_BL)
    logits_BLV = jax.jit(Decoder(cfg.model).apply)({"params": params}, *inputs)[0]
    np.savez(folder / "ours.npz", tokens=tokens_BL, logits=logits_BLV)
    print(f"{name}: wrote {folder}")


if __name__ == "__main__":
  main(*sys.argv[1:])
