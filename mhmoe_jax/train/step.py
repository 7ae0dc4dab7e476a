"""One training step: gradients of the parts of a batch, their sum, one update."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.moe import routing
from mhmoe_jax.train.objective import Batch, ObjectiveConfig, lm_loss
from mhmoe_jax.train.state import State


def make_train_step(
  model_config: TransformerConfig,
  objective: ObjectiveConfig,
  optimizer: optax.GradientTransformation,
  accumulate_steps: int,
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
  """The step as a pure function, to be jitted with the state donated.

  Args:
    model_config: of the decoder.
    objective: weights of the auxiliary losses.
    optimizer: of the run.
    accumulate_steps: parts of a batch, computed one after the other to save memory.
      Auxiliary losses are means over the parts.
  """
  model = Decoder(model_config, deterministic=False)
  # The auxiliary losses of the parts are added up like their cross-entropies.
  objective = ObjectiveConfig(
    balance_weight=objective.balance_weight / accumulate_steps,
    router_z_weight=objective.router_z_weight / accumulate_steps,
  )

  def gradients(params, batch, key, num_targets):
    grad = jax.value_and_grad(lm_loss, argnums=2, has_aux=True)
    (_, metrics), grads = grad(objective, model, params, batch, key, num_targets)
    return grads, metrics

  def train_step(state: State, batch: Batch):
    num_targets = jnp.maximum(batch["weights"].sum(), 1.0)
    key = jax.random.fold_in(jax.random.wrap_key_data(state["rng"]), state["step"])
    if accumulate_steps == 1:
      grads, metrics = gradients(state["params"], batch, key, num_targets)
    else:
      grads, metrics = accumulate(state["params"], batch, key, num_targets)
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    metrics["grad_norm"] = optax.tree.norm(grads)
    params = optax.apply_updates(state["params"], updates)
    new_state = {
      "step": state["step"] + 1,
      "params": keep_router_norm(model_config, params),
      "opt_state": opt_state,
      "rng": state["rng"],
    }
    return new_state, metrics

  def accumulate(params, batch, key, num_targets):
    n = accumulate_steps
    # Every n-th example, so that each part is spread over the devices like the whole.
    parts = jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
      batch, key = part
      grads, metrics = gradients(params, batch, key, num_targets)
      # "loss" is already a share of the whole, and so are its gradients; auxiliary
      # values are means of a part.
      return jax.tree.map(jnp.add, total, (grads, metrics)), None

    keys = jax.random.split(key, n)
    first = jax.tree.map(lambda x: x[0], (parts, keys))
    shapes = jax.eval_shape(gradients, params, *first, num_targets)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (grads, metrics), _ = jax.lax.scan(add, zeros, (parts, keys))
    return grads, {k: v if k == "loss" else v / n for k, v in metrics.items()}

  return train_step


def keep_router_norm(config: TransformerConfig, params):
  """Undoes what an update did to the length of the projected router's embeddings."""
  moe = config.layer
  if config.ffn == "dense" or moe.router != "projected" or not moe.router_norm:
    return params

  def keep(path, x):
    is_embedding = path[-1].key == "embed_ER"
    return routing.rescale(x, moe.router_norm) if is_embedding else x

  return jax.tree_util.tree_map_with_path(keep, params)
