"""One training step: gradients of the parts of a batch, their sum, one update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mhmoe_jax.moe import routing
from mhmoe_jax.tasks.task import Batch, Params, Task
from mhmoe_jax.train.state import State


def make_train_step(
  task: Task, optimizer: optax.GradientTransformation, accumulate_steps: int
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
  """The step as a pure function, to be jitted with the state donated.

  Args:
    task: what the model learns.
    optimizer: of the run.
    accumulate_steps: parts of a batch, computed one after the other to save memory.
      Auxiliary losses are means over the parts.
  """

  def gradients(params, fixed, batch, key, totals):
    def loss(params):
      found = task.loss(params, fixed, batch, key, totals)
      return found.share + found.mean / accumulate_steps, (found.shares, found.means)

    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return grads, metrics

  def train_step(state: State, batch: Batch):
    totals = task.totals(batch)
    key = jax.random.fold_in(jax.random.wrap_key_data(state["rng"]), state["step"])
    compute = gradients if accumulate_steps == 1 else accumulate
    fixed = state.get("fixed", {})
    grads, (shares, means) = compute(state["params"], fixed, batch, key, totals)
    metrics = shares | jax.tree.map(lambda x: x / accumulate_steps, means)
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    metrics["grad_norm"] = optax.tree.norm(grads)
    params = optax.apply_updates(state["params"], updates)
    new_state = {
      "step": state["step"] + 1,
      "params": keep_router_norm(task.model, params),
      "opt_state": opt_state,
    }
    return state | new_state, metrics

  def accumulate(params, fixed, batch, key, totals):
    n = accumulate_steps
    # Every n-th example, so that each part is spread over the devices like the whole.
    parts = jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
      batch, key = part
      found = gradients(params, fixed, batch, key, totals)
      return jax.tree.map(jnp.add, total, found), None

    keys = jax.random.split(key, n)
    first = jax.tree.map(lambda x: x[0], (parts, keys))
    shapes = jax.eval_shape(gradients, params, fixed, *first, totals)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, keys))[0]

  return train_step


def keep_router_norm(config: Any, params: Params) -> Params:
  """Undoes what an update did to the length of the projected router's embeddings."""
  moe = config.layer
  if config.ffn == "dense" or moe.router != "projected" or not moe.router_norm:
    return params

  def keep(path, x):
    is_embedding = path[-1].key == "embed_ER"
    return routing.rescale(x, moe.router_norm) if is_embedding else x

  return jax.tree_util.tree_map_with_path(keep, params)
