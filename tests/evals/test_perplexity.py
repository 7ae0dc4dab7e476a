"""Perplexity and bits per byte of a file, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.evals.perplexity import evaluate_model
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve
from tests.train.small import small_config


def test_a_model_that_guesses(tmp_path):
  """Zero weights give every token 1 / V; two bytes of the text are one letter."""
  config = small_config(tmp_path)
  lines = ["grüße\n", "und so weiter\n"] * 20
  (tmp_path / "valid.txt").write_text("".join(lines))
  cfg = resolve(config)
  shapes = jax.eval_shape(lambda: init_params(cfg.model, jax.random.key(0)))
  params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
  found = evaluate_model(cfg, params)
  np.testing.assert_allclose(found.loss, math.log(264), rtol=1e-5)
  np.testing.assert_allclose(found.perplexity, 264, rtol=1e-4)
  num_bytes = sum(len(line.encode()) for line in lines)
  assert found.num_bytes == num_bytes
  np.testing.assert_allclose(
    found.bits_per_byte, math.log2(264) * found.num_tokens / num_bytes, rtol=1e-5
  )
