"""What a model may say: text and its end, behind the prompt as it was typed."""

import dataclasses

import jax

from mhmoe_jax.evals import sampling
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve
from tests.train.small import small_config


def test_rows_without_a_token_are_never_said(tmp_path, monkeypatch):
  config = small_config(tmp_path)
  config.model.vocab_size = 3_000  # Eleven of twelve have no token.
  cfg = resolve(config)
  cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, ffn="dense"))
  params = init_params(cfg.model, jax.random.key(0))
  drawn, generate = [], sampling.generate

  def remember(*args, **options):
    drawn.append(generate(*args, **options))
    return drawn[-1]

  monkeypatch.setattr(sampling, "generate", remember)
  for temperature in (0.0, 5.0):
    texts = sampling.sample_texts(
      cfg, params, "the ", num_samples=9, seed=0, temperature=temperature
    )
    assert all(text.startswith("the ") for text in texts)
  assert [tokens_BT.shape for tokens_BT in drawn] == [(9, 11), (9, 11)]
  assert all((tokens_BT < 259).all() and (tokens_BT != 0).all() for tokens_BT in drawn)
