"""Log-probabilities of many continuations, in few compilations; see rows.py.

Nothing is dropped, whatever the dispatch of the run: with slots, the numbers of a
request would depend on what is beside it in its row. Padding is not routed, and
requests in one row do not see each other.
"""

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.evals import rows
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder

# Of a batch, on each device: enough to keep it busy, little enough for its memory and,
# on a CPU, its caches, which makes a CPU 1.4 times as fast.
_DEVICE_TOKENS, _CPU_TOKENS = 2**13, 2**11


class Score(NamedTuple):
  """What a model thinks of a continuation."""

  log_prob: float  # of all its tokens, nats
  is_greedy: bool  # each is the likeliest after those before it


class Scorer:
  """Scores requests.

  Args:
    config: of the model.
    mesh: that the parameters are on.
    max_length: tokens that the model sees at once, the one that begins among them.
    valid_V: bool, False for ids that no token has: they are never the likeliest.
    begin: the token that begins every document.
  """

  def __init__(
    self,
    config: TransformerConfig,
    mesh: Mesh,
    max_length: int,
    valid_V: np.ndarray,
    begin: int = 0,
  ):
    self._mesh, self._max_length, self._begin = mesh, max_length, begin
    step = make_score_step(config, valid_V)
    self._step = jax.jit(step, out_shardings=sharding.copies(mesh))

  def __call__(
    self,
    params,
    requests: Sequence[rows.Request],
    on_batch: Callable[[int, float], None] = lambda num_scored, share: None,
  ) -> list[Score]:
    """Scores of `requests`, in their order.

    Args:
      params: of the model; None: only look whether the requests can be scored.
      requests: what to score.
      on_batch: called with the requests scored so far and the share of work done.

    Raises:
      ValueError: a continuation is empty, or longer than what the model sees.
    """
    requests = [rows.fit(request, self._max_length) for request in requests]
    if params is None:
      return [Score(0.0, False)] * len(requests)
    multiple = math.prod(self._mesh.shape[axis] for axis in sharding.BATCH_AXES)
    is_cpu = self._mesh.devices.flat[0].platform == "cpu"
    tokens = _CPU_TOKENS if is_cpu else _DEVICE_TOKENS
    batches = rows.plan(requests, tokens * multiple, multiple)
    work, done = sum(batch.num_tokens for batch in batches), 0
    scores: dict[int, Score] = {}

    def read(batch, results):
      log_prob_BL, greedy_BL = map(np.asarray, results)
      for i, place in rows.targets(batch, requests):
        log_prob = log_prob_BL[place].sum(dtype=np.float64)
        scores[i] = Score(float(log_prob), bool(greedy_BL[place].all()))
      on_batch(len(scores), done / work)

    waiting = None
    with jax.set_mesh(self._mesh):
      for batch in batches:
        arrays = rows.fill(batch, requests, self._begin)
        arrays = sharding.place_batch(arrays, self._mesh, len(batch.rows))
        results = self._step(params, arrays)
        if waiting:  # The host reads one batch late, while the device computes.
          read(*waiting)
        waiting = batch, results
        done += batch.num_tokens
      if waiting:
        read(*waiting)
    return [scores[i] for i in range(len(requests))]


def make_score_step(config: TransformerConfig, valid_V: np.ndarray) -> Callable:
  """A pure function of parameters and a batch of `rows.fill`.

  It returns, (B, L), the log-probability of each target and whether it is the
  likeliest token. Probabilities are over all rows of the embedding, as in training.
  """
  model = Decoder(config.dropless)

  def score_step(params, batch):
    logits_BLV, _, _ = model.apply(
      {"params": params}, batch["inputs"], batch["positions"], batch["segments"]
    )
    targets_BL = batch["targets"]
    target_BL1 = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)
    log_prob_BL = target_BL1[..., 0] - jax.nn.logsumexp(logits_BLV, axis=-1)
    best_BL = jnp.where(valid_V[None, None], logits_BLV, -jnp.inf).argmax(axis=-1)
    return log_prob_BL, best_BL == targets_BL

  return score_step
