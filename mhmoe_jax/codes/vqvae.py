"""A VQ-VAE with a code for each patch (1711.00937), in the manner of BEiT v2's.

    patch -> whiten -> linear -> blocks -> R numbers of length 1 -> nearest code
    code  -> linear -> blocks -> R numbers -> color -> patch

A block looks at the patches around its own, so a code means more than its patch's
colours and a patch is drawn from more than its code. Codes have length 1, nearest is by
cosine, and they follow their patches as a moving average, not by gradients (2208.06366
section 2.2). The encoder gets the gradient at the code as its own (straight-through),
and is held near to its codes by the commitment loss.
"""

import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.codes import whitening
from mhmoe_jax.codes.kmeans import nearest
from mhmoe_jax.models.norm import Norm

CODE_DIM = 32  # as BEiT v2's
DECAY = 0.99  # of the codes' average
COMMITMENT = 1.0
NUM_COMPONENTS, SOFTENING = 64, 0.01  # of the whitening
IDLE = 50  # steps without a vector after which a code starts anew
_WIDTH, _DEPTH = 64, 2
_NEIGHBOURS = 3  # patches across that a block looks at


class Network(nn.Module):
  """Whitened patches to vectors in the same places, or codes to whitened patches."""

  size_out: int

  @nn.compact
  def __call__(self, x_BPR: jax.Array) -> jax.Array:
    x_BPD = linear(self, "RD", (x_BPR.shape[-1], _WIDTH), x_BPR)
    for n in range(_DEPTH):
      x_BPD = Block(name=f"block_{n}")(x_BPD)
    x_BPD = Norm("layernorm", 1e-6, name="norm")(x_BPD)
    return linear(self, "DR", (_WIDTH, self.size_out), x_BPD)


