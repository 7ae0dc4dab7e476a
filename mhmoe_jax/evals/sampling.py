"""Text from a trained model."""

import logging

import jax
import jax.numpy as jnp

from mhmoe_jax.data.vocabularies import begin_id, find_drawable, make_vocabulary
from mhmoe_jax.models.decoding import generate
from mhmoe_jax.train.config import RunConfig

_log = logging.getLogger(__name__)


def sample_texts(
  cfg: RunConfig,
  params,
  prompt: str,
  *,
  num_samples: int,
  seed: int,
  num_tokens: int | None = None,
  **options,
) -> list[str]:
  """Continues `prompt`.

  Args:
    cfg: of the run that trained the model.
    params: its parameters.
    prompt: the text to continue.
    num_samples: how many continuations.
    seed: of the draws.
    num_tokens: how many tokens to add; None: as many as the model was trained to see.
    **options: temperature, top_k, top_p of `decoding.generate`.

  Returns:
    Prompts with their continuations, which end at the end of a document.
  """
  cfg.need("language", "sampling")
  vocabulary = make_vocabulary(cfg.data.vocabulary)
  start = [begin_id(cfg.data.vocabulary), *vocabulary.encode(prompt)]
  room = cfg.data.sequence_length - len(start)
  if num_tokens is None:
    num_tokens = max(room, 1)
  if num_tokens > room:
    _log.warning(
      "the model was trained on %d tokens at a time, this prompt and text are %d; "
      "what is past that may be poor",
      cfg.data.sequence_length,
      len(start) + num_tokens,
    )
  prompt_BL = jnp.tile(jnp.asarray(start, jnp.int32)[None], (num_samples, 1))
  tokens_BT = generate(
    cfg.model,
    params,
    prompt_BL,
    jax.random.key(seed),
    num_tokens=num_tokens,
    allowed_V=jnp.asarray(find_drawable(vocabulary, cfg.model.vocab_size)),
    **options,
  )
  texts = []
  for tokens in tokens_BT.tolist():
    if vocabulary.eos_id in tokens:
      tokens = tokens[: tokens.index(vocabulary.eos_id)]
    texts.append(prompt + vocabulary.decode(tokens, after=prompt))
  return texts
