"""A trained model is what its checkpoint has; another one is built to be compared."""

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.tasks.language import Language, init_params
from mhmoe_jax.train.config import resolve
from tests.train.small import small_config


@pytest.fixture
def config(tmp_path):
  return small_config(tmp_path)


@pytest.fixture
def params(tmp_path, config):
  params = init_params(resolve(config).model, jax.random.key(0))
  checkpoints = Checkpoints(tmp_path, 1)
  checkpoints.save(1, {"params": params}, {0: b""}, config.to_dict())
  checkpoints.close()
  return params


def test_nothing_is_traced_for_what_the_checkpoint_knows(
  tmp_path, config, params, monkeypatch
):
  monkeypatch.setattr(Language, "init", None)
  for given in (None, ConfigDict(saved.load_config(tmp_path))):
    cfg, found = restore.load_model(str(tmp_path), given)
    assert cfg == resolve(config)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_an_older_step_of_it(tmp_path, config, params):
  checkpoints = Checkpoints(tmp_path, 2)
  newer = {"params": jax.tree.map(lambda x: x + 1, params)}
  before, config.train.log_every = config.train.log_every, 7
  checkpoints.save(2, newer, {0: b""}, config.to_dict())
  checkpoints.close()
  for step, log_every, wanted in (
    (1, before, params),
    (2, 7, newer["params"]),
    (None, 7, newer["params"]),
  ):
    cfg, found = restore.load_model(str(tmp_path), step=step)
    assert cfg.train.log_every == log_every
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_another_model_is_refused(tmp_path, config, params):
  config.model.moe.expert_dim = 12
  with pytest.raises(ValueError, match="is of another model"):
    restore.load_model(str(tmp_path), config)


def test_onto_a_mesh_as_in_training(tmp_path, config, params):
  mesh = sharding.make_mesh(data=2, expert=4)
  config.mesh.fsdp = True
  _, found = restore.load_model(str(tmp_path), config, mesh=mesh)
  jax.tree.map(np.testing.assert_array_equal, found, params)
  layouts = sharding.tree_shardings(params, mesh, sharding.FSDP)
  assert jax.tree.map(lambda x: x.sharding, found) == layouts
  axes = {axis for x in jax.tree.leaves(layouts) for axis in x.spec}
  assert {"expert", "data"} <= axes
