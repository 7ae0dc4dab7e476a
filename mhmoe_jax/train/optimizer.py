"""AdamW with clipping, warm-up and decay; weight decay on matrices only."""

import dataclasses

import jax
import optax

SCHEDULES = ("cosine", "linear", "constant")


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

  def __post_init__(self):
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
  """The optimizer of a run of `num_steps`."""
  return optax.chain(
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


def decay_mask(params):
  """True on weight matrices and embeddings, False on biases, norms and temperatures."""

  def is_matrix(path, _):
    return path[-1].key.startswith(("w_", "embed_", "unembed_"))

  return jax.tree_util.tree_map_with_path(is_matrix, params)
