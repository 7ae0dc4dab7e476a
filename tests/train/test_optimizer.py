import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import (
  decay_mask,
  layers_above,
  make_optimizer,
  make_schedule,
)
from tests.golden import golden


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


def test_a_decay_of_one_step(config):
  config.optimizer.update({"learning_rate": 1.0, "warmup_steps": 4})
  config.optimizer.update({"schedule": "linear", "final_fraction": 0.5})
  rate = make_schedule(resolve(config).optimizer, num_steps=5)
  np.testing.assert_allclose([rate(4), rate(5)], [1, 0.5])


def test_moments_by_hand(config):
  """Gradients 1 and 0: moments b / (1 + b) of the first, freed of their bias."""
  config.optimizer.update({"learning_rate": 1.0, "warmup_steps": 0, "b1": 0.5})
  config.optimizer.update({"b2": 0.6, "eps": 1e-8, "weight_decay": 0.0})
  config.optimizer.update({"schedule": "constant", "clip_norm": 10.0})
  optimizer = make_optimizer(resolve(config).optimizer, num_steps=10)
  params = {"w_PQ": jnp.zeros((1, 1))}
  state, found = optimizer.init(params), []
  for gradient in (1.0, 0.0):
    updates, state = optimizer.update({"w_PQ": jnp.array([[gradient]])}, state, params)
    found.append(float(updates["w_PQ"][0, 0]))
  np.testing.assert_allclose(found, [-1, -(0.5 / 1.5) / (0.6 / 1.6) ** 0.5], rtol=1e-5)


def test_no_warm_up_starts_at_the_peak(config):
  config.optimizer.warmup_steps = 0
  config.optimizer.learning_rate = 0.5
  rate = make_schedule(resolve(config).optimizer, num_steps=10)
  np.testing.assert_allclose(rate(0), 0.5)


def test_only_matrices_decay():
  names = ["w_in_EMF", "embed_VD", "unembed_VD", "b_in_EF", "norm_scale_EF", "scale_D"]
  mask = decay_mask({"layers": {name: jnp.zeros(1) for name in names}})
  assert {name for name, on in mask["layers"].items() if on} == set(names[:3])


def test_lower_layers_learn_more_slowly(config):
  """A decoder of 4 blocks; an encoder of 1 dense block and 2 periods of 2."""
  decoder = {
    "embed_VD": jnp.ones((3, 2)),
    "layers": {
      "block_0": {"ffn": {"w_DF": jnp.ones((2, 2, 5))}},
      "block_1": {"attention_norm": {"scale_D": jnp.ones((2, 2))}},
    },
    "final_norm": {"scale_D": jnp.ones(2)},
  }
  above = layers_above(decoder)
  assert above["embed_VD"] == 5
  assert above["final_norm"]["scale_D"] == 0
  np.testing.assert_array_equal(
    above["layers"]["block_0"]["ffn"]["w_DF"], [[[4]], [[2]]]
  )
  np.testing.assert_array_equal(
    above["layers"]["block_1"]["attention_norm"]["scale_D"], [[3], [1]]
  )
  encoder = {
    "picture": {"cls_D": jnp.ones(2)},
    "text": {"position_LD": jnp.ones((4, 2))},
    "layers": {"block_0": {"b_D": jnp.ones((1, 2))}},
    "moe_layers": {f"block_{i}": {"b_D": jnp.ones((2, 2))} for i in range(2)},
    "text_final_norm": {"scale_D": jnp.ones(2)},
  }
  above = layers_above({"encoder": encoder, "answer_head": {"w_DV": jnp.ones((2, 9))}})
  assert above["encoder"]["picture"]["cls_D"] == 6
  assert above["encoder"]["text"]["position_LD"] == 6
  assert above["encoder"]["text_final_norm"]["scale_D"] == 0
  assert above["answer_head"]["w_DV"] == 0
  np.testing.assert_array_equal(above["encoder"]["layers"]["block_0"]["b_D"], [[5]])
  for i, wanted in enumerate(([[4], [2]], [[3], [1]])):
    np.testing.assert_array_equal(
      above["encoder"]["moe_layers"][f"block_{i}"]["b_D"], wanted
    )

  # The update is that of the same optimizer without, weight decay and all, times 0.5 to
  # that power.
  updates = {}
  for decay in (1.0, 0.5):
    config.optimizer.layer_decay = decay
    optimizer = make_optimizer(resolve(config).optimizer, num_steps=10)
    updates[decay] = optimizer.update(decoder, optimizer.init(decoder), decoder)[0]
  for x, y, n in zip(
    *map(jax.tree.leaves, (updates[1.0], updates[0.5], layers_above(decoder))),
    strict=True,
  ):
    np.testing.assert_array_equal(x * 0.5**n, y)


