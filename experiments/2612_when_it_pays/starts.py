"""Other initial values than the papers' code has, for the rows "start=...".

Input variance 1, D = 192: the head layer leaves 0.5 of it, an expert's first matrix a
third, its GELU less, its second matrix a third of that.
"""

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.interop.runs import start_run
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import make_state

Change = Callable[[str, jax.Array], jax.Array]  # of a parameter with its path
GELU = 0.425  # mean square of gelu(x) for x of N(0, 1)


def _unit_variance(path: str, x: jax.Array) -> jax.Array:
  """Head layer, experts and merge layer return what has the variance of their input."""
  gains = {"['head']": 2, "w_in_EMF": 3, "w_out_EFM": 3 / GELU}
  return x * math.sqrt(math.prod(gain for key, gain in gains.items() if key in path))


def _magneto(path: str, x: jax.Array) -> jax.Array:
  """Experts' matrices times sqrt(ln 2L) of L = 4 layers (2210.06423, decoders)."""
  return x * math.sqrt(math.log(2 * 4)) if "['experts']" in path else x


def _identity_head(path: str, x: jax.Array) -> jax.Array:
  """Sub-tokens are slices of the token at the start."""
  return jnp.broadcast_to(jnp.eye(x.shape[-1]), x.shape) if "['head']" in path else x


def _zero_merge(path: str, x: jax.Array) -> jax.Array:
  """The layer adds nothing at the start."""
  return jnp.zeros_like(x) if "['merge']" in path else x


STARTS: dict[str, Change] = {
  "": lambda path, x: x,
  "unit_variance": _unit_variance,
  "magneto": _magneto,
  "identity_head": _identity_head,
  "zero_merge": _zero_merge,
}


def begin(config: ConfigDict, start: str, workdir: str) -> None:
  """Writes a new run's step 0: the initial values of its seed changed by `start`."""
  with Checkpoints(workdir, 1) as checkpoints:
    if checkpoints.steps():
      return
  cfg = resolve(config)
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  make = jax.jit(lambda: make_state(cfg.task, optimizer, cfg.train.seed)["params"])
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: STARTS[start](jax.tree_util.keystr(path), x), make()
  )
  start_run(config, workdir, params)
