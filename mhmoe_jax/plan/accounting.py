"""Parameters, FLOPs and bytes of a config, counted from the real model.

The model is traced once for its parameters and once for its loss; what is counted of
backward passes differentiates that trace.

Nothing here has a formula of its own: parameters come from `jax.eval_shape` of the
initialiser, FLOPs from the matrix products in the jaxpr of the real loss, bytes from
the shapes that the backward pass keeps. What has no formula cannot drift.

FLOPs are those of the model, not of an implementation: matrix products only, attention
over all L x L pairs, experts on the rows they are chosen for, nothing recomputed. The
grouped experts are a loop, a ragged product or a kernel, depending on the platform, so
they are left out of the walk and replaced by their definition, `expert_ffn`, on as many
rows.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp

from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.moe.experts import ExpertFfn
from mhmoe_jax.moe.ffn import expert_ffn
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.objective import Batch, ObjectiveConfig, lm_loss
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import init_params

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


def count_parameters(config: TransformerConfig, params: Any = None) -> Parameters:
  """Parameters of the model.

  A token uses top_k of the experts for each of its sub-tokens; if different sub-tokens
  chose different experts these are top_k * num_heads experts, at most all.

  Args:
    config: of the model.
    params: the model's parameters or their shapes, where they are at hand.
  """
  expert = other = 0
  shapes = _shapes(config) if params is None else params
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    if any(getattr(k, "key", None) == "experts" for k in path):
      expert += x.size
    else:
      other += x.size
  return parameters_of(config, expert, other)


def parameters_of(config: TransformerConfig, expert: int, other: int) -> Parameters:
  """All numbers of parameters, from those in the experts and those elsewhere."""
  layer = config.layer
  used = min(layer.top_k * layer.num_heads, layer.num_experts)
  active = other + expert * used // layer.num_experts
  return Parameters(expert + other, active, expert, other)


def count_flops(cfg: RunConfig, training: bool = True) -> Flops:
  """FLOPs per token, at the config's sequence length.

  Args:
    cfg: of the run.
    training: False leaves `training` NaN and takes half the time.
  """
  model, length = _plain(cfg.model), cfg.data.sequence_length
  batch, params = abstract_batch(1, length), _shapes(model)
  loss = _trace_loss(cfg.objective, model, 1, length)
  forward = _walk(loss.jaxpr) + _expert_flops(model, length, backward=False)
  both = math.nan
  if training:
    grad = jax.grad(functools.partial(_apply_loss, loss))
    both = _walk(jax.make_jaxpr(grad)(params, batch).jaxpr)
    both += _expert_flops(model, length, backward=True)
  return Flops(forward / length, both / length)


def count_sizes(cfg: RunConfig) -> Sizes:
  """Bytes of parameters, optimizer state and activations, over all devices.

  Activations are what the backward pass keeps of a part of a batch under the config's
  `remat`, as traced on this platform; `plan.compile` asks the compiler instead.
  """
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  params, length = _shapes(cfg.model), cfg.data.sequence_length
  # Every kernel keeps the same.
  moe = dataclasses.replace(cfg.model.moe, backend="ragged")
  model = dataclasses.replace(cfg.model, moe=moe)

  def kept(examples: int) -> int:
    loss = _trace_loss(cfg.objective, model, examples, length)

    def residuals(params, batch):
      return jax.vjp(lambda p: _apply_loss(loss, p, batch), params)[1]

    return tree_bytes(
      jax.eval_shape(residuals, params, abstract_batch(examples, length))
    )

  # Parameters are kept too. They are the same for one example and for two.
  examples = cfg.train.batch_size // cfg.train.accumulate_steps
  return Sizes(
    params=tree_bytes(params),
    optimizer=tree_bytes(jax.eval_shape(optimizer.init, params)),
    activations=(kept(2) - kept(1)) * examples,
  )


def abstract_batch(
  batch_size: int, length: int, layout: jax.sharding.Sharding | None = None
) -> Batch:
  """Shapes of a training batch, laid out by `layout`."""
  dtypes = dict.fromkeys(("inputs", "targets", "positions", "segments"), jnp.int32)
  return {
    name: jax.ShapeDtypeStruct((batch_size, length), dtype, sharding=layout)
    for name, dtype in (dtypes | {"weights": jnp.float32}).items()
  }


def tree_bytes(tree) -> int:
  """Bytes of all arrays of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _plain(model: TransformerConfig) -> TransformerConfig:
  """The model of equal parameters and work that is traced soonest.

  They depend neither on who moves the sub-tokens and by which kernel, nor on whether
  anything is recomputed.
  """
  moe = dataclasses.replace(model.moe, dispatch="sorted", backend="ragged")
  return dataclasses.replace(model, moe=moe, remat=False)


def _shapes(model: TransformerConfig) -> Any:
  return _trace_shapes(_plain(model))


@functools.lru_cache(8)
def _trace_shapes(model: TransformerConfig) -> Any:
  return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


@functools.lru_cache(8)
def _trace_loss(
  objective: ObjectiveConfig, model: TransformerConfig, examples: int, length: int
) -> core.ClosedJaxpr:
  """The training loss of the shapes of parameters and of a batch."""
  decoder = Decoder(model, deterministic=False)

  def loss(params, batch):
    key = jax.random.key(0)
    return lm_loss(objective, decoder, params, batch, key, jnp.float32(1))[0]

  return jax.make_jaxpr(loss)(_shapes(model), abstract_batch(examples, length))


def _apply_loss(loss: core.ClosedJaxpr, params, batch) -> jax.Array:
  return core.jaxpr_as_fun(loss)(*jax.tree.leaves((params, batch)))[0]


def _expert_flops(model: TransformerConfig, tokens: int, backward: bool) -> int:
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
  return _walk(jaxpr) * (model.num_layers // model.period)


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
