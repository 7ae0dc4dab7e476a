"""Multi-Head Mixture-of-Experts (arXiv 2404.15045, 2411.16205) in JAX and Flax.

The layer needs jax and flax only: `from mhmoe_jax import MoeConfig, MultiHeadMoe`.

Arrays are named with one letter per dimension, `x_BLD` or `w_in_EMF`:

| letter | meaning |
|---|---|
| B, L, D, V | examples; tokens per example; model width; vocabulary |
| A, Q, J | attention heads; width of one; heads of keys and values |
| H, M | MoE heads; sub-token width, D = H * M |
| G, S | routing groups; sub-tokens per group |
| E, K, C | experts; experts per sub-token; slots per expert and group |
| F, N | hidden width of an expert or FFN; layers |
| P, R, T | width after a D -> D projection; router width; rows sorted by expert |

Names are imported when they are asked for, so that `mhmoe help` need not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # For editors, and for the test of who imports whom.
  from mhmoe_jax.moe.config import MoeConfig
  from mhmoe_jax.moe.heads import merge_heads, split_heads
  from mhmoe_jax.moe.layer import MoeAux, MultiHeadMoe
  from mhmoe_jax.moe.losses import balance_loss, router_z_loss
  from mhmoe_jax.moe.telemetry import RouterStats, active_share
  from mhmoe_jax.sharding import AxisRules, make_mesh

__all__ = [
  "AxisRules",
  "MoeAux",
  "MoeConfig",
  "MultiHeadMoe",
  "RouterStats",
  "active_share",
  "balance_loss",
  "make_mesh",
  "merge_heads",
  "router_z_loss",
  "split_heads",
]

_HOMES = {
  "moe.config": ("MoeConfig",),
  "moe.heads": ("merge_heads", "split_heads"),
  "moe.layer": ("MoeAux", "MultiHeadMoe"),
  "moe.losses": ("balance_loss", "router_z_loss"),
  "moe.telemetry": ("RouterStats", "active_share"),
  "sharding": ("AxisRules", "make_mesh"),
}


def __getattr__(name: str):
  for home, names in _HOMES.items():
    if name in names:
      return getattr(importlib.import_module(f"mhmoe_jax.{home}"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]
