"""One expert against PyTorch: values and every gradient."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.moe.ffn import (
  ExpertWeights,
  Formula,
  expert_ffn,
  expert_ffn_float32,
  expert_ffn_gradients,
  gelu,
)
from tests.golden import golden

close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
FIELDS = {
  "w_in": "w_in_EMF",
  "w_out": "w_out_EFM",
  "b_in": "b_in_EF",
  "b_out": "b_out_EM",
  "scale": "norm_scale_EF",
  "bias": "norm_bias_EF",
  "w_gate": "w_gate_EMF",
  "b_gate": "b_gate_EF",
}
SHAPES = {"x": (3, 4), "w_in": (4, 6), "w_out": (6, 4), "b_in": (6,), "b_out": (4,)}
SHAPES |= {"scale": (6,), "bias": (6,), "w_gate": (4, 6), "b_gate": (6,)}
FFNS = {
  "ffn_gelu_layernorm": Formula(norm_epsilon=1e-2),
  "ffn_gelu_tanh_rmsnorm": Formula(tanh=True, norm_epsilon=1e-2),
  "ffn_swiglu_rmsnorm": Formula(norm_epsilon=1e-2),
}


def problem(name):
  """Weights and rows of a golden entry, and what PyTorch found."""
  found = golden.load(name)
  inputs = jax.tree.map(jnp.float32, golden.waves(2, **SHAPES))
  present = {FIELDS[k]: inputs[k] for k in FIELDS if f"d_{k}" in found}
  gradients = {FIELDS[k]: found[f"d_{k}"] for k in FIELDS if f"d_{k}" in found}
  weights = ExpertWeights(**present, formula=FFNS[name])
  cotangent = jnp.float32(golden.wave(0.3, 3, 4))
  return weights, inputs["x"], cotangent, found["y"], found["d_x"], gradients


def compare(weights: ExpertWeights, expected: dict):
  found = {k: v for k, v in weights._asdict().items() if k in expected}
  for name, value in found.items():
    close(value.reshape(expected[name].shape), expected[name], err_msg=name)
  assert found.keys() == expected.keys()


@pytest.mark.parametrize("name", FFNS)
def test_an_expert_equals_pytorch(name):
  weights, x_RM, cotangent_RM, y_RM, dx_RM, gradients = problem(name)
  found_RM, pull = jax.vjp(expert_ffn, weights, x_RM)
  close(found_RM, y_RM)
  close(expert_ffn_float32(weights, x_RM), y_RM)
  dweights, found_RM = pull(cotangent_RM)
  close(found_RM, dx_RM)
  compare(dweights, gradients)


@pytest.mark.parametrize("name", FFNS)
def test_gradients_written_down_equal_pytorch(name):
  """Of half the result; the scale's gradient is the result's product with dy."""
  weights, x_RM, cotangent_RM, y_RM, dx_RM, gradients = problem(name)
  half_R1 = jnp.full((3, 1), 0.5)
  dweights, found_RM, dscale_R1 = expert_ffn_gradients(
    weights, x_RM, half_R1, cotangent_RM
  )
  close(found_RM, 0.5 * dx_RM)
  compare(dweights, {k: 0.5 * g for k, g in gradients.items()})
  close(dscale_R1[:, 0], (y_RM * cotangent_RM).sum(axis=1))


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_equals_pytorch(name):
  expected, x = golden.load(name), jnp.linspace(-6, 6, 25)
  function = {"gelu": gelu, "gelu_tanh": jax.nn.gelu}[name]
  y, pull = jax.vjp(function, x)
  close(y, expected["y"])
  close(pull(jnp.float32(golden.wave(0.3, 25)))[0], expected["d_x"])


def test_gelu_is_the_normal_distribution_function_times_x():
  """In float32 to a few of its last bits where it is not nearly 0."""
  x = np.linspace(-3, 8, 45, dtype=np.float32)
  expected = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)]
  np.testing.assert_allclose(gelu(x), expected, rtol=3e-5, atol=1e-7)
  half = gelu(x.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0.02, atol=0.02)


def test_gelu_of_float64_is_exact():
  with jax.enable_x64(True):
    x = np.linspace(-5, 5, 11)
    expected = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x]
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, rtol=1e-12, atol=1e-15)


def test_an_expert_without_biases():
  weights = ExpertWeights(2 * jnp.eye(2), jnp.array([[1.0, 3.0], [0.0, 1.0]]))
  x_RM = jnp.array([[0.5, 1.0]])
  one, two = 0.8413447, 2 * 0.9772499  # of 1 and 2
  for function in (expert_ffn, expert_ffn_float32):
    close(function(weights, x_RM), [[one, 3 * one + two]])


def test_the_two_gelus_differ_where_they_should():
  weights = ExpertWeights(jnp.eye(1), jnp.eye(1))
  exact = expert_ffn(weights, jnp.full((1, 1), 2.0))
  rough = expert_ffn(
    weights._replace(formula=Formula(tanh=True)), jnp.full((1, 1), 2.0)
  )
  close(exact, 1.9544997)
  close(rough, 1.9545977)
