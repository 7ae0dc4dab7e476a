import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import decay_mask, make_schedule


@pytest.mark.parametrize(
  ("schedule", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)]
)
def test_schedules_by_hand(config, schedule, middle):
  config.optimizer.schedule = schedule
  config.optimizer.learning_rate = 1.0
  config.optimizer.final_fraction = 0.1
  config.optimizer.warmup_steps = 4
  rate = make_schedule(resolve(config).optimizer, num_steps=24)
  np.testing.assert_allclose(
    [rate(i) for i in range(5)], [0.25, 0.5, 0.75, 1, 1], rtol=1e-6
  )
  np.testing.assert_allclose(rate(14), middle, rtol=1e-5)
  end = 1.0 if schedule == "constant" else 0.1
  np.testing.assert_allclose(rate(24), end, rtol=1e-5)


def test_no_warm_up_starts_at_the_peak(config):
  config.optimizer.warmup_steps = 0
  config.optimizer.learning_rate = 0.5
  rate = make_schedule(resolve(config).optimizer, num_steps=10)
  np.testing.assert_allclose(rate(0), 0.5)


def test_only_matrices_decay():
  names = ["w_in_EMF", "embed_VD", "unembed_VD", "b_in_EF", "norm_scale_EF", "scale_D"]
  mask = decay_mask({"layers": {name: jnp.zeros(1) for name in names}})
  assert {name for name, on in mask["layers"].items() if on} == set(names[:3])
