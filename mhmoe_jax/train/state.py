"""The training state: `{"step", "params", "opt_state", "rng"}`, plain arrays in a dict.

Its layout over the mesh follows from the parameters' names (`sharding.tree_shardings`);
initialised on any mesh, it has the same values.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.sharding import AxisRules, tree_shardings

State = dict


def init_params(config: TransformerConfig, key: jax.Array):
  """Freshly initialised parameters; to be called outside `jax.set_mesh`."""
  # One token is enough, since no parameter's shape depends on how many there are; but
  # one example cannot be split over a mesh.
  one_BL = jnp.ones((1, 1), jnp.int32)
  return Decoder(config).init(key, one_BL, one_BL * 0, one_BL)["params"]


def make_state(
  config: TransformerConfig, optimizer: optax.GradientTransformation, seed: int
) -> State:
  """The state before the first step; for `jax.jit` or `jax.eval_shape`."""
  params_key, _ = _keys(seed)
  return fresh_state(init_params(config, params_key), optimizer, seed)


def fresh_state(
  params: dict, optimizer: optax.GradientTransformation, seed: int
) -> State:
  """The state before the first step from given parameters."""
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
  config: TransformerConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  rules: AxisRules,
) -> State:
  """Shapes, dtypes and shardings of the state, without any array."""
  shapes = jax.eval_shape(lambda: make_state(config, optimizer, 0))
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    tree_shardings(shapes, mesh, rules),
  )


def init_state(
  config: TransformerConfig,
  optimizer: optax.GradientTransformation,
  seed: int,
  abstract: State,
) -> State:
  """The state before the first step, laid out as `abstract` says."""
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  make = jax.jit(lambda: make_state(config, optimizer, seed), out_shardings=shardings)
  return make()
