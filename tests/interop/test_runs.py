"""A run that begins with given parameters trains as one that drew them."""

import jax
import numpy as np

from mhmoe_jax.interop import runs
from mhmoe_jax.train import loop
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import init_state
from tests.checkpoints.states import assert_same_bits
from tests.train.small import small_config


def test_the_first_steps_are_those_of_a_fresh_run(tmp_path):
  config = small_config(tmp_path)
  config.model.ffn = "dense"
  config.train.num_steps = 2
  cfg = resolve(config)
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = init_state(cfg.task, optimizer, cfg.train.seed, runs.lay_out(cfg), "")
  runs.start_run(config, str(tmp_path / "given"), state["params"])
  fresh = loop.train(config, str(tmp_path / "fresh"))
  given = loop.train(config, str(tmp_path / "given"))
  assert given.step == 2
  assert_same_bits(jax.device_get(given.params), jax.device_get(fresh.params))
  assert given.evaluation.loss == fresh.evaluation.loss
  changed = np.abs(given.params["embed_VD"] - state["params"]["embed_VD"]).max()
  assert changed > 1e-5
  with loop.Checkpoints(str(tmp_path / "given"), 2) as checkpoints:
    assert checkpoints.steps() == [0, 2]
