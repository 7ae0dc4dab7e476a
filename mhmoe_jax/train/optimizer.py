"""AdamW with clipping, warm-up and decay; weight decay on matrices only.

In fine-tuning, lower blocks may learn more slowly than higher ones (BEiT, 2106.08254),
and a module that is new, such as a task's head, faster than what was pre-trained
(BEiT-3, its released code).
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax

SCHEDULES = ("cosine", "linear", "constant")
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_STACKS = ("layers", "moe_layers")  # of blocks, from the first to the last


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Configuration of the optimizer; configs/base.py says what each field is for."""

  learning_rate: float
  schedule: str
  warmup_steps: int
  final_fraction: float
  weight_decay: float
  b1: float
  b2: float
  eps: float
  clip_norm: float
  layer_decay: float
  rates: dict = dataclasses.field(hash=False)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is float and not math.isfinite(value):
        raise ValueError(f"{field.name} must be finite, got {field.name}={value}.")
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f"schedule must be one of {', '.join(SCHEDULES)}, "
        f"got schedule={self.schedule!r}."
      )
    for name in ("learning_rate", "eps", "clip_norm"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {name}={getattr(self, name)}.")
    for name in ("warmup_steps", "weight_decay", "final_fraction"):
      if getattr(self, name) < 0:
        raise ValueError(
          f"{name} must be at least 0, got {name}={getattr(self, name)}."
        )
    for name in ("b1", "b2"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {name}={getattr(self, name)}.")
    if not 0 < self.layer_decay <= 1:
      raise ValueError(
        f"layer_decay must be in (0, 1], got layer_decay={self.layer_decay}."
      )
    for name, rate in self.rates.items():
      if not isinstance(name, str):
        raise ValueError(f"rates must be of modules by name, got {name!r}.")
      if type(rate) not in (int, float) or not _SMALLEST <= rate <= _LARGEST:
        raise ValueError(
          f"rates must be positive numbers of float32, got rates.{name}={rate!r}."
        )


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Linear warm-up from 0, then the decay, reaching its end at `num_steps`."""
  peak, end = config.learning_rate, config.learning_rate * config.final_fraction
  decay_steps = max(num_steps - config.warmup_steps, 1)
  decay = {
    "cosine": optax.cosine_decay_schedule(peak, decay_steps, config.final_fraction),
    "linear": optax.linear_schedule(peak, end, decay_steps),
    "constant": optax.constant_schedule(peak),
  }[config.schedule]
  # The count is that of finished steps: the first step already has a rate above 0.
  warmup = optax.linear_schedule(
    peak / max(config.warmup_steps, 1), peak, config.warmup_steps - 1
  )
  return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(
  config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """The optimizer of a run of `num_steps`.

  Its state is that of clipping and AdamW, whatever the rates: they may change in a run.
  Its `init` raises ValueError for rates of modules that the parameters do not have.
  """
  adamw = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      make_schedule(config, num_steps),
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=decay_mask,
    ),
  )

  def init(params):
    _check_modules(params, config.rates)
    return adamw.init(params)

  def update(grads, state, params=None):
    updates, state = adamw.update(grads, state, params)
    if config.layer_decay < 1:
      updates = _slow(updates, config.layer_decay)
    if config.rates:
      updates = _hurry(updates, config.rates)
    return updates, state

  return optax.GradientTransformation(init, update)


def _check_modules(params: Any, rates: Mapping[str, float]) -> None:
  paths = [path[:-1] for path, _ in jax.tree.leaves_with_path(params)]
  modules = {key.key for path in paths for key in path}
  if unknown := sorted(rates.keys() - modules):
    raise ValueError(
      f"rates must be of modules of the model, {', '.join(sorted(modules))}, "
      f"got {unknown[0]!r}."
    )


def _slow(updates: Any, decay: float) -> Any:
  """The updates of lower blocks made smaller, weight decay included."""
  return jax.tree.map(
    lambda x, above: x * np.float32(decay) ** above, updates, layers_above(updates)
  )


def _hurry(updates: Any, rates: Mapping[str, float]) -> Any:
  """The updates of modules times their rates, weight decay included."""

  def hurry(path, x):
    return x * np.float32(math.prod(rates.get(key.key, 1) for key in path[:-1]))

  return jax.tree_util.tree_map_with_path(hurry, updates)


def layers_above(params: Any) -> Any:
  """How many layers are above each parameter, as BEiT counts them.

  0 of heads and the last norm, which are a layer themselves, 1 of the last of N blocks,
  N of the first and N + 1 of embeddings.

  Args:
    params: of a decoder, or of an encoder with its heads; or updates of them.

  Returns:
    A tree of float32, of stacked blocks (N, 1, ...), of other parameters scalars.
  """
  counts = {}  # (periods, blocks of a period) by stack
  for path, x in jax.tree.leaves_with_path(params):
    stack, block = _find_block(path)
    if stack:
      counts[stack] = len(x), max(block + 1, counts.get(stack, (0, 0))[1])
  ends = np.cumsum([np.prod(counts.get(stack, 0)) for stack in _STACKS])

  def count(path, x):
    stack, block = _find_block(path)
    if not stack:
      names = [key.key for key in path]
      is_embedding = "embed_VD" in names or {"picture", "text"} & set(names)
      return np.float32(ends[-1] + 1 if is_embedding else 0)
    periods, size = counts[stack]
    first = ends[_STACKS.index(stack)] - periods * size
    above_N = ends[-1] - (first + np.arange(periods) * size + block)
    return np.float32(above_N).reshape(-1, *[1] * (x.ndim - 1))

  return jax.tree_util.tree_map_with_path(count, params)


def _find_block(path: Any) -> tuple[str, int]:
  """The stack that a parameter is in, or "", and its block in the period."""
  names = [key.key for key in path]
  stack = next((name for name in names if name in _STACKS), "")
  if not stack:
    return "", 0
  return stack, int(names[names.index(stack) + 1].removeprefix("block_"))


def decay_mask(params):
  """True on weight matrices and embeddings, False on biases, norms and temperatures."""

  def is_matrix(path, _):
    return path[-1].key.startswith(("w_", "embed_", "unembed_"))

  return jax.tree_util.tree_map_with_path(is_matrix, params)
