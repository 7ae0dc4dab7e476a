"""A small model of any vocabulary, and its numbers the slow way, token by token.

`Oracle` knows nothing of packing, batches, meshes or caches: it runs the decoder on one
sequence, with the definition of the MoE layer, once for each token.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiktoken

from configs import base
from mhmoe_jax import sharding
from mhmoe_jax.data.bpe import TiktokenVocabulary
from mhmoe_jax.evals import lm
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.language import init_params
from mhmoe_jax.train.config import resolve

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"
LENGTH = 24  # tokens that the model sees at once


def small_config(vocabulary="bytes", **model):
  config = base.get_config()
  config.model.update(
    {
      "vocab_size": 300,
      "num_layers": 2,
      "embed_dim": 16,
      "num_attention_heads": 2,
      "ffn_dim": 16,
      **model,
    }
  )
  config.model.moe.expert_dim = 8
  config.data.vocabulary = vocabulary
  config.data.sequence_length = LENGTH
  return resolve(config)


@functools.cache
def make_params(cfg_model):
  params = jax.jit(init_params, static_argnums=0)(cfg_model, jax.random.key(0))
  # Larger than at the start, so that tokens differ in how likely they are.
  return jax.tree.map(lambda x: x * 3, params)


def small_cl100k():
  """A vocabulary of cl100k's kind: all bytes, "he", " t" and "the"."""
  pieces = [bytes([byte]) for byte in range(256)] + [b"he", b" t", b"the"]
  ranks = {piece: i for i, piece in enumerate(pieces)}
  encoding = tiktoken.Encoding(
    "small",
    pat_str=r"\s*\S+|\s+",
    mergeable_ranks=ranks,
    special_tokens={"<|endoftext|>": len(ranks)},
  )
  return TiktokenVocabulary(encoding)


def make_lm(cfg, mesh=None, **options):
  mesh = mesh or sharding.make_mesh(data=1)
  params = make_params(cfg.model)
  rules = sharding.REPLICATED
  params = jax.device_put(params, sharding.tree_shardings(params, mesh, rules))
  return lm.RunLM(cfg, params, mesh, **options)


class Oracle:
  """Numbers of a model, from one run of the decoder for each token.

  Args:
    cfg: of a run; its model as `make_params` has it.
    allowed: the tokens that may be the likeliest.
  """

  def __init__(self, cfg, allowed):
    # No expert can have more sub-tokens than it has slots.
    ample = {"dispatch": "einsum", "eval_capacity_factor": 1e6}
    moe = dataclasses.replace(cfg.model.moe, **ample)
    self._model = Decoder(dataclasses.replace(cfg.model, moe=moe))
    self._params = make_params(cfg.model)
    self._allowed = np.isin(np.arange(cfg.model.vocab_size), list(allowed))
    self._run = jax.jit(self._logits)

  def _logits(self, params, inputs_1L, last):
    places_1L = jnp.arange(inputs_1L.shape[1])[None]
    segments_1L = (places_1L <= last).astype(jnp.int32)
    logits_1LV, _, _ = self._model.apply(
      {"params": params}, inputs_1L, places_1L, segments_1L
    )
    return logits_1LV[0, last]

  def log_probs(self, before):
    """Of every token, after the inputs `before`."""
    inputs_1L = np.zeros((1, LENGTH), np.int32)
    inputs_1L[0, : len(before)] = before
    logits_V = self._run(self._params, inputs_1L, len(before) - 1)
    return np.asarray(jax.nn.log_softmax(logits_V), np.float64)

  def best(self, before):
    return int(np.where(self._allowed, self.log_probs(before), -np.inf).argmax())

  def score(self, context, continuation):
    """Log-probability of `continuation` after 0 and `context`, and is it greedy."""
    total, greedy, before = 0.0, True, [0, *context]
    for token in continuation:
      total += self.log_probs(before)[token]
      greedy = greedy and self.best(before) == token
      before = [*before, token]
    return total, greedy

  def greedy(self, context, length):
    """The likeliest continuation of 0 and `context`."""
    before = [0, *context]
    for _ in range(length):
      before = [*before, self.best(before)]
    return before[len(context) + 1 :]
