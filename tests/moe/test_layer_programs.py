"""The layer inside programs that others wrote: their inputs, transforms and meshes."""

import dataclasses
import functools

from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe.config import DISPATCHES, DROPLESS, ROUTERS

B, L, D = 4, 3, 16
BASE = MoeConfig(num_heads=2, num_experts=4, expert_dim=8)
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def make(**changes):
  """A layer, its parameters and tokens."""
  layer = MultiHeadMoe(dataclasses.replace(BASE, **changes))
  x_BLD = jax.random.normal(jax.random.key(1), (B, L, D))
  return layer, jax.jit(layer.init)(jax.random.key(0), x_BLD), x_BLD


def value_and_gradient(layer, params, x_BLD, mask_BL=None):
  def loss(params, x_BLD):
    y_BLD, aux = layer.apply(params, x_BLD, mask_BL)
    loss = jnp.sin(y_BLD).sum() + aux.balance_loss + 0.1 * aux.router_z_loss
    return loss, (y_BLD, aux)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x_BLD)


# ---- inputs


@pytest.mark.parametrize(
  ("inputs", "message"),
  [
    (
      (jnp.ones((3, 16)),),
      "x_BLD must be an array of shape (B, L, D), got shape (3, 16) of float32.",
    ),
    (
      (jnp.ones((1, 4, 3, 16)),),
      "x_BLD must be an array of shape (B, L, D), got shape (1, 4, 3, 16) of float32.",
    ),
    (
      (jnp.ones((4, 3, 16), int),),
      "x_BLD must be floating-point, got shape (4, 3, 16) of int32.",
    ),
    (([[1.0]],), "x_BLD must be an array of shape (B, L, D), got a list."),
    (
      (jnp.ones((4, 0, 16)),),
      "x_BLD must have tokens and a width, got shape (4, 0, 16) of float32.",
    ),
    (
      (jnp.ones((4, 3, 0)),),
      "x_BLD must have tokens and a width, got shape (4, 3, 0) of float32.",
    ),
    (
      (jnp.ones((4, 3, 16)), jnp.ones((1, 3), bool)),
      "mask_BL must be bool of shape (4, 3), as x_BLD of shape (4, 3, 16) needs, "
      "got shape (1, 3) of bool.",
    ),
    (
      (jnp.ones((4, 3, 16)), np.ones((4, 1), bool)),
      "mask_BL must be bool of shape (4, 3), as x_BLD of shape (4, 3, 16) needs, "
      "got shape (4, 1) of bool.",
    ),
    (
      (jnp.ones((4, 3, 16)), jnp.ones((4, 3), int)),
      "mask_BL must be bool of shape (4, 3), as x_BLD of shape (4, 3, 16) needs, "
      "got shape (4, 3) of int32.",
    ),
    (
      (jnp.ones((4, 3, 16)), None, jnp.array(True)),
      "deterministic must be a Python bool (under nn.remat with static_argnums=(3,), "
      "by position), got a ArrayImpl.",
    ),
  ],
)
def test_inputs_that_do_not_fit(inputs, message):
  with pytest.raises(ValueError) as error:
    MultiHeadMoe(BASE).init(jax.random.key(0), *inputs)
  assert str(error.value) == message


@pytest.mark.parametrize(
  ("layer", "message"),
  [
    (MultiHeadMoe({"num_heads": 2}), "config must be a MoeConfig, got a FrozenDict."),
    (MultiHeadMoe(None), "config must be a MoeConfig, got a NoneType."),
    (MultiHeadMoe(BASE, jnp.int32), "dtype must be floating-point, got int32."),
  ],
)
def test_fields_that_do_not_fit(layer, message):
  with pytest.raises(ValueError) as error:
    layer.init(jax.random.key(0), jnp.ones((1, 2, 16)))
  assert str(error.value) == message


def test_dropout_without_its_key():
  config = dataclasses.replace(BASE, expert_dropout=0.5)
  layer, x_BLD = MultiHeadMoe(config), jnp.ones((1, 2, 16))
  params = layer.init(jax.random.key(0), x_BLD)
  with pytest.raises(ValueError, match=r"^expert_dropout needs apply\(.*rngs="):
    layer.apply(params, x_BLD, deterministic=False)


