"""Parameters, FLOPs and bytes of a config, counted from the real model.

The model is traced once for its parameters and once for its loss; what is counted of
backward passes differentiates that trace.

Nothing here has a formula of its own: parameters come from `jax.eval_shape` of the
initialiser, FLOPs from the matrix products in the jaxpr of the real loss, bytes from
the shapes that the backward pass keeps. What has no formula cannot drift.

FLOPs are those of the model, not of an implementation: matrix products only, attention
over all pairs of a sequence, experts on the rows they are chosen for, nothing
recomputed. The grouped experts are a loop, a ragged product or a kernel, depending on
the platform, so they are left out of the walk and replaced by their definition,
`expert_ffn`, on as many rows.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp

from mhmoe_jax.moe.experts import ExpertFfn
from mhmoe_jax.moe.ffn import expert_ffn
from mhmoe_jax.tasks.task import Batch, Task
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.optimizer import make_optimizer

# How the grouped experts may appear in a jaxpr; `count_flops` counts their definition.
GROUPED = ("while", "ragged_dot_general", "pallas_call")


class Parameters(NamedTuple):
  """Numbers of parameters."""

  total: int
  active: int  # at most so many have a part in one token's output
  expert: int  # in the experts
  other: int  # everywhere else


class Flops(NamedTuple):
  """Floating-point operations of matrix products per token; 2 per multiply-add."""

  forward: float
  training: float  # forward and backward, nothing recomputed


class Sizes(NamedTuple):
  """Bytes over all devices."""

  params: int
  optimizer: int
  activations: int  # that one part of a batch keeps for its backward pass


def count_parameters(task: Task, params: Any = None) -> Parameters:
  """Parameters of the model.

  A token uses top_k of the experts for each of its sub-tokens; if different sub-tokens
  chose different experts these are top_k * num_heads experts, at most all of its pool.

  Args:
    task: with the config of the model.
    params: the model's parameters or their shapes, where they are at hand.
  """
  expert = other = 0
  shapes = _shapes(task) if params is None else params
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    if any(getattr(k, "key", None) == "experts" for k in path):
      expert += x.size
    else:
      other += x.size
  return parameters_of(task.model, expert, other)


def parameters_of(config: Any, expert: int, other: int) -> Parameters:
  """All numbers of parameters, from those in the experts and those elsewhere."""
  layer = config.layer
  used = min(layer.top_k * layer.num_heads, layer.num_experts)
  active = other + expert * used // (layer.num_experts * config.num_pools)
  return Parameters(expert + other, active, expert, other)


def count_flops(cfg: RunConfig, training: bool = True) -> Flops:
  """FLOPs per token, at the config's lengths of sequences.

  Args:
    cfg: of the run.
    training: False leaves `training` NaN and takes half the time.
  """
  task, length = _plain(cfg.task), cfg.task.tokens_per_example
  loss, inputs = _trace_loss(task, 1), _inputs(task, 1)
  forward = _walk(loss.jaxpr) + _expert_flops(cfg.model, length, backward=False)
  both = math.nan
  if training:
    grad = jax.grad(functools.partial(_apply_loss, loss))
    both = _walk(jax.make_jaxpr(grad)(*inputs).jaxpr)
    both += _expert_flops(cfg.model, length, backward=True)
  return Flops(forward / length, both / length)


def count_sizes(cfg: RunConfig) -> Sizes:
  """Bytes of parameters, optimizer state and activations, over all devices.

  Activations are what the backward pass keeps of a part of a batch under the config's
  `remat`, as traced on this platform; `plan.compile` asks the compiler instead.
  """
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  params = _shapes(cfg.task)
  # Every kernel keeps the same.
  moe = dataclasses.replace(cfg.model.moe, backend="ragged")
  task = dataclasses.replace(cfg.task, model=dataclasses.replace(cfg.model, moe=moe))

  def kept(examples: int) -> int:
    loss = _trace_loss(task, examples)

    def residuals(params, *rest):
      return jax.vjp(lambda p: _apply_loss(loss, p, *rest), params)[1]

    return tree_bytes(jax.eval_shape(residuals, *_inputs(task, examples)))

  # Parameters are kept too. They are the same for one example and for two.
  examples = cfg.train.batch_size // cfg.train.accumulate_steps
  return Sizes(
    params=tree_bytes(params),
    optimizer=tree_bytes(jax.eval_shape(optimizer.init, params)),
    activations=(kept(2) - kept(1)) * examples,
  )


def tree_bytes(tree) -> int:
  """Bytes of all arrays of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _plain(task: Task) -> Task:
  """The task with the model of equal parameters and work that is traced soonest.

  They depend neither on who moves the sub-tokens and by which kernel, nor on whether
  anything is recomputed.
  """
  moe = dataclasses.replace(task.model.moe, dispatch="sorted", backend="ragged")
  return dataclasses.replace(
    task, model=dataclasses.replace(task.model, moe=moe, remat="none")
  )


