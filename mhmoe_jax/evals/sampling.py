"""Text from a trained model."""

import jax
import jax.numpy as jnp

from mhmoe_jax.data.vocabularies import make_vocabulary
from mhmoe_jax.models.decoding import generate
from mhmoe_jax.train.config import RunConfig


def sample_texts(
  cfg: RunConfig, params, prompt: str, *, num_samples: int, seed: int, **options
) -> list[str]:
  """Continues `prompt`; `options` are those of `decoding.generate`.

  Returns:
    Prompts with their continuations, which end at the end of a document.
  """
  vocabulary = make_vocabulary(cfg.data.vocabulary)
  # Every training document begins with the padding token, 0.
  start = [0, *vocabulary.encode(prompt)]
  prompt_BL = jnp.tile(jnp.asarray(start, jnp.int32)[None], (num_samples, 1))
  tokens_BT = generate(cfg.model, params, prompt_BL, jax.random.key(seed), **options)
  texts = []
  for tokens in tokens_BT.tolist():
    if vocabulary.eos_id in tokens:
      tokens = tokens[: tokens.index(vocabulary.eos_id)]
    texts.append(prompt + vocabulary.decode(tokens))
  return texts
