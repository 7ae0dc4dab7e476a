"""The encoder that torchscale's numbers in encoder.json are of; see make_encoder.py."""

import zlib

import numpy as np

from tests.golden import golden

PICTURE, PATCH, VOCAB, TEXT = 8, 4, 11, 5
D, HEADS, F, LAYERS = 8, 2, 12, 2
PIXELS = golden.wave(1.0, 2, 3, PICTURE, PICTURE)
MASKED = np.array([[False, True, False, False], [True, False, False, True]])
TOKENS = np.array([[3, 1, 4, 1, 0], [2, 7, 10, 8, 0]])
SEGMENTS = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
PADDED = 1  # tokens at the end
GRADIENTS = (
  "text_embed.weight",
  "vision_embed.mask_token",
  "vision_embed.proj.weight",
  "encoder.embed_positions.B.weight",
  "encoder.layers.0.self_attn.k_proj.A.weight",
  "encoder.layers.0.self_attn.inner_attn_ln.B.weight",
  "encoder.layers.1.ffn.A.fc1.weight",
  "encoder.layers.1.ffn.B.ffn_layernorm.bias",
)


def weight(name: str, *shape: int) -> np.ndarray:
  """The weight of a name of torchscale's, in its shape."""
  w = 0.4 * golden.wave(zlib.crc32(name.encode()) % 1000, *shape)
  is_scale = name.endswith("weight") and ("norm" in name or "_ln" in name)
  return 1 + w if is_scale else w
