"""Many experts at once over rows sorted by expert: one function, four backends.

`grouped_ffn` applies expert e (`ffn.expert_ffn`) to its `sizes_E[e]` consecutive rows
and multiplies every result by the router's weight for it.
The backends are equal in value and gradient, and all recompute the hidden activations
in the backward pass, so that memory does not grow with what is hidden:

* "fused": one TPU kernel (`fused.py`), the choice there if an expert fits into it.
* "ragged": `jax.lax.ragged_dot`, for the experts on a TPU that do not.
* "batched": a few batched products (`batched.py`), the choice on a GPU.
* "blocks": a loop over blocks of rows (`blocks.py`), the choice elsewhere.

On a CPU and a GPU `ragged_dot` multiplies every row with every expert, and on a GPU
every turn of a loop such as that of "blocks" waits for the host.
"""

import contextlib
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata
import jax.numpy as jnp

from mhmoe_jax.moe import batched, blocks, fused
from mhmoe_jax.moe.config import BACKENDS
from mhmoe_jax.moe.ffn import ExpertWeights, apply_ffn
from mhmoe_jax.moe.once import once
from mhmoe_jax.sharding import varying_axes


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def grouped_ffn(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  backend: str = "auto",
  expected_rows: int | None = None,
) -> jax.Array:
  """Expert e on its `sizes_E[e]` rows, one expert after the other.

  Args:
    weights: of E experts.
    x_TM: rows sorted by expert.
    scale_T: float32, what each row's result is multiplied by.
    sizes_E: int32, rows per expert; their sum may be less than T.
    backend: one of `config.BACKENDS`; "auto" chooses by the platform that the program
      is lowered for, which need not be the one that this runs on.
    expected_rows: the sum of the sizes when the load is even, T by default. It changes
      the cost that the compiler is told, and what "batched" makes one product of.

  Returns:
    (T, M); rows past the sum of the sizes are zero.
  """
  how = backend, expected_rows
  return _choose(0, how, weights, x_TM, scale_T, sizes_E)[0]


def _forward(weights, x_TM, scale_T, sizes_E, *how):
  inputs = weights, x_TM, scale_T, sizes_E
  y_TM, saved = once(functools.partial(_choose, 0, how))(*inputs)
  # For policies of `jax.checkpoint`: who keeps it need not run the experts again.
  saved = jax.tree.map(lambda a: checkpoint_name(a, "experts"), saved)
  return y_TM, (*inputs, saved)


def _backward(backend, expected_rows, kept, dy_TM):
  *inputs, saved = kept
  backward = functools.partial(_choose, 1, (backend, expected_rows))
  return *once(backward)(*inputs, dy_TM, saved), None


grouped_ffn.defvjp(_forward, _backward)


def _choose(direction: int, how, weights: ExpertWeights, x_TM, *rest):
  """Runs the forward (0) or backward (1) pass of a backend.

  The former also returns what it saves for the latter, which takes it last: nothing,
  but for the kernel under a norm.
  """
  backend, expected_rows = how

  def with_expected_rows(*passes):
    return [functools.partial(f, expected_rows=expected_rows) for f in passes]

  in_batches = with_expected_rows(batched.forward, batched.backward)
  passes = {
    "fused": with_expected_rows(fused.forward, fused.backward),
    "ragged": _saving_nothing(_ragged_forward, _ragged_backward),
    "batched": _saving_nothing(*in_batches),
    "blocks": _saving_nothing(blocks.forward, blocks.backward),
  }
  if backend != "auto":
    if backend not in passes:
      raise ValueError(
        f"backend must be one of {', '.join(BACKENDS)}, got backend={backend!r}."
      )
    return passes[backend][direction](weights, x_TM, *rest)
  # Pallas knows nothing of what varies over a mesh that others made manual.
  takes = fused.fits(weights, x_TM.dtype) and not varying_axes(x_TM)
  tpu = passes["fused" if takes else "ragged"]
  saved = fused.unsaved if takes else None
  gpu = _saving_nothing(*in_batches, saved)[direction]
  default = _saving_nothing(blocks.forward, blocks.backward, saved)[direction]
  return jax.lax.platform_dependent(
    weights, x_TM, *rest, tpu=tpu[direction], cuda=gpu, rocm=gpu, default=default
  )


def _saving_nothing(forward, backward, like=None):
  """Passes as of a backend that saves something; `like` makes the same of nothing."""

  def run(weights, x_TM, scale_T, sizes_E):
    y_TM = forward(weights, x_TM, scale_T, sizes_E)
    return y_TM, like(weights, y_TM) if like else None

  def run_back(weights, x_TM, scale_T, sizes_E, dy_TM, _):
    return backward(weights, x_TM, scale_T, sizes_E, dy_TM)

  return run, run_back


def _ragged_forward(weights, x_TM, scale_T, sizes_E):
  T, E = x_TM.shape[0], sizes_E.shape[0]
  ends_E = jnp.cumsum(sizes_E)
  expert_T = jnp.searchsorted(ends_E, jnp.arange(T), side="right")

  def dot(x, w):
    return jax.lax.ragged_dot(x, w, sizes_E)

  def per_row(b):
    if b is None:
      return None
    # Taken in float32, in which gradients of rows are added up then: a sum of bfloat16
    # stands still once it is some hundred times what is added.
    wide_EX = b.reshape(E, -1).astype(jnp.promote_types(b.dtype, jnp.float32))
    return jnp.take(wide_EX, expert_T, axis=0, mode="clip").astype(b.dtype)

  with _tiles(T // E):
    y_TM = apply_ffn(weights, x_TM, dot, per_row)
  y_TM *= scale_T[:, None].astype(y_TM.dtype)
  return jnp.where((expert_T < E)[:, None], y_TM, 0)


def _ragged_backward(weights, x_TM, scale_T, sizes_E, dy_TM):
  def apply(*inputs):
    return _ragged_forward(*inputs, sizes_E)

  with _tiles(x_TM.shape[0] // sizes_E.shape[0]):
    return jax.vjp(apply, weights, x_TM, scale_T)[1](dy_TM)


def _tiles(rows_per_expert: int):
  """Tiles of `ragged_dot` on a TPU where those of the compiler do not fit into VMEM.

  From 4,096 rows per expert libtpu 0.0.52 takes as many at a time, which with widths of
  768 and 3,072 are 21 to 32 MiB of 16, and refuses its own choice.
  """
  if rows_per_expert < 4096:
    return contextlib.nullcontext()
  return set_xla_metadata(ragged_dot_tiling="512,512,512")
