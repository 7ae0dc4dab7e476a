"""The training state: `{"step", "params", "opt_state", "rng"}`, plain arrays in a dict.

Of a task that has some, "fixed" arrays are among them, which no step changes.
Its layout over the mesh follows from the parameters' names (`sharding.tree_shardings`);
initialised on any mesh, it has the same values.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from mhmoe_jax.sharding import AxisRules, copies, tree_shardings
from mhmoe_jax.tasks.task import Params, Task

State = dict


def make_state(task: Task, optimizer: optax.GradientTransformation, seed: int) -> State:
  """The state before the first step, without "fixed"; for `jax.jit`."""
  params_key, _ = _keys(seed)
  return fresh_state(task.init(params_key), optimizer, seed)


def fresh_state(
  params: Params, optimizer: optax.GradientTransformation, seed: int
) -> State:
  """The state before the first step from given parameters, without "fixed"."""
  _, key = _keys(seed)
  return {
    "step": jnp.zeros((), jnp.int32),
    "params": params,
    "opt_state": optimizer.init(params),
    "rng": jax.random.key_data(key),
  }


def _keys(seed: int) -> tuple[jax.Array, jax.Array]:
  """Of the parameters, and of training."""
  params_key, key = jax.random.split(jax.random.key(seed))
  return params_key, key


def abstract_state(
  task: Task,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  rules: AxisRules,
) -> State:
  """Shapes, dtypes and shardings of the state, without any array."""
  shapes = jax.eval_shape(lambda: make_state(task, optimizer, 0))
  layouts = tree_shardings(shapes, mesh, rules)
  if fixed := task.fixed_shapes():
    shapes["fixed"] = fixed
    layouts["fixed"] = jax.tree.map(lambda _: copies(mesh), fixed)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layouts
  )


def init_state(
  task: Task,
  optimizer: optax.GradientTransformation,
  seed: int,
  abstract: State,
  workdir: str,
) -> State:
  """The state before the first step, laid out as `abstract` says.

  What is fixed is read from where `task.prepare` left it, in `workdir` or elsewhere.
  """
  layout = jax.tree.map(lambda x: x.sharding, abstract)
  fixed_layout = layout.pop("fixed", {})
  make = jax.jit(lambda: make_state(task, optimizer, seed), out_shardings=layout)
  fixed = jax.tree.map(_put, task.make_fixed(workdir), fixed_layout)
  return make() | ({"fixed": fixed} if fixed else {})


def _put(x: np.ndarray, layout: jax.sharding.Sharding) -> jax.Array:
  """An array that every process has, on the mesh."""
  return jax.make_array_from_callback(x.shape, layout, lambda index: x[index])