KINDS = {  # of what could hide a NaN: routers, and one expert, which has none
  **{router: {"router": router} for router in ROUTERS},
  "one expert": {"num_experts": 1, "top_k": 1, "use_head_layer": False},
}


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_nan_stays_in_its_token(dispatch, kind):
  """Also where slots are few, and its choices may be dropped."""
  layer, params, x_BLD = make(dispatch=dispatch, eval_capacity_factor=0.5, **kind)
  apply = jax.jit(layer.apply)
  y_BLD, _ = apply(params, x_BLD)
  for bad in (np.nan, np.inf):
    for place in ((1, 0, 3), (1, 2, 0)):
      z_BLD, aux = apply(params, x_BLD.at[place].set(bad))
      spoilt_BL = ~np.isfinite(z_BLD).all(axis=-1)
      assert np.argwhere(spoilt_BL).tolist() == [list(place[:2])]
      assert np.isnan(aux.balance_loss) or layer.config.num_experts == 1
      if dispatch in DROPLESS:
        np.testing.assert_array_equal(z_BLD[~spoilt_BL], y_BLD[~spoilt_BL])
        assert aux.stats.dropped_sender == 0
  mask_BL = jnp.ones((B, L), bool).at[1, 2].set(False)
  expected = apply(params, x_BLD, mask_BL)
  actual = apply(params, x_BLD.at[1, 2].set(np.nan), mask_BL)
  jax.tree.map(np.testing.assert_array_equal, actual[1], expected[1])
  np.testing.assert_array_equal(actual[0][mask_BL], expected[0][mask_BL])


# ---- transforms


def test_remat_with_dropping_training():
  """`deterministic` can be given by position, and so be static."""
  layer, params, x_BLD = make(
    dispatch="capacity", capacity_factor=0.5, eval_capacity_factor=9.0
  )
  remat = nn.remat(MultiHeadMoe, static_argnums=(3,))(layer.config)
  for deterministic in (True, False):
    y_BLD, aux = remat.apply(params, x_BLD, None, deterministic)
    close(y_BLD, layer.apply(params, x_BLD, deterministic=deterministic)[0])
    assert (aux.stats.dropped_sender > 0) == (not deterministic)

  def loss(module, params):
    return jnp.sin(module.apply(params, x_BLD, None, False)[0]).sum()

  jax.tree.map(
    close,
    jax.grad(functools.partial(loss, remat))(params),
    jax.grad(functools.partial(loss, layer))(params),
  )


@pytest.mark.parametrize("dispatch", ["sorted", "capacity"])
def test_vmap_is_a_loop(dispatch):
  layer, params, x_BLD = make(dispatch=dispatch, eval_capacity_factor=0.5)
  run = functools.partial(value_and_gradient, layer, params)
  one_by_one = [jax.jit(run)(x_LD[None]) for x_LD in x_BLD]
  expected = jax.tree.map(lambda *each: jnp.stack(each), *one_by_one)
  jax.tree.map(close, jax.jit(jax.vmap(run))(x_BLD[:, None]), expected)


def test_scan_over_layers_is_a_loop():
  layer, _, x_BLD = make()
  keys = jax.random.split(jax.random.key(3), 2)
  params = jax.vmap(layer.init, (0, None))(keys, x_BLD)

  @jax.jit
  @jax.grad
  def scanned(x_BLD):
    return jnp.sin(
      jax.lax.scan(lambda x, p: (x + layer.apply(p, x)[0], None), x_BLD, params)[0]
    ).sum()

  @jax.jit
  @jax.grad
  def looped(x_BLD):
    for i in range(2):
      x_BLD += layer.apply(jax.tree.map(lambda w, i=i: w[i], params), x_BLD)[0]
    return jnp.sin(x_BLD).sum()

  close(scanned(x_BLD), looped(x_BLD))


