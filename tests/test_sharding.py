"""One table decides every layout; mistakes are named; sharded equals unsharded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mhmoe_jax import AxisRules, MoeConfig, MultiHeadMoe, sharding

LAYOUTS = {  # sizes of the mesh axes, and whether parameters are split over `data`
  "data, expert": ({"data": 2, "expert": 4}, False),
  "data, expert, model, FSDP": ({"data": 2, "expert": 2, "model": 2}, True),
}


@pytest.mark.parametrize(("mesh", "fsdp"), LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dispatch", ["sorted", "einsum"])
def test_sharded_equals_unsharded(key, mesh, dispatch, fsdp):
  """The whole layer; `moe/test_transport.py` has every dispatch on every mesh."""
  config = MoeConfig(
    num_heads=2,
    num_experts=8,
    expert_dim=16,
    dispatch=dispatch,
    eval_capacity_factor=0.7,
  )
  layer = MultiHeadMoe(config)
  x_BLD = jax.random.normal(key, (8, 3, 16))
  mask_BL = jnp.arange(3)[None] < jnp.array([3, 2, 3, 1, 3, 3, 2, 3])[:, None]
  params = jax.jit(layer.init)(key, x_BLD)
  params = jax.tree.map(lambda w: w + 0.1 * jnp.sin(w.size * w + 1), params)

  @jax.jit
  def run(params, x_BLD):
    def loss(params, x_BLD):
      y_BLD, aux = layer.apply(params, x_BLD, mask_BL)
      return jnp.sin(y_BLD).sum() + aux.balance_loss, (y_BLD, aux)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x_BLD)

  expected = run(params, x_BLD)
  mesh = sharding.make_mesh(**mesh)
  rules = sharding.FSDP if fsdp else sharding.REPLICATED
  layout = sharding.tree_shardings(params, mesh, rules)
  with jax.set_mesh(mesh):
    placed = (
      jax.device_put(params, layout),
      sharding.place_batch(x_BLD, mesh, len(x_BLD)),
    )
    actual = run(*placed)
  # Sums over devices come in another order.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    actual,
    expected,
  )
  (_, (y_BLD, _)), (grads, _) = actual
  assert y_BLD.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 3)
  w_in = grads["params"]["experts"]["w_in_EMF"]
  assert w_in.sharding.shard_shape(w_in.shape)[0] == 8 // mesh.shape["expert"]


def test_letters_become_axes():
  rules = AxisRules(E="expert", F="model", D=("replica", "data"))
  assert rules.spec("EMF") == P("expert", None, "model")
  assert rules.spec("DP") == P(("replica", "data"), None)
  assert rules.spec("_F_") == P(None, "model", None)


@pytest.mark.parametrize(
  ("letters", "rules", "message"),
  [
    (
      "EXF",
      AxisRules(),
      "dimension letters must be among .*, got 'X' in 'EXF' of moe/w",
    ),
    (
      "EF",
      AxisRules(E="model", F="model"),
      r"a mesh axis may split one dimension only, got \('model', 'model'\) "
      "for 'EF' of moe/w",
    ),
    (
      "EF",
      AxisRules(E=("data", "experts"), F="model"),
      "mesh axes must be among replica, data, expert, model, got 'experts' "
      r"in \(\('data', 'experts'\), 'model'\) for 'EF' of moe/w",
    ),
  ],
)
def test_mistakes_in_rules(letters, rules, message):
  with pytest.raises(ValueError, match=message):
    rules.spec(letters, "moe/w")


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_keys_of_few_heads_stay_whole():
  """Two heads over `model` of two, one over none; nothing else may be left whole."""
  mesh = sharding.make_mesh(data=4, model=2)
  tree = {"w_k_DJQ": _shape(16, 1, 4), "w_v_DJQ": _shape(3, 16, 2, 4)}
  found = sharding.tree_shardings(tree, mesh, sharding.FSDP)
  assert found["w_k_DJQ"].spec == P("data", None, None)
  assert found["w_v_DJQ"].spec == P(None, "data", "model", None)
  with pytest.raises(ValueError, match="must divide dimension A of w_q_DAQ, got A=1"):
    sharding.tree_shardings({"w_q_DAQ": _shape(16, 1, 4)}, mesh, sharding.FSDP)
  with jax.set_mesh(mesh):
    for heads, split in ((1, None), (2, "model")):
      k_BLJQ = jax.jit(lambda x: sharding.constrain(x, "BLJQ"))(
        jnp.ones((4, 1, heads, 4))
      )
      expected = jax.NamedSharding(mesh, P(sharding.BATCH_AXES, None, split))
      assert k_BLJQ.sharding.is_equivalent_to(expected, 4)


def test_tree_shardings_follow_names_through_optimizer_states():
  mesh = sharding.make_mesh(data=2, expert=4)
  state = {
    "step": _shape(),
    "params": {
      "w_in_EMF": _shape(8, 4, 6),
      "layers": {
        "b_D": _shape(3, 16),
        "b_out_EM": _shape(3, 8, 4),
        "log_temperature": _shape(3),
      },
      "router": {"w_ME": _shape(4, 8)},
      "log_temperature": _shape(),
    },
    "opt_state": ({"w_in_EMF": _shape(8, 4, 6)}, {}),
    "rng": _shape(2),
  }
  layout = sharding.tree_shardings(state, mesh, sharding.FSDP)
  expert = NamedSharding(mesh, P("expert", "data", None))
  assert layout["params"]["w_in_EMF"] == layout["opt_state"][0]["w_in_EMF"]
  assert layout["params"]["w_in_EMF"].is_equivalent_to(expert, 3)
  assert layout["params"]["layers"]["b_D"].spec == P(None, None)
  assert layout["params"]["layers"]["b_out_EM"].spec == P(None, "expert", None)
  assert layout["params"]["router"]["w_ME"].spec == P("data", "expert")
  assert layout["rng"].spec == layout["step"].spec == P()
  # Scalars, of which a stack of layers has one each.
  assert layout["params"]["layers"]["log_temperature"].spec == P(None)
  assert layout["params"]["log_temperature"].spec == P()


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    (
      {"moe": {"w_in_EMF": _shape(6, 4, 4)}},
      "expert of the mesh must divide dimension E of moe/w_in_EMF, got E=6, expert=4.",
    ),
    (
      {"moe": {"w_in_EMF": _shape(6, 4)}},
      "a parameter's name must end in one letter per dimension, "
      "got moe/w_in_EMF with shape (6, 4).",
    ),
    (
      {"moe": {"kernel": _shape(6, 4)}},
      "a parameter's name must end in one letter per dimension, "
      "got moe/kernel with shape (6, 4).",
    ),
  ],
)
def test_parameters_that_do_not_fit_are_named(tree, message):
  mesh = sharding.make_mesh(data=2, expert=4)
  with pytest.raises(ValueError) as error:
    sharding.tree_shardings(tree, mesh, sharding.REPLICATED)
  assert str(error.value) == message


def test_mesh_sizes():
  assert dict(sharding.make_mesh(expert=2).shape) == {
    "replica": 1,
    "data": 4,
    "expert": 2,
    "model": 1,
  }
  assert sharding.make_mesh(data=1).size == 1
  with pytest.raises(ValueError) as error:
    sharding.make_mesh(data=4, expert=4)
  assert str(error.value) == (
    "the mesh must not be larger than the number of devices, "
    "got replica=1, data=4, expert=4, model=1 with 8 devices."
  )
  with pytest.raises(ValueError, match="mesh sizes must be at least 1"):
    sharding.make_mesh(expert=0)


@dataclasses.dataclass(frozen=True)
class DeviceOfASlice:
  """As much of a device as a mesh looks at."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "gpu"
  device_kind: str = "gpu"


