import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe.ffn import ExpertWeights, Formula, expert_ffn
from mhmoe_jax.moe.grouped import grouped_ffn
from mhmoe_jax.plan.compile import devices_of
from mhmoe_jax.sharding import vary_alike
from tests.moe.definition import (
  KINDS,
  SIZES,
  M,
  T,
  all_on_all,
  check,
  equations,
  make_weights,
)

# The kernel is interpreted, and slow: all kinds at one load, all loads with a norm.
CASES = [
  (backend, name, kind)
  for backend in ("blocks", "ragged", "batched", "fused")
  for name in SIZES
  for kind in KINDS
  if backend != "fused" or name == "uneven" or kind[2]
]


@pytest.mark.parametrize(("backend", "sizes", "kind"), CASES, ids=str)
def test_equals_the_definition(key, backend, sizes, kind):
  check(key, backend, make_weights(key, *kind), SIZES[sizes], T)


@pytest.mark.parametrize("backend", ["blocks", "ragged", "batched", "fused"])
def test_the_formula_travels_with_the_weights(key, backend):
  """To every backend, in both directions: GELU's tanh form, and another epsilon."""
  weights = make_weights(key, gated=False, bias=False, norm=True)
  formula = Formula(tanh=True, norm_epsilon=0.5)
  weights = weights._replace(formula=formula)
  check(key, backend, weights, SIZES["uneven"], T)


def lower_for_a_gpu(backend, E, T, F):
  """Both passes, as text."""

  def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)

  weights = ExpertWeights(array(E, M, F), array(E, F, M))
  rest = array(T, M), array(T), array(E, dtype=jnp.int32)

  def both(weights, x_TM, scale_T, sizes_E):
    def run(*inputs):
      return grouped_ffn(*inputs, sizes_E, backend)

    y_TM, vjp = jax.vjp(run, weights, x_TM, scale_T)
    return y_TM, vjp(y_TM)

  return (
    jax.jit(both).trace(weights, *rest).lower(lowering_platforms=("cuda",)).as_text()
  )


def multiply_adds(text):
  """Of all products, as if every loop turned once."""
  total = 0
  for line in text.splitlines():
    if "stablehlo.dot_general" in line:
      shapes = re.findall(r"tensor<([\dx]+)xf32>", line)
      lhs, _, out = ([int(n) for n in shape.split("x")] for shape in shapes)
      contracted = re.search(r"contracting_dims = \[(\d+)\]", line)[1]
      total += math.prod(out) * lhs[int(contracted)]
  return total


def loops_that_wait(text):
  """How many of all loops have a number of turns that is not in the program.

  On a GPU the host waits for the device before every turn of such a loop.
  """
  tests = re.findall(r" cond \{(.*?)\} do \{", text, flags=re.DOTALL)
  return sum("stablehlo.constant" not in test for test in tests), len(tests)


def test_a_gpu_gets_no_dense_product_and_no_loop_over_experts():
  E, T, F = 16, 1024, 12
  text = lower_for_a_gpu("auto", E, T, F)
  assert "ragged_dot" not in text  # which becomes a product of all rows and experts
  # Two products forward, five backward; 1.25 rows for one, and a turn for the rest.
  assert 1 < multiply_adds(text) / (7 * T * M * F) < 2.5
  # One in each pass, and one of a fixed length that adds up the gradients of its turn.
  assert loops_that_wait(text) == (2, 3)


def test_a_gpu_would_wait_for_the_host_at_every_block():
  """With the backend that a CPU gets, over experts and two sizes of blocks."""
  assert loops_that_wait(lower_for_a_gpu("blocks", 16, 1024, 12)) == (6, 6)


def test_bfloat16_accumulates_in_float32(key):
  """Every backend is closer to float32 than one rounding of each product would be."""
  weights = make_weights(key, gated=True, bias=False, norm=False)
  x_TM = jax.random.normal(key, (T, M))
  sizes_E = jnp.asarray(SIZES["uneven"], jnp.int32)
  expected = all_on_all(weights, x_TM, jnp.ones(T), sizes_E)
  low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (weights, x_TM))
  run = jax.jit(grouped_ffn, static_argnums=4)
  for backend in ("blocks", "ragged", "batched", "fused"):
    y_TM = run(*low, jnp.ones(T), sizes_E, backend)
    assert y_TM.dtype == jnp.bfloat16
    assert jnp.abs(y_TM - expected).max() < 0.03 * jnp.abs(expected).max()