@pytest.mark.parametrize("router", ROUTERS)
def test_under_x64_it_is_the_same(router):
  layer, params, x_BLD = make(router=router, sub_ln=True, shared_dim=4)
  expected = jax.jit(functools.partial(value_and_gradient, layer))(params, x_BLD)
  with jax.enable_x64(True):
    again = jax.jit(layer.init)(jax.random.key(0), np.asarray(x_BLD, np.float64))
    actual = jax.jit(functools.partial(value_and_gradient, layer))(params, x_BLD)
  for ours, theirs in ((again, params), (actual, expected)):
    dtypes = [[a.dtype for a in jax.tree.leaves(tree)] for tree in (ours, theirs)]
    assert dtypes[0] == dtypes[1]
  jax.tree.map(close, actual, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("router", ROUTERS)
def test_parameters_of_another_type(dtype, router):
  """They are what they round to, and their gradients are of their own type."""
  with jax.enable_x64(dtype == "float64"):
    layer, params, x_BLD = make(router=router)
    cast = jax.tree.map(lambda w: w.astype(dtype), params)
    rounded = jax.tree.map(lambda w: w.astype(jnp.float32), cast)
    run = jax.jit(functools.partial(value_and_gradient, layer))
    (loss, (y_BLD, _)), (gradient, _) = run(cast, x_BLD)
    (expected_loss, (z_BLD, _)), (expected, _) = run(rounded, x_BLD)
  close(loss, expected_loss)
  close(y_BLD, z_BLD)
  # A gradient is rounded once.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-3),
    jax.tree.map(lambda d: np.asarray(d, np.float32), gradient),
    jax.tree.map(np.asarray, expected),
  )
  assert {str(d.dtype) for d in jax.tree.leaves(gradient)} == {dtype}


def test_nothing_inside_is_nan():
  layer, params, x_BLD = make(router="cosine")
  mask_BL = jnp.ones((B, L), bool).at[1].set(False)
  with jax.debug_nans(True):
    value_and_gradient(layer, params, 0 * x_BLD, mask_BL)


