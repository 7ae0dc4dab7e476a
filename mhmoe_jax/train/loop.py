"""Training, from a config to a trained checkpoint: read `train` from top to bottom."""

from collections.abc import Mapping
import contextlib
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from mhmoe_jax import allocator, sharding
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from mhmoe_jax.evals.judge import make_judge
from mhmoe_jax.tasks.task import Evaluation
from mhmoe_jax.train.begin import begin
from mhmoe_jax.train.config import describe_changes, resolve
from mhmoe_jax.train.evaluate import Evaluator
from mhmoe_jax.train.lock import hold
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.processes import all_or_none, check_same, deal_streams
from mhmoe_jax.train.report import Report
from mhmoe_jax.train.signals import stop_signals
from mhmoe_jax.train.state import abstract_state
from mhmoe_jax.train.step import make_train_step


class Result(NamedTuple):
  """How a run ended."""

  step: int  # steps trained, in this and earlier starts
  params: dict
  evaluation: Evaluation | None  # None if a signal stopped the run before its end
  pictures: Mapping[str, np.ndarray]  # of it, by name, uint8 (height, width, 3)
  tokens_per_second: float  # without compilation and evaluation; NaN if not known


def train(
  config: ConfigDict, workdir: str, accept_changed_data: bool = False
) -> Result:
  """Trains to the config's last step, resuming if `workdir` has a checkpoint.

  SIGTERM or SIGINT, to one process, lets all save a checkpoint at one step and return.
  The text must be that of the checkpoint, unless a change is accepted: then it begins
  anew.

  Raises:
    ValueError: for what a user can repair, in one line.
    FloatingPointError: naming the step, when the loss or a gradient is not finite.
  """
  cfg = resolve(config)
  allocator.keep_freed_memory()
  mesh = sharding.make_mesh(
    cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model
  )
  sharding.check_batch(cfg.train.batch_size // cfg.train.accumulate_steps, mesh)
  task, size = cfg.task, cfg.train.batch_size
  streams = deal_streams(mesh, size, cfg.data.streams)
  with all_or_none():
    task.check()
    train_feed = task.train_feed(size, streams.read)
    judge = make_judge(cfg, mesh) if cfg.train.harness_every else None
  check_same(train_feed.pipeline, "the data")

  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  abstract = abstract_state(task, optimizer, mesh, rules)
  layout, readable = jax.tree.map(lambda x: x.sharding, abstract), sharding.copies(mesh)
  train_step = jax.jit(
    make_train_step(task, optimizer, cfg.train.accumulate_steps),
    donate_argnums=0,
    out_shardings=(layout, readable),
  )
  evaluate = Evaluator(task, size, mesh, cfg.train.eval_batches)

  with contextlib.ExitStack() as run:
    run.enter_context(hold(workdir))
    checkpoints = run.enter_context(Checkpoints(workdir, cfg.train.keep_last))
    restored = checkpoints.restore(abstract, streams.read)
    start = 0 if restored is None else restored.step
    report = run.enter_context(Report(cfg, workdir, start))
    if restored is None:
      state = begin(cfg, optimizer, abstract, mesh, workdir, report.progress.note)
    else:
      state, note = restored.state, ""
      if start:  # Parameters from elsewhere (interop/) have read nothing yet.
        with all_or_none():
          note = train_feed.restore(restored.data_states, accept_changed_data)
      report.progress.note(f"resuming after step {start}")
      if note:
        report.progress.note(note)
      for change in describe_changes(restored.config, config.to_dict()):
        report.progress.note(f"changed since the checkpoint: {change}")

    pictures = {}

    def validate(step: int) -> Evaluation:
      nonlocal pictures
      arrays = state["params"], state.get("fixed", {})
      with report.progress.paused():
        result, pictures = evaluate(*arrays), evaluate.draw(*arrays)
      report.evaluation(step, result, pictures)
      return result

    profile_at = start + 11  # past compilation
    evaluation = unread = None
    run.enter_context(jax.set_mesh(mesh))
    stop = run.enter_context(stop_signals())
    for step in range(start + 1, cfg.train.num_steps + 1):
      if cfg.train.profile_steps and step == profile_at:
        jax.profiler.start_trace(f"{workdir}/tensorboard")
        profiling = run.enter_context(contextlib.ExitStack())
        profiling.callback(jax.profiler.stop_trace)
      batch = sharding.place_batch(next(train_feed), mesh, size)
      state, metrics = train_step(state, batch)
      if unread:  # The host reads one step late, while the device computes.
        report.step(*unread)
      unread = step, metrics
      if cfg.train.profile_steps and step == profile_at + cfg.train.profile_steps - 1:
        jax.block_until_ready(state)
        profiling.close()

      last = stop(step) or step == cfg.train.num_steps
      evaluate_now = step % cfg.train.eval_every == 0 or step == cfg.train.num_steps
      save_now = step % cfg.train.checkpoint_every == 0 or last
      every = cfg.train.harness_every
      judge_now = every and (step % every == 0 or step == cfg.train.num_steps)
      if evaluate_now or save_now or judge_now:
        report.step(*unread)  # Never save a state whose loss nobody has seen.
        unread = None
      evaluation = validate(step) if evaluate_now else None
      if judge_now:
        with report.progress.paused():
          report.harness(step, judge(state["params"]))
      if save_now:
        loss = evaluation.loss if evaluation else None
        data_states = train_feed.save(streams.save)
        checkpoints.save(step, state, data_states, config.to_dict(), loss)
      if last:
        break
    if start >= cfg.train.num_steps:
      report.progress.note(f"already trained to step {start}")
      evaluation = validate(start)
  return Result(
    step=int(state["step"]),
    params=state["params"],
    evaluation=evaluation,
    pictures=pictures,
    tokens_per_second=report.progress.tokens_per_second,
  )