def test_modules_have_rates(config):
  """Their update, weight decay and all, is that without, times the rate."""
  params = {
    "encoder": {"layers": {"moe": {"head": {"w": jnp.ones((2, 5))}, "b": jnp.ones(5)}}},
    "answer_head": {"w_DV": jnp.ones((2, 9)), "b_V": jnp.ones(9)},
  }
  updates = {}
  for name, rates in (("all", {}), ("own", {"answer_head": 20.0, "head": 0.5})):
    config.optimizer.rates = rates
    optimizer = make_optimizer(resolve(config).optimizer, num_steps=10)
    updates[name] = optimizer.update(params, optimizer.init(params), params)[0]
  moe, own = (u["encoder"]["layers"]["moe"] for u in (updates["all"], updates["own"]))
  np.testing.assert_array_equal(moe["head"]["w"] * 0.5, own["head"]["w"])
  np.testing.assert_array_equal(moe["b"], own["b"])
  for x, y in zip(
    *(jax.tree.leaves(u["answer_head"]) for u in (updates["all"], updates["own"])),
    strict=True,
  ):
    np.testing.assert_allclose(x * 20, y, rtol=1e-6)


def test_rates_that_cannot_be(config):
  for rate in (0.0, True, "2", np.inf, np.nan, 1e39, 1e-50, 10**400):
    config.optimizer.rates = {"router": rate}
    rule = f"rates must be positive numbers of float32, got rates.router={rate!r}."
    with pytest.raises(ValueError) as error:
      resolve(config)
    assert str(error.value) == rule
  config.optimizer.rates = {1: 2.0}
  with pytest.raises(ValueError, match=r"^rates must be of modules by name, got 1\.$"):
    resolve(config)
  config.optimizer.rates = {"answer_head": 20.0}
  optimizer = make_optimizer(resolve(config).optimizer, num_steps=10)
  params = {"embed": {"w_VD": jnp.ones((3, 2))}}
  rule = r"rates must be of modules of the model, embed, got 'answer_head'\."
  with pytest.raises(ValueError, match=rule):
    optimizer.init(params)


def test_the_state_is_the_same_whatever_the_rates(config):
  """So that they may change in a run."""
  params = {"layers": {"block_0": {"moe": {"w_EMF": jnp.ones((3, 2, 4, 5))}}}}

  def structure(layer_decay, rates):
    config.optimizer.layer_decay, config.optimizer.rates = layer_decay, rates
    optimizer = make_optimizer(resolve(config).optimizer, num_steps=10)
    state = optimizer.init(params)
    updated = optimizer.update(params, state, params)[1]
    assert jax.tree.structure(updated) == jax.tree.structure(state)
    return jax.tree.structure(state)

  for others in ((0.5, {"moe": 2.0}), (1.0, {"moe": 1.0}), (0.5, {})):
    assert structure(*others) == structure(1.0, {})


def test_cosine_by_hand(config):
  """A quarter of the way down half a cosine, from 2 to 0.5."""
  config.optimizer.schedule = "cosine"
  config.optimizer.learning_rate = 2.0
  config.optimizer.final_fraction = 0.25
  config.optimizer.warmup_steps = 1
  rate = make_schedule(resolve(config).optimizer, num_steps=9)
  np.testing.assert_allclose(
    [rate(i) for i in (0, 1, 3, 5, 9, 20)],
    [2, 2, 0.5 + 1.5 * (1 + 0.5**0.5) / 2, 1.25, 0.5, 0.5],
    rtol=1e-6,
  )


def test_three_steps_equal_pytorch(config):
  """Clipped by the norm of all, warmed up, decayed on the matrix alone."""
  config.optimizer.update(
    {
      **{"learning_rate": 0.1, "warmup_steps": 2, "schedule": "constant"},
      **{"b1": 0.9, "b2": 0.98, "eps": 1e-2, "clip_norm": 0.8, "weight_decay": 0.1},
    }
  )
  optimizer = make_optimizer(resolve(config).optimizer, num_steps=10)
  start = golden.waves(6, w=(3, 4), b=(4,))
  params = {"w_PQ": jnp.float32(start["w"]), "b_Q": jnp.float32(start["b"])}
  state = optimizer.init(params)
  for step, size in enumerate((2.0, 1.0, 0.1)):
    gradients = {
      name: jnp.float32(size * golden.wave(7 + 2 * step + i, *params[name].shape))
      for i, name in enumerate(("w_PQ", "b_Q"))
    }
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  expected = golden.load("optimizer")
  np.testing.assert_allclose(params["w_PQ"], expected["w"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(params["b_Q"], expected["b"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"schedule": "sine"},
      "schedule must be one of cosine, linear, constant, got schedule='sine'.",
    ),
    ({"eps": 0.0}, "eps must be positive, got eps=0.0."),
    ({"clip_norm": -1.0}, "clip_norm must be positive, got clip_norm=-1.0."),
    ({"warmup_steps": -1}, "warmup_steps must be at least 0, got warmup_steps=-1."),
    ({"weight_decay": -0.5}, "weight_decay must be at least 0, got weight_decay=-0.5."),
    (
      {"final_fraction": -0.1},
      "final_fraction must be at least 0, got final_fraction=-0.1.",
    ),
    ({"layer_decay": 0.0}, "layer_decay must be in (0, 1], got layer_decay=0.0."),
    ({"learning_rate": np.inf}, "learning_rate must be finite, got learning_rate=inf."),
    ({"weight_decay": np.nan}, "weight_decay must be finite, got weight_decay=nan."),
    ({"b1": 1.0}, "b1 must be in [0, 1), got b1=1.0."),
    ({"b2": -0.1}, "b2 must be in [0, 1), got b2=-0.1."),
  ],
)
def test_impossible_values(config, changes, message):
  config.optimizer.update(changes)
  with pytest.raises(ValueError) as error:
    resolve(config)
  assert str(error.value) == message