@pytest.mark.parametrize("backend", ["blocks", "ragged", "batched"])
def test_gradients_of_bfloat16_are_added_up_in_float32(backend):
  """32 rows of 8 and 480 of 1/64 are 263.5: added one by one they would stay 256."""
  E, T = 16, 512
  half = functools.partial(jnp.ones, dtype=jnp.bfloat16)
  weights = ExpertWeights(half((E, 1, 1)), half((E, 1, 1)), b_out_EM=half((E, 1)))
  sizes_E = jnp.zeros(E, jnp.int32).at[0].set(T)
  dy_T1 = half((T, 1)).at[:32].set(8).at[32:].set(1 / 64)

  @jax.jit
  def gradient(weights):
    def run(weights):
      return grouped_ffn(weights, half((T, 1)), jnp.ones(T), sizes_E, backend)

    return jax.vjp(run, weights)[1](dy_T1)[0]

  found = gradient(weights)
  hidden = float(jax.nn.gelu(1.0, approximate=False))
  np.testing.assert_allclose(found.b_out_EM[0], 263.5, rtol=2**-8)
  np.testing.assert_allclose(found.w_out_EFM[0], 263.5 * hidden, rtol=2**-7)


def test_who_keeps_what_experts_return_does_not_run_them_again():
  """The kernel's backward pass under a norm wants it; those of others recompute it."""
  weights = make_weights(jax.random.key(0), gated=False, bias=True, norm=True)
  rows = jnp.ones((T, M)), jnp.ones(T), jnp.array(SIZES["uneven"])

  def kernels(policy):
    run = functools.partial(grouped_ffn, backend="fused")
    run = jax.checkpoint(run, policy=policy)
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: run(w, *rows).sum()))(weights).jaxpr
    # Each is there for a TPU, and interpreted.
    return len(list(equations(jaxpr, "pallas_call"))) // 2

  policies = jax.checkpoint_policies
  assert kernels(policies.nothing_saveable) == 3
  assert kernels(policies.save_only_these_names("experts")) == 2


def test_who_computes_is_the_kernel_or_ragged_dot_on_a_tpu():
  """By the size of the experts, in both directions; and under a mesh of others."""

  def lower(width, hidden, spread=False, backend="auto"):
    w = jax.ShapeDtypeStruct((2, width, hidden), jnp.bfloat16)
    weights = ExpertWeights(w, w.update(shape=(2, hidden, width)))
    x_TM = jax.ShapeDtypeStruct((64, width), jnp.bfloat16)

    def gradient(weights, x_TM):
      def loss(weights):
        rest = x_TM, jnp.ones(64), jnp.array([40, 24])
        return grouped_ffn(*vary_alike((weights, *rest)), backend).sum()

      return jax.grad(loss)(weights)

    if spread:
      mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
      spec = jax.sharding.PartitionSpec
      gradient = jax.shard_map(
        gradient, mesh=mesh, in_specs=(spec(), spec("x")), out_specs=spec()
      )
      x_TM = x_TM.update(shape=(512, width))
    with jax.default_matmul_precision("default"):
      traced = jax.jit(gradient).trace(weights, x_TM)
      text = traced.lower(lowering_platforms=("tpu",)).as_text()
    return text.count("@tpu_custom_call"), text.count("ragged_dot") > 1

  assert lower(192, 768) == (1, False)
  assert lower(4096, 14336) == (0, True)
  assert lower(192, 768, spread=True) == (0, True)
  assert lower(192, 768, backend="ragged") == (0, True)


def test_work_does_not_grow_with_the_number_of_experts(key):
  """The loop runs as many blocks as the rows need, plus at most one per expert."""
  sizes_E = jnp.zeros(64, jnp.int32).at[7].set(512)
  weights = ExpertWeights(jnp.ones((64, M, 12)), jnp.ones((64, 12, M)))
  rows = jnp.ones((512, M)), jnp.ones(512)
  text = jax.jit(grouped_ffn).lower(weights, *rows, sizes_E).as_text()
  assert "stablehlo.while" in text
  assert "64x512x" not in text  # no (experts x rows) array


def test_unknown_backend():
  weights = ExpertWeights(jnp.ones((1, M, 12)), jnp.ones((1, 12, M)))
  with pytest.raises(
    ValueError, match="backend must be one of auto, fused, ragged, batched, blocks, got"
  ):
    grouped_ffn(weights, jnp.ones((4, M)), jnp.ones(4), jnp.array([4]), backend="cuda")


