"""Causal attention within documents: a kernel on TPUs, plain XLA elsewhere.

What XLA makes of attention writes every score to memory, several times; on TPUs that is
more traffic than all else in a model of 2,048 tokens. The kernel is jax's own splash
attention, which keeps them on the chip and leaves out what the mask excludes.
"""

from functools import partial

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mhmoe_jax.sharding import BATCH_AXES, MESH_AXES

_BLOCKS = (512, 256, 128)


def causal_mask(segments_BL: jax.Array) -> jax.Array:
  """(B, 1, L, L), True where a token may look: not ahead, in its own document."""
  L = segments_BL.shape[1]
  same = segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
  return jnp.tril(same, k=0) if L > 1 else same


def attend(
  q_BLAQ: jax.Array, k_BLJQ: jax.Array, v_BLJQ: jax.Array, segments_BL: jax.Array
) -> jax.Array:
  """Softmax attention of A heads, whose keys and values are shared by A / J of them.

  Args:
    q_BLAQ: queries, split over the mesh's batch axes and, by heads, over `model`.
    k_BLJQ: keys, of which query head a uses head a * J / A.
    v_BLJQ: values.
    segments_BL: int32, the number of each token's document in its row.
  """
  args = (q_BLAQ, k_BLJQ, v_BLJQ, segments_BL)
  if q_BLAQ.shape[1] % _BLOCKS[-1]:
    return plain(*args)
  return jax.lax.platform_dependent(*args, tpu=on_mesh, default=plain)


def plain(q_BLAQ, k_BLJQ, v_BLJQ, segments_BL) -> jax.Array:
  """`attend` with all scores in memory."""
  mask_B1LL = causal_mask(segments_BL)
  return jax.nn.dot_product_attention(q_BLAQ, k_BLJQ, v_BLJQ, mask=mask_B1LL)


def on_mesh(q_BLAQ, k_BLJQ, v_BLJQ, segments_BL) -> jax.Array:
  """`by_kernel`, each device of the mesh in force on its rows and heads."""
  args = (q_BLAQ, k_BLJQ, v_BLJQ, segments_BL)
  mesh = jax.sharding.get_abstract_mesh()
  if not set(MESH_AXES) <= set(mesh.axis_names):
    return by_kernel(*args)
  A, J = q_BLAQ.shape[2], k_BLJQ.shape[2]
  if J % mesh.shape["model"]:  # A device's queries need keys that it does not have.
    k_BLAQ, v_BLAQ = (jnp.repeat(x, A // J, axis=2) for x in (k_BLJQ, v_BLJQ))
    args = (q_BLAQ, k_BLAQ, v_BLAQ, segments_BL)
  split = PartitionSpec(BATCH_AXES, None, "model")
  specs = (split, split, split, PartitionSpec(BATCH_AXES))
  # Outputs of a kernel say nothing about the axes they vary over.
  run = jax.shard_map(by_kernel, in_specs=specs, out_specs=split, check_vma=False)
  return run(*args)


def by_kernel(
  q_BLAQ, k_BLJQ, v_BLJQ, segments_BL, *, interpret: bool = False
) -> jax.Array:
  """`attend` by the kernel; L must be a multiple of 128."""
  q_BALQ, k_BJLQ, v_BJLQ = (x.swapaxes(1, 2) for x in (q_BLAQ, k_BLJQ, v_BLJQ))
  scale = q_BLAQ.shape[-1] ** -0.5
  o_BALQ = _attend(interpret, q_BALQ * scale, k_BJLQ, v_BJLQ, segments_BL)
  return o_BALQ.swapaxes(1, 2)


def _splash(interpret, q_BALQ, k_BJLQ, v_BJLQ, segments_BL):
  _, A, L, _ = q_BALQ.shape
  block = next(size for size in _BLOCKS if L % size == 0)
  names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv")
  names += ("block_kv_dkv_compute", "block_q_dq", "block_kv_dq")
  causal = splash_attention_mask.CausalMask((L, L))
  kernel = splash.make_splash_mha(
    splash_attention_mask.MultiHeadMask([causal] * A),
    block_sizes=splash.BlockSizes(**dict.fromkeys(names, block)),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name="attention",
    interpret=interpret,
  )
  segments = splash.SegmentIds(segments_BL, segments_BL)
  return jax.vmap(kernel)(q_BALQ, k_BJLQ, v_BJLQ, segments)


# TPUs multiply bfloat16 at the default precision only: the kernel does not compile at
# another. `jax.default_matmul_precision` holds while a function is traced, and the
# backward pass is traced later: only a rule of our own can ask for it there as well.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(interpret, *args):
  with jax.default_matmul_precision("default"):
    return _splash(interpret, *args)


def _attend_forward(interpret, *args):
  with jax.default_matmul_precision("default"):
    return jax.vjp(partial(_splash, interpret), *args)


def _attend_backward(interpret, pull, cotangent_BALQ):
  with jax.default_matmul_precision("default"):
    return pull(cotangent_BALQ)


_attend.defvjp(_attend_forward, _attend_backward)