def _shapes(task: Task) -> Any:
  return _trace_shapes(_plain(task))


@functools.lru_cache(8)
def _trace_shapes(task: Task) -> Any:
  return jax.eval_shape(lambda: task.init(jax.random.key(0)))


def _inputs(task: Task, examples: int) -> tuple[Any, Any, Batch]:
  """Shapes of the parameters, of what is fixed, and of a batch."""
  return _shapes(task), task.fixed_shapes(), task.batch_shapes(examples)


@functools.lru_cache(8)
def _trace_loss(task: Task, examples: int) -> core.ClosedJaxpr:
  """The training loss of `_inputs`."""

  def loss(params, fixed, batch):
    # Of any value: they are numbers to divide by.
    totals = jax.tree.map(jnp.ones_like, task.totals(batch))
    found = task.loss(params, fixed, batch, jax.random.key(0), totals)
    return found.share + found.mean

  return jax.make_jaxpr(loss)(*_inputs(task, examples))


def _apply_loss(loss: core.ClosedJaxpr, *inputs) -> jax.Array:
  return core.jaxpr_as_fun(loss)(*jax.tree.leaves(inputs))[0]


def _expert_flops(model: Any, tokens: int, backward: bool) -> int:
  if model.ffn == "dense":
    return 0
  layer, dtype = model.layer, jnp.dtype(model.dtype)
  width = model.embed_dim // layer.num_heads

  def on_rows(x_RM):
    module = ExpertFfn(layer, dtype)
    weights = module.init_with_output(jax.random.key(0), width)[0]
    one = jax.tree.map(lambda w: w[0], weights)
    if not backward:
      return expert_ffn(one, x_RM)
    y_RM, vjp = jax.vjp(expert_ffn, one, x_RM)
    return vjp(y_RM)

  rows = tokens * layer.num_heads * layer.top_k
  jaxpr = jax.make_jaxpr(on_rows)(jax.ShapeDtypeStruct((rows, width), dtype)).jaxpr
  return _walk(jaxpr) * len(model.moe_blocks)


def _walk(jaxpr) -> int:
  """FLOPs of the matrix products of a jaxpr; a scan's body counts `length` times."""
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name in GROUPED:
      continue
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      lhs = equation.invars[0].aval.shape
      depth = math.prod(lhs[i] for i in contracted)
      total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
    elif name == "cond":
      # Alternatives of which one runs, such as one per platform.
      total += max(_walk(branch.jaxpr) for branch in params["branches"])
    else:
      times = params["length"] if name == "scan" else 1
      inner = [p for p in jax.tree.leaves(list(params.values())) if _is_jaxpr(p)]
      total += times * sum(_walk(getattr(p, "jaxpr", p)) for p in inner)
  return total


def _is_jaxpr(x) -> bool:
  return isinstance(x, core.Jaxpr | core.ClosedJaxpr)
