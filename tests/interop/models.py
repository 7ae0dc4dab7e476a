"""Models small enough to be written, exported and read back in a second."""

import jax

from configs import base
from mhmoe_jax.interop import runs
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve

MIXTRAL = {"ffn": "smoe", "moe_every": 1, "activation": "swiglu"}


def small_config(**model):
  """Four blocks of width 16; `moe` is a table of its own."""
  config = base.get_config()
  config.model.update({"embed_dim": 16, "num_attention_heads": 4, "ffn_dim": 24})
  config.model.moe.update({"num_experts": 4, "expert_dim": 12})
  config.model.moe.update(model.pop("moe", {}))
  config.model.update(model)
  config.data.sequence_length = 8
  config.train.batch_size = 8
  return config


def mixtral_config():
  return small_config(**MIXTRAL, moe={"renormalize": True})


def make_run(config, workdir):
  """A run with noise for parameters, biases and scales too; returns them."""
  cfg = resolve(config)
  layout = jax.tree.map(lambda x: x.sharding, runs.lay_out(cfg)["params"])

  def noise():
    params = init_params(cfg.model, jax.random.key(1))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [
      x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)

  params = jax.jit(noise, out_shardings=layout)()
  runs.start_run(config, str(workdir), params)
  return jax.device_get(params)