class Block(nn.Module):
  """A convolution over patches, GELU and a linear map, beside a residual."""

  @nn.compact
  def __call__(self, x_BPD: jax.Array) -> jax.Array:
    B, P, D = x_BPD.shape
    side, L = math.isqrt(P), _NEIGHBOURS**2
    h_BPD = Norm("layernorm", 1e-6, name="norm")(x_BPD)
    init = nn.initializers.normal((L * D) ** -0.5)
    w_LDF = self.param("w_LDF", init, (L, D, D))
    h_BYXF = jax.lax.conv_general_dilated(
      h_BPD.reshape(B, side, side, D),
      w_LDF.reshape(_NEIGHBOURS, _NEIGHBOURS, D, D),
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    b_F = self.param("b_F", nn.initializers.zeros_init(), (D,))
    h_BPF = nn.gelu(h_BYXF.reshape(B, P, D) + b_F[None, None])
    return x_BPD + linear(self, "FD", (D, D), h_BPF)


def linear(module: nn.Module, letters: str, shape: tuple[int, int], x: jax.Array):
  """x @ w + b, with w and b parameters of the module."""
  w = module.param(f"w_{letters}", nn.initializers.normal(shape[0] ** -0.5), shape)
  b = module.param(f"b_{letters[1]}", nn.initializers.zeros_init(), shape[1:])
  return x @ w + b[None, None]


class Quantized(NamedTuple):
  """Vectors and what became of them."""

  x_BPR: jax.Array  # of length 1
  ids_BP: jax.Array
  code_BPR: jax.Array  # the codes, with the gradient of x_BPR


def encode(arrays, patches_BPU: jax.Array) -> jax.Array:
  """The code of each patch, int32 (B, P)."""
  return nearest(look(arrays, patches_BPU), arrays["codes_WR"])


def decode(arrays, ids_BP: jax.Array) -> jax.Array:
  """The patches of codes, (B, P, U)."""
  return draw(arrays, arrays["codes_WR"][ids_BP])


def look(arrays, patches_BPU: jax.Array) -> jax.Array:
  """What the encoder makes of patches, (B, P, R), each of length 1."""
  x_BPR = whitening.whiten(arrays, patches_BPU)
  return normalize(Network(CODE_DIM).apply({"params": arrays["encoder"]}, x_BPR))


def draw(arrays, code_BPR: jax.Array) -> jax.Array:
  """Codes to patches, (B, P, U)."""
  network = Network(len(arrays["color_RU"]))
  x_BPR = network.apply({"params": arrays["decoder"]}, code_BPR)
  return whitening.color(arrays, x_BPR)


def normalize(x: jax.Array) -> jax.Array:
  """Vectors of length 1, which those of length 0 stay without."""
  square = jnp.square(x).sum(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def init_networks(key: jax.Array, num_components: int):
  """The parameters of encoder and decoder, before training."""
  first, second = jax.random.split(key)
  patch, code = jnp.zeros((1, 1, num_components)), jnp.zeros((1, 1, CODE_DIM))
  return {
    "encoder": Network(CODE_DIM).init(first, patch)["params"],
    "decoder": Network(num_components).init(second, code)["params"],
  }


def array_shapes(patch_dim: int, num_codes: int):
  shapes = whitening.array_shapes(patch_dim, NUM_COMPONENTS)
  num_components = shapes["whiten_UR"].shape[1]
  networks = jax.eval_shape(lambda: init_networks(jax.random.key(0), num_components))
  codes = jax.ShapeDtypeStruct((num_codes, CODE_DIM), jnp.float32)
  return shapes | networks | {"codes_WR": codes}


def quantize(x_BPR: jax.Array, codes_WR: jax.Array) -> Quantized:
  """Puts each vector's nearest code in its place."""
  ids_BP = nearest(jax.lax.stop_gradient(x_BPR), codes_WR)
  step_BPR = jax.lax.stop_gradient(codes_WR[ids_BP] - x_BPR)
  return Quantized(x_BPR, ids_BP, x_BPR + step_BPR)


def loss(networks, white, codes_WR: jax.Array, patches_BPU: jax.Array):
  """Mean square error of the pixels, and the commitment loss where there are codes.

  Args:
    networks: encoder and decoder, which learn.
    white: arrays of the whitening, which do not.
    codes_WR: the codes; none of them, (0, R), before they start.
    patches_BPU: in [-1, 1].

  Returns:
    The loss; the vectors with their codes, if there are, and the mean square error.
  """
  x_BPR = look(networks | white, patches_BPU)
  q = quantize(x_BPR, codes_WR) if len(codes_WR) else None
  drawn_BPU = draw(networks | white, x_BPR if q is None else q.code_BPR)
  error = jnp.square(drawn_BPU - patches_BPU).mean()
  return error + (0 if q is None else commitment(q)), (q, error)


def commitment(q: Quantized) -> jax.Array:
  """What vectors pay for being away from their codes."""
  away_BPR = q.x_BPR - jax.lax.stop_gradient(q.code_BPR)
  return COMMITMENT * jnp.square(away_BPR).mean()


def move_codes(codes_WR: jax.Array, x_BPR: jax.Array, ids_BP: jax.Array) -> jax.Array:
  """One step of the moving average: codes towards the mean of their vectors.

  The mean is brought to length 1 before the step and the code after it; codes without
  vectors stay where they are (`norm_ema_quantizer.py` of BEiT v2).
  """
  W, R = codes_WR.shape
  ids_T, x_TR = ids_BP.reshape(-1), x_BPR.reshape(-1, R)
  sums_WR = jax.ops.segment_sum(x_TR, ids_T, num_segments=W)
  # A sum of no vectors is 0, and what is added does not turn the code.
  return normalize(DECAY * codes_WR + (1 - DECAY) * normalize(sums_WR))


def restart_codes(
  codes_WR: jax.Array,
  idle_W: jax.Array,
  x_BPR: jax.Array,
  ids_BP: jax.Array,
  key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Idle codes start anew at vectors, drawn in proportion to how far theirs are.

  BEiT v2 leaves them dead, which pictures of ImageNet may afford; on plain pictures
  most would be.

  Args:
    codes_WR: the codes.
    idle_W: for each, the number of steps since a vector chose it.
    x_BPR: vectors of a batch.
    ids_BP: the codes that they chose.
    key: of the draw.

  Returns:
    The codes, and `idle_W`, which is 0 for codes that started anew.
  """
  W, R = codes_WR.shape
  x_TR = x_BPR.reshape(-1, R)
  num_new = min(W, len(x_TR) // 16)
  square_T = jnp.square(x_TR - codes_WR[ids_BP.reshape(-1)]).sum(axis=1)
  noise_T = jax.random.gumbel(key, square_T.shape)
  _, places = jax.lax.top_k(jnp.log(square_T + 1e-12) + noise_T, num_new)
  longest_idle, ids = jax.lax.top_k(idle_W, num_new)
  is_dead = longest_idle >= IDLE
  new = jnp.where(is_dead[:, None], x_TR[places], codes_WR[ids])
  return codes_WR.at[ids].set(new), idle_W.at[ids].set(
    jnp.where(is_dead, 0, longest_idle)
  )