def test_many_rows_of_an_expert_compile_for_a_tpu():
  """Of its own choice the compiler takes more of them at a time than VMEM holds."""
  T, M, F, E = 32_768, 768, 3_072, 8
  chip = jax.sharding.SingleDeviceSharding(devices_of("v5p:2x2x1", 1)[0])

  def argument(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=chip)

  half = functools.partial(argument, jnp.bfloat16)
  weights = ExpertWeights(half(E, M, F), half(E, F, M))
  rest = half(T, M), argument(jnp.float32, T), argument(jnp.int32, E)

  def step(weights, x_TM, scale_T, sizes_E):
    def loss(weights, x_TM):
      return grouped_ffn(weights, x_TM, scale_T, sizes_E, "ragged").sum()

    return jax.grad(loss, (0, 1))(weights, x_TM)

  with jax.default_matmul_precision("default"):
    jax.jit(step).lower(weights, *rest).compile()


@pytest.mark.parametrize("backend", ["blocks", "ragged", "batched", "fused"])
def test_value_and_gradient_are_those_of_numpy(backend):
  """SwiGLU written out in float64, and its central differences."""
  draw = np.random.default_rng(0)
  sizes, width, hidden = [2, 0, 3], 3, 4
  expert_T = np.array([0, 0, 2, 2, 2])
  inputs = {
    "w_in": draw.normal(size=(3, width, hidden)),
    "w_out": draw.normal(size=(3, hidden, width)),
    "w_gate": draw.normal(size=(3, width, hidden)),
    "b_in": draw.normal(size=(3, hidden)),
    "b_out": draw.normal(size=(3, width)),
    "x": draw.normal(size=(5, width)),
    "scale": draw.uniform(size=5),
  }
  dy_TM = draw.normal(size=(5, width))

  def formula(w_in, w_out, w_gate, b_in, b_out, x, scale):
    y_TM = np.zeros((5, width))
    for t, e in enumerate(expert_T):
      gate = x[t] @ w_gate[e]
      h = gate / (1 + np.exp(-gate)) * (x[t] @ w_in[e] + b_in[e])
      y_TM[t] = scale[t] * (h @ w_out[e] + b_out[e])
    return y_TM

  def ours(w_in, w_out, w_gate, b_in, b_out, x, scale):
    weights = ExpertWeights(w_in, w_out, w_gate, b_in, b_out)
    return grouped_ffn(weights, x, scale, jnp.array(sizes), backend)

  single = {name: jnp.asarray(a, jnp.float32) for name, a in inputs.items()}
  y_TM, vjp = jax.vjp(lambda inputs: ours(**inputs), single)
  np.testing.assert_allclose(y_TM, formula(**inputs), rtol=1e-5, atol=1e-6)
  (gradients,) = vjp(jnp.asarray(dy_TM, jnp.float32))
  for name, a in inputs.items():
    direction, step = draw.normal(size=a.shape), 1e-6
    up, down = (
      (formula(**inputs | {name: a + sign * step * direction}) * dy_TM).sum()
      for sign in (1, -1)
    )
    slope = (np.asarray(gradients[name], np.float64) * direction).sum()
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("backend", ["blocks", "ragged", "batched", "fused"])
def test_a_row_that_would_overflow_in_another_expert_spoils_nothing(backend):
  """One row each, beside one another; the second expert's weights are small."""
  gain_E11 = jnp.array([1.0, 1e-3], jnp.float16)[:, None, None]
  ones = jnp.ones((2, 128, 128), jnp.float16) / 32 * gain_E11
  weights = ExpertWeights(ones, ones, w_gate_EMF=ones)
  x_TM = jnp.array([[0.1], [6e3]], jnp.float16) * jnp.ones((2, 128), jnp.float16)

  def run(weights):
    y_TM = grouped_ffn(weights, x_TM, jnp.ones(2), jnp.array([1, 1]), backend)
    return y_TM.astype(jnp.float32).sum()

  alone = jax.jit(expert_ffn)(jax.tree.map(lambda w: w[0], weights), x_TM)
  assert np.isfinite(alone[0]).all()
  assert not np.isfinite(alone[1]).any()
  value, gradients = jax.jit(jax.value_and_grad(run))(weights)
  assert np.isfinite(value)
  jax.tree.map(lambda d: np.testing.assert_array_equal(np.isfinite(d), True), gradients)