def slices(*sizes):
  numbers = [i for i, size in enumerate(sizes) for _ in range(size)]
  return [DeviceOfASlice(*pair) for pair in enumerate(numbers)]


def test_only_replica_spans_slices():
  for replica in (2, 4):
    mesh = sharding.make_mesh(replica=replica, expert=2, devices=slices(4, 4))
    assert mesh.devices.shape == (replica, 4 // replica, 2, 1)
    for i, part in enumerate(mesh.devices):
      assert {d.slice_index for d in part.flat} == {2 * i // replica}
  # Interleaved devices are put in order.
  mesh = sharding.make_mesh(replica=2, devices=slices(4, 4)[::-2] + slices(4, 4)[::2])
  assert [d.slice_index for d in mesh.devices[0].flat] == [0] * 4
  # A mesh inside the first slice is like any other.
  assert sharding.make_mesh(data=2, expert=2, devices=slices(4, 4)).size == 4


@pytest.mark.parametrize(
  ("replica", "sizes", "numbers"),
  [
    (1, (4, 4), "replica=1, slices=2, devices from each=(4, 4)"),
    (3, (3, 3), "replica=3, slices=2, devices from each=(3, 3)"),
    (2, (4, 2), "replica=2, slices=2, devices from each=(4, 2)"),
  ],
)
def test_slices_that_do_not_fit(replica, sizes, numbers):
  with pytest.raises(ValueError) as error:
    sharding.make_mesh(replica=replica, devices=slices(*sizes))
  assert str(error.value) == (
    "replica must be a multiple of the number of slices, and the mesh must take as "
    f"many devices from each, got {numbers}."
  )


def test_batch_must_divide():
  mesh = sharding.make_mesh(data=2, expert=4)
  sharding.check_batch(16, mesh)
  with pytest.raises(ValueError) as error:
    sharding.check_batch(12, mesh)
  assert str(error.value) == (
    "replica * data * expert of the mesh must divide batch_size, "
    "got batch_size=12, replica=1, data=2, expert=4."
  )


def test_a_constraint_leaves_foreign_axes_what_they_split():
  mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
  x_BLD = jnp.ones((4, 3, 16))
  with jax.set_mesh(mesh):
    x_BLD = jax.device_put(x_BLD, NamedSharding(mesh, P("data", None, "tensor")))
    y_BLD = jax.jit(lambda x: sharding.constrain(2 * x, "BLD"))(x_BLD)
  assert y_BLD.sharding.is_equivalent_to(x_BLD.sharding, 3)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: sharding.make_mesh(expert=2.0),
      "mesh sizes must be of type int, got expert=2.0 of type float.",
    ),
    (
      lambda: sharding.make_mesh(model=True),
      "mesh sizes must be of type int, got model=True of type bool.",
    ),
    (
      lambda: AxisRules(E=3).spec("E"),
      "mesh axes must be among replica, data, expert, model, got 3 in (3,) for 'E' "
      "of array.",
    ),
  ],
)
def test_sizes_and_axes_of_another_type(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert str(error.value) == message
