"""Checkpoints of a small state for the tests: as awkward as a real one."""

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

CONFIG = {
  **{"task": "language", "init": "", "mesh": {"data": 8}},
  "optimizer": {"betas": [0.9, 0.95], "layer_decay": 1.0, "rates": {}},
}


def make_mesh(data, expert):
  devices = jax.devices()[: data * expert]
  return jax.make_mesh(
    (data, expert), ("data", "expert"), (AxisType.Auto,) * 2, devices=devices
  )


def make_state(mesh, seed=0, hidden=16):
  """As awkward as a real one: a masked optimizer, scalars, bfloat16, odd floats."""
  rng = np.random.default_rng(seed)
  w_EMF = rng.standard_normal((4, 8, hidden)).astype(np.float32)
  w_EMF[0, 0, :4] = [-0.0, np.inf, np.nan, 1e-40]
  params = {"decoder": {"w_EMF": w_EMF, "scale_D": np.ones(8, jax.numpy.bfloat16)}}
  mask = {"decoder": {"w_EMF": True, "scale_D": False}}
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-3), mask)
  )
  state = {
    "step": np.int32(seed),
    "params": params,
    "opt_state": optimizer.init(params),
    "rng": np.asarray(jax.random.key_data(jax.random.key(seed))),
  }

  def place(x):
    x = np.asarray(x)
    spec = P("expert", None, "data") if x.ndim == 3 else P()
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(place, state)


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def assert_same_bits(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save_all(checkpoints, mesh, losses):
  """Saves a state for each step of `losses`, of which it can be told."""
  for step, loss in losses.items():
    data_states = {0: f"iterator at {step}".encode()}
    checkpoints.save(step, make_state(mesh, seed=step), data_states, CONFIG, loss)
  checkpoints.wait()


def directory(tmp_path, step):
  return tmp_path / "checkpoints" / str(step)


def array_file(step_directory):
  return max(step_directory.glob("state/**/d/*"), key=lambda f: f.stat().st_size)
