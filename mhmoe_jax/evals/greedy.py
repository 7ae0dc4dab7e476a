"""Greedy continuations of many prompts of different lengths, from cached decoding.

Prompts go in batches of neighbours in length. What is common to a batch is read a piece
at a time; from there on every row advances by one token a step, its own prompt's while
it has one, the likeliest thereafter. So two programs serve all lengths. Between chunks
of steps the host looks who is done, since stop sequences are of text, not of tokens.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.decoding import empty_caches, unstack
from mhmoe_jax.models.transformer import Decoder

_PIECE = 64  # tokens of prompts, read at once
_CHUNK = 32  # steps between two looks of the host
# Of a batch, on each device: places in caches, of which every row has a whole context.
_DEVICE_PLACES = 2**15


class Generator:
  """Continues prompts.

  Args:
    config: of the model.
    mesh: that the parameters are on.
    max_length: tokens that the model sees at once.
    valid_V: bool, False for ids that are never drawn.
  """

  def __init__(
    self, config: TransformerConfig, mesh: Mesh, max_length: int, valid_V: np.ndarray
  ):
    self._mesh, config = mesh, config.dropless
    # The last piece or chunk may run past the end.
    self._places = -(-max_length // _PIECE) * _PIECE + _CHUNK
    rows = sharding.batch_sharding(mesh)
    model = Decoder(config)

    def spread(caches):
      return jax.tree.map(lambda x: sharding.constrain(x, "BLJQ"), caches)

    def advance(params, caches, tokens_BL, real_B, start):
      places_L = start + jnp.arange(tokens_BL.shape[1])
      positions_BL = jnp.broadcast_to(places_L[None], tokens_BL.shape)
      segments_BL = jnp.broadcast_to(real_B[:, None], tokens_BL.shape)
      logits_BLV, _, caches = model.apply(
        {"params": params}, tokens_BL, positions_BL, segments_BL, caches, start
      )
      caches = spread(caches)
      logits_BV = jnp.where(valid_V[None], logits_BLV[:, -1], -jnp.inf)
      return caches, logits_BV.argmax(axis=-1).astype(jnp.int32)

    def read(params, caches, tokens_BL, real_B, start):
      return advance(params, caches, tokens_BL, real_B, start)[0]

    def write(params, caches, token_B, given_BT, real_B, start):
      def step(carry, given_B):
        caches, token_B, place = carry
        caches, best_B = advance(params, caches, token_B[:, None], real_B, place)
        token_B = jnp.where(given_B >= 0, given_B, best_B)
        return (caches, token_B, place + 1), token_B

      carry = caches, token_B, start
      (caches, token_B, _), tokens_TB = jax.lax.scan(step, carry, given_BT.T)
      return caches, token_B, tokens_TB.T

    def begin(size):
      return spread(empty_caches(config, size, self._places))

    self._unstack = jax.jit(lambda params: unstack(params, config))
    self._begin = jax.jit(begin, static_argnums=0)
    self._read = jax.jit(read, donate_argnums=1)
    self._write = jax.jit(
      write, donate_argnums=1, out_shardings=(None, rows, sharding.copies(mesh))
    )

  def __call__(
    self,
    params,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    is_done: Callable[[int, list[int]], bool],
    on_batch: Callable[[int, float], None] = lambda num_done, share: None,
  ) -> list[list[int]]:
    """Continuations of `prompts`, in their order.

    Args:
      params: of the model; None: add nothing.
      prompts: tokens, from the one that begins every document; each with its limit at
        most max_length.
      limits: how many tokens to add at most.
      is_done: of a prompt's number and the tokens added to it: whether that is enough.
      on_batch: called with the prompts continued so far, and their share.
    """
    if params is None or not prompts:
      return [[] for _ in prompts]
    multiple = math.prod(self._mesh.shape[axis] for axis in sharding.BATCH_AXES)
    most = max(_DEVICE_PLACES // self._places, 1)
    size = min(most, -(-len(prompts) // multiple)) * multiple
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    added: dict[int, list[int]] = {}
    with jax.set_mesh(self._mesh):
      params = self._unstack(params)
      for first in range(0, len(order), size):
        members = order[first : first + size]
        added |= self._continue(params, members, prompts, limits, is_done, size)
        on_batch(len(added), len(added) / len(prompts))
    return [added[i] for i in range(len(prompts))]

  def _continue(self, params, members, prompts, limits, is_done, size):
    """Tokens added to each of the prompts `members`, a batch of `size` rows."""
    given_BT = np.full((size, self._places + 1), -1, np.int32)
    for row, i in enumerate(members):
      given_BT[row, : len(prompts[i])] = prompts[i]
    given_BT[len(members) :, 0] = 0
    real_B = (np.arange(size) < len(members)).astype(np.int32)

    def place(x):
      return sharding.place_batch(x, self._mesh, size)

    real = place(real_B)
    caches = self._begin(size)
    # The shortest prompt's last token is not read here: what follows it is wanted.
    start = (min(len(prompts[i]) for i in members) - 1) // _PIECE * _PIECE
    for at in range(0, start, _PIECE):
      piece = place(np.maximum(given_BT[:, at : at + _PIECE], 0))
      caches = self._read(params, caches, piece, real, at)
    token_B, added, open_rows = place(given_BT[:, start]), {}, dict(enumerate(members))
    tokens_BT = given_BT[:, : start + 1]
    while open_rows:
      given = given_BT[:, start + 1 : start + 1 + _CHUNK]
      caches, token_B, new_BT = self._write(
        params, caches, token_B, place(given), real, start
      )
      tokens_BT = np.concatenate([tokens_BT, np.asarray(new_BT)], axis=1)
      start += _CHUNK
      for row, i in list(open_rows.items()):
        begin = len(prompts[i])
        added[i] = tokens_BT[row, begin : begin + limits[i]].tolist()
        if len(added[i]) == limits[i] or is_done(i, added[i]):
          del open_rows[row]
    return added
