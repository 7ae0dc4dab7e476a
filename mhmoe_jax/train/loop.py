"""Training, from a config to a trained checkpoint: read `train` from top to bottom."""

import contextlib
import logging
import math
import signal
import threading
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from mhmoe_jax import sharding
from mhmoe_jax.data import feed
from mhmoe_jax.train.checkpoint import Checkpoints
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.evaluate import (
  Evaluation,
  check_vocabulary,
  evaluate,
  evaluation_batches,
  make_eval_step,
)
from mhmoe_jax.train.metrics import MetricWriter, ProgressLine, flatten_metrics
from mhmoe_jax.train.optimizer import make_optimizer, make_schedule
from mhmoe_jax.train.state import abstract_state, init_state
from mhmoe_jax.train.step import make_train_step

_log = logging.getLogger(__name__)


class Result(NamedTuple):
  """How a run ended."""

  step: int  # of the last checkpoint
  started_at: int  # the step it resumed from, 0 if it did not
  params: dict
  evaluation: Evaluation | None  # None if a signal stopped it before the end
  tokens_per_second: float  # in training, without compilation and evaluation


def train(config: ConfigDict, workdir: str) -> Result:
  """Trains to the config's last step, resuming if `workdir` has a checkpoint.

  SIGTERM or SIGINT saves a checkpoint after the step under way, and returns.

  Raises:
    ValueError: for what a user can repair, in one line.
    FloatingPointError: naming the step, when the loss or a gradient is not finite.
  """
  cfg = resolve(config)
  mesh = sharding.make_mesh(
    cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model
  )
  sharding.check_batch(cfg.train.batch_size // cfg.train.accumulate_steps, mesh)
  checkpoints = Checkpoints(workdir, cfg.train.keep_last)
  check_vocabulary(cfg.data.vocabulary, cfg.model.vocab_size)
  train_feed = feed.make_train_feed(
    cfg.data, cfg.train.batch_size, jax.process_index(), jax.process_count()
  )

  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  abstract = abstract_state(cfg.model, optimizer, mesh, rules)
  restored = checkpoints.restore(abstract)
  if restored is None:
    state, start = init_state(cfg.model, optimizer, cfg.train.seed, abstract), 0
  else:
    state, start = restored.state, restored.step
    train_feed.restore(restored.data_state)
    _log.info("resuming from the checkpoint of step %d", start)

  train_step = jax.jit(
    make_train_step(cfg.model, cfg.objective, optimizer, cfg.train.accumulate_steps),
    donate_argnums=0,
  )
  eval_step = jax.jit(make_eval_step(cfg.model))
  learning_rate = make_schedule(cfg.optimizer, cfg.train.num_steps)
  writer = MetricWriter(workdir, jax.process_index(), resume_step=start)
  tokens_per_step = cfg.train.batch_size * cfg.data.sequence_length
  progress = ProgressLine(
    cfg.train.num_steps, tokens_per_step, process_index=jax.process_index()
  )

  def read_metrics(step: int, device_metrics: dict) -> None:
    """Waits for the metrics of a finished step; writes them; stops at NaN."""
    metrics = flatten_metrics(jax.device_get(device_metrics), cfg.model.period)
    progress.tick(step)
    finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
    if step % cfg.train.log_every == 0 or step == cfg.train.num_steps or not finite:
      metrics["learning_rate"] = float(learning_rate(step - 1))
      metrics["tokens_per_second"] = progress.show(step, metrics["loss"])
      writer.write(step, metrics)
    if not finite:
      raise FloatingPointError(
        f"loss and gradients must be finite, got loss={metrics['loss']}, "
        f"grad_norm={metrics['grad_norm']} at step {step}; "
        f"the last good checkpoint is of step {checkpoints.latest_step()}."
      )

  def validate(step: int) -> Evaluation:
    with progress.paused():
      batches = evaluation_batches(cfg.data, cfg.train.batch_size, mesh)
      result = evaluate(eval_step, state["params"], batches, cfg.train.eval_batches)
    writer.write(
      step,
      {
        "valid/loss": result.loss,
        "valid/perplexity": result.perplexity,
        "valid/bits_per_byte": result.bits_per_byte,
      },
    )
    progress.note(
      f"step {step}  valid loss {result.loss:.4f}  "
      f"bits per byte {result.bits_per_byte:.4f}"
    )
    return result

  evaluation, pending = None, None
  with jax.set_mesh(mesh), _stop_signals() as stop, contextlib.closing(writer):
    for step in range(start + 1, cfg.train.num_steps + 1):
      if cfg.train.profile_steps and step == start + 11:
        jax.profiler.start_trace(f"{workdir}/tensorboard")
      batch = sharding.place_batch(next(train_feed), mesh)
      state, metrics = train_step(state, batch)
      # The host reads the step before, while the device is busy with this one.
      if pending is not None:
        read_metrics(*pending)
      pending = step, metrics
      if cfg.train.profile_steps and step == start + 10 + cfg.train.profile_steps:
        jax.profiler.stop_trace()

      last = step == cfg.train.num_steps or stop.is_set()
      evaluation = None
      if step % cfg.train.eval_every == 0 or step == cfg.train.num_steps:
        evaluation = validate(step)
      if step % cfg.train.checkpoint_every == 0 or last:
        # Never save a state whose loss has not been seen to be finite.
        read_metrics(*pending)
        pending = None
        loss = evaluation and evaluation.loss
        checkpoints.save(step, state, train_feed.save(), config.to_dict(), loss)
      if last:
        break
    if start == cfg.train.num_steps:
      evaluation = evaluate(
        eval_step,
        state["params"],
        evaluation_batches(cfg, mesh),
        cfg.train.eval_batches,
      )
  checkpoints.close()
  return Result(
    step=int(state["step"]),
    started_at=start,
    params=state["params"],
    evaluation=evaluation,
    tokens_per_second=progress.tokens_per_second,
  )


@contextlib.contextmanager
def _stop_signals():
  """An event that SIGTERM or the first SIGINT sets; a second SIGINT ends at once."""
  stop = threading.Event()

  def ask(number, _):
    stop.set()
    signal.signal(number, signal.default_int_handler)
    _log.warning("%s: saving a checkpoint", signal.Signals(number).name)

  before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
