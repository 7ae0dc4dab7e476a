"""Computes encoder.json with torchscale's BEiT-3: the code that Microsoft released.

  python -m venv torchscale_env
  torchscale_env/bin/pip install torch==2.13.0 numpy
  torchscale_env/bin/pip install --no-deps torchscale==0.3.0 fairscale==0.4.0 \
    timm==0.6.13 einops
  torchscale_env/bin/python -m tests.golden.make_encoder

None of these is among the project's packages: the tests read the numbers.
"""

import torch
from torchscale.architecture.config import EncoderConfig
from torchscale.model.BEiT3 import BEiT3

from tests.golden import encoder, golden


def build() -> BEiT3:
  model = BEiT3(
    EncoderConfig(
      img_size=encoder.PICTURE,
      patch_size=encoder.PATCH,
      vocab_size=encoder.VOCAB,
      max_source_positions=encoder.TEXT + 2,
      encoder_embed_dim=encoder.D,
      encoder_attention_heads=encoder.HEADS,
      encoder_ffn_embed_dim=encoder.F,
      encoder_layers=encoder.LAYERS,
      multiway=True,
      normalize_output=True,
      no_output_layer=True,
      layernorm_embedding=False,
    )
  )
  model.double().eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(torch.tensor(encoder.weight(name, *parameter.shape)))
  return model


def main() -> None:
  model = build()
  picture = {
    "visual_tokens": torch.tensor(encoder.PIXELS),
    "vision_masked_position": torch.tensor(encoder.MASKED),
  }
  text = {
    "textual_tokens": torch.tensor(encoder.TOKENS),
    "text_padding_position": torch.tensor(encoder.SEGMENTS) == 0,
  }
  entries = {}
  for kind, inputs in (("pair", picture | text), ("image", picture), ("text", text)):
    model.zero_grad()
    x = model(**inputs)["encoder_out"]
    if kind != "image":  # What stands at padding means nothing.
      x = x[:, : x.shape[1] - encoder.PADDED]
    (x * torch.tensor(golden.wave(0.3, *x.shape))).sum().backward()
    gradients = {
      f"d_{name}": parameter.grad.numpy()
      for name, parameter in model.named_parameters()
      if name in encoder.GRADIENTS and parameter.grad is not None
    }
    entries[kind] = {"x": x.detach().numpy()} | gradients
  golden.save(entries, "encoder.json")


if __name__ == "__main__":
  main()
