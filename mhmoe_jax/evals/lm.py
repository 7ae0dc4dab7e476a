"""A trained run as a language model of EleutherAI's lm-evaluation-harness.

Every sequence begins with the token that begins documents in training, and an empty
context is that token alone. A context is cut from the left, behind that token; a
continuation never is. Where the two meet inside a token, the harness decides:
`TemplateLM._encode_pair`.
"""

import logging
import time
from typing import TextIO

from jax.sharding import Mesh
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
import numpy as np

from mhmoe_jax.data.vocabularies import begin_id, find_drawable, make_vocabulary
from mhmoe_jax.evals.greedy import Generator
from mhmoe_jax.evals.rows import Request
from mhmoe_jax.evals.scoring import Scorer
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.progress import format_duration

_log = logging.getLogger(__name__)

_SECONDS = 5  # between two lines of progress


class RunLM(TemplateLM):
  """What the harness asks: scores of continuations and texts, and continuations.

  Args:
    cfg: of the run.
    params: of its model, on `mesh`; may be replaced by those of a later step. None: a
      rehearsal, which only refuses what could not be answered.
    mesh: to compute on.
    max_length: tokens that the model sees at once, the one that begins documents
      among them; None: as many as in training.
    progress: where to say how far it is; None: nowhere.
  """

  def __init__(
    self,
    cfg: RunConfig,
    params,
    mesh: Mesh,
    max_length: int | None = None,
    progress: TextIO | None = None,
  ):
    super().__init__()
    cfg.need("language", "the harness")
    self.params = params
    trained = cfg.data.sequence_length
    self.max_length = max_length or trained
    if self.max_length > trained:
      _log.warning(
        "the model was trained on %d tokens at a time; what it says of more, up to %d, "
        "may be poor",
        trained,
        self.max_length,
      )
    self._vocabulary = make_vocabulary(cfg.data.vocabulary)
    self._begin = begin_id(cfg.data.vocabulary)
    self._stream = progress
    valid_V = find_drawable(self._vocabulary, cfg.model.vocab_size)
    self._score = Scorer(cfg.model, mesh, self.max_length, valid_V, self._begin)
    self._generate = Generator(cfg.model, mesh, self.max_length, valid_V)

  @property
  def eot_token_id(self) -> int:
    return self._vocabulary.eos_id

  @property
  def prefix_token_id(self) -> int:
    return self._begin

  def tok_encode(self, string: str, add_special_tokens=None, **kwargs) -> list[int]:
    return self._vocabulary.encode(string)

  def loglikelihood(self, requests, disable_tqdm: bool = False):
    """Of each (context, continuation): log-probability in nats, and is it greedy."""
    encoded = []
    for context, continuation in (request.args for request in requests):
      if context:
        tokens = self._encode_pair(context, continuation)
      else:
        tokens = [], self.tok_encode(continuation)
      if not tokens[1]:  # lm-eval's own models fail here, too.
        raise ValueError(
          "a continuation must have a token of its own, got "
          f"{continuation!r} behind {context[-20:]!r}."
        )
      encoded.append(((context, continuation), *tokens))
    return self._loglikelihood_tokens(encoded)

  def _loglikelihood_tokens(self, requests, **kwargs):
    tell = _Progress("requests", len(requests), self._stream)
    pairs = [Request(*tokens) for _, *tokens in requests]
    return [tuple(score) for score in self._score(self.params, pairs, tell)]

  def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
    """Log-probability of each text, nats; every token is predicted once.

    A text longer than the model's context is read in windows. Each begins with the
    token that begins documents, as in training, and goes on with at least one token of
    the window before.
    """
    windows, owners = [], []
    for i, request in enumerate(requests):
      tokens = self.tok_encode(request.args[0])
      length = self.max_length - 1
      for pair in get_rolling_token_windows(tokens, self._begin, length, 1):
        context, continuation = make_disjoint_window(pair)
        windows.append(Request(context if owners[-1:] == [i] else [], continuation))
        owners.append(i)
    totals = np.zeros(len(requests))
    tell = _Progress("windows", len(windows), self._stream)
    scores = self._score(self.params, windows, tell)
    np.add.at(totals, owners, [score.log_prob for score in scores])
    return totals.tolist()

  def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
    """The likeliest continuation of each context, up to the first stop sequence.

    It ends before the stop sequence, before the end of the document, or after
    max_gen_toks tokens. A context is cut from the left to leave room for so many.
    """
    prompts, limits, stops = [], [], []
    for request in requests:
      context, options = request.args
      options = normalize_gen_kwargs(options)
      if options["do_sample"]:
        raise ValueError(f"generation is greedy here, got {request.args[1]}.")
      limits.append(options["max_gen_toks"])
      room = self.max_length - limits[-1]
      if not 0 < room < self.max_length:
        raise ValueError(
          "max_gen_toks must be at least 1 and less than the model's context "
          "(--max_length of the verb harness widens it), got "
          f"max_gen_toks={limits[-1]} and a context of {self.max_length}."
        )
      tokens = self.tok_encode(context)
      prompts.append([self._begin, *tokens[max(len(tokens) + 1 - room, 0) :]])
      stops.append([stop for stop in options["until"] if stop])

    def finish(i: int, tokens: list[int]) -> tuple[str, bool]:
      """The text that `tokens` add to prompt i, and whether it is complete."""
      ended = self.eot_token_id in tokens
      if ended:
        tokens = tokens[: tokens.index(self.eot_token_id)]
      text = self._vocabulary.decode(tokens, after=requests[i].args[0])
      cuts = [at for stop in stops[i] if (at := text.find(stop)) >= 0]
      return text[: min(cuts, default=None)], ended or bool(cuts)

    def is_done(i: int, tokens: list[int]) -> bool:
      return finish(i, tokens)[1]

    tell = _Progress("texts", len(prompts), self._stream)
    added = self._generate(self.params, prompts, limits, is_done, tell)
    return [finish(i, tokens)[0] for i, tokens in enumerate(added)]


class _Progress:
  """Says every few seconds how many are done, how fast, and how long it takes still."""

  def __init__(self, what: str, total: int, stream: TextIO | None):
    self._what, self._total, self._stream = what, total, stream
    self._began = self._shown = time.monotonic()

  def __call__(self, done: int, share: float) -> None:
    now = time.monotonic()
    if not self._stream or (now < self._shown + _SECONDS and done < self._total):
      return
    self._shown, gone = now, now - self._began
    left = format_duration(gone * (1 - share) / share)
    self._stream.write(
      f"{done:,} of {self._total:,} {self._what}  {done / gone:,.0f}/s  {left} left\n"
    )
    self._stream.flush()