def test_donated_parameters():
  layer, params, x_BLD = make()

  def step(params, x_BLD):
    _, (gradient, _) = value_and_gradient(layer, params, x_BLD)
    return jax.tree.map(lambda w, d: w - 0.1 * d, params, gradient)

  expected = jax.jit(step)(params, x_BLD)
  actual = jax.jit(step, donate_argnums=0)(params, x_BLD)
  assert all(w.is_deleted() for w in jax.tree.leaves(params))
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_nnx_through_its_bridge():
  layer, _, x_BLD = make()
  model = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(x_BLD)

  @nnx.jit
  @nnx.value_and_grad(has_aux=True)
  def loss(model):
    y_BLD, aux = model(x_BLD, deterministic=False)
    return jnp.sin(y_BLD).sum() + aux.balance_loss, aux

  params = {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
  (value, aux), gradient = loss(model)
  y_BLD, expected_aux = layer.apply(params, x_BLD)
  close(value, jnp.sin(y_BLD).sum() + expected_aux.balance_loss)
  jax.tree.map(close, aux, expected_aux)
  assert len(jax.tree.leaves(gradient)) == len(jax.tree.leaves(params))


@pytest.mark.parametrize("dispatch", ["sorted", "capacity"])
def test_exported_and_read_again(dispatch):
  layer, params, x_BLD = make(dispatch=dispatch)
  apply = jax.jit(lambda params, x_BLD: layer.apply(params, x_BLD)[0])
  exported = jax.export.export(apply)(params, x_BLD)
  again = jax.export.deserialize(exported.serialize())
  np.testing.assert_array_equal(again.call(params, x_BLD), apply(params, x_BLD))


def test_exported_for_batches_of_any_size():
  shape = *jax.export.symbolic_shape("b"), L, D

  def export(dispatch):
    layer, params, x_BLD = make(dispatch=dispatch)
    apply = jax.jit(lambda params, x_BLD: layer.apply(params, x_BLD)[0])
    any_size = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.export.export(apply)(params, any_size).call, apply, params, x_BLD

  again, apply, params, x_BLD = export("capacity")
  for size in (1, B):
    close(again(params, x_BLD[:size]), apply(params, x_BLD[:size]))
  with pytest.raises(ValueError) as error:
    export("sorted")
  assert str(error.value) == (
    "dispatch must be 'capacity' or 'einsum' where a dimension has no fixed size, "
    "got 'sorted' or 'rounds' and 12*b rows."
  )


# ---- meshes

OURS = ("replica", "data", "expert", "model"), (1, 2, 2, 1)
FOREIGN = {
  "none of ours": (("batch", "seq"), (2, 2)),
  "some of ours": (("data", "tensor"), (2, 2)),
  "ours": OURS,
}


@functools.cache
def alone(dispatch):
  layer, params, x_BLD = make(dispatch=dispatch)
  return jax.jit(functools.partial(value_and_gradient, layer))(params, x_BLD)


@pytest.mark.parametrize(("names", "sizes"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("dispatch", ["sorted", "einsum"])
def test_in_a_mesh_that_others_made(dispatch, kind, names, sizes):
  """`jax.make_mesh` makes explicit axes unless it is told otherwise."""
  layer, params, x_BLD = make(dispatch=dispatch)
  mesh = jax.make_mesh(sizes, names, axis_types=(kind,) * len(names))
  batch = "data" if "data" in names else names[0]
  spec = P(batch, None, None if names == OURS[0] else names[1])
  with jax.set_mesh(mesh):
    x_BLD = jax.device_put(x_BLD, jax.NamedSharding(mesh, spec))
    actual = jax.jit(functools.partial(value_and_gradient, layer))(params, x_BLD)
    y_BLD = actual[0][1][0]
    again = jax.jit(layer.init)(jax.random.key(0), x_BLD)
  jax.tree.map(close, actual, alone(dispatch))
  jax.tree.map(np.testing.assert_array_equal, again, params)
  # Examples stay where they were.
  shard = y_BLD.sharding.shard_shape(y_BLD.shape)
  assert shard[0] == (B // 2 if kind == AxisType.Explicit or names != OURS[0] else 1)
  if kind == AxisType.Explicit:
    assert y_BLD.sharding.is_equivalent_to(x_BLD.sharding, 3)


def test_an_explicit_mesh_that_is_not_set():
  layer, params, x_BLD = make()
  mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
  params = jax.device_put(params, jax.NamedSharding(mesh, P()))
  x_BLD = jax.device_put(x_BLD, jax.NamedSharding(mesh, P("batch")))
  y_BLD, _ = jax.jit(layer.apply)(params, x_BLD)
  close(y_BLD, alone("sorted")[0][1][0])


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_inside_a_shard_map_of_others(dispatch, check):
  """Every device has examples of its own and all experts."""
  layer, params, x_BLD = make(dispatch=dispatch)
  names, sizes = OURS
  kinds = (AxisType.Auto,) * len(names)
  with jax.set_mesh(jax.make_mesh(sizes, names, axis_types=kinds)):

    @functools.partial(
      jax.shard_map, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=check
    )
    def apply(params, x_BLD):
      return layer.apply(params, x_BLD)[0]

    def loss(apply, params, x_BLD):
      return jnp.sin(apply(params, x_BLD)).sum()

    actual = jax.jit(jax.value_and_grad(functools.partial(loss, apply), (0, 1)))(
      params, x_BLD
    )
  plain = functools.partial(loss, lambda *inputs: layer.apply(*inputs)[0])
  expected = jax.jit(jax.value_and_grad(plain, (0, 1)))(params, x_BLD)
  jax.tree.map(close, actual, expected)


def test_a_batch_that_a_foreign_axis_does_not_divide():
  layer, params, x_BLD = make()
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  with jax.set_mesh(mesh):
    y_BLD, _ = jax.jit(layer.apply)(params, x_BLD[:1])
  close(y_BLD, alone("sorted")[0][1][0][:1])


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_what_padding_holds_reaches_no_gradient(dispatch):
  layer = MultiHeadMoe(MoeConfig(2, 4, 6, dispatch=dispatch, shared_dim=5))
  x_BLD = jnp.sin(jnp.arange(2.0 * 4 * 8)).reshape(2, 4, 8)
  mask_BL = jnp.ones((2, 4), bool).at[0, 3].set(False)
  params = layer.init(jax.random.key(0), x_BLD)

  @jax.jit
  def gradient(x_BLD):
    def loss(params, x_BLD):
      y_BLD, aux = layer.apply(params, x_BLD, mask_BL)
      return jnp.where(mask_BL[..., None], y_BLD, 0).sum() + aux.balance_loss

    return jax.grad(loss, argnums=(0, 1))(params, x_BLD)

  wanted = gradient(x_BLD.at[0, 3].set(0.0))
  for junk in (jnp.nan, jnp.inf, 3e38):
    found = gradient(x_BLD.at[0, 3].set(junk))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("backend", ["blocks", "batched"])
def test_computed_in_float64(backend):
  """As precise as float32 is: experts add up in that."""
  config = MoeConfig(2, 4, 6, backend=backend)
  x_BLD = jnp.sin(jnp.arange(2.0 * 4 * 8)).reshape(2, 4, 8)
  params = MultiHeadMoe(config).init(jax.random.key(0), x_BLD)

  def gradient(layer, params):
    return jax.grad(lambda params: layer.apply(params, x_BLD)[0].sum())(params)

  wanted = gradient(MultiHeadMoe(config), params)
  with jax.enable_x64(True):
    found = gradient(MultiHeadMoe(config, dtype=jnp.float64), params)
  jax.tree.map(close, found, wanted)
