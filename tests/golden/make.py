"""Computes golden.json with PyTorch, in float64: what the formulas mean to others.

  python -m venv torch_env && torch_env/bin/pip install torch==2.13.0 numpy
  torch_env/bin/python -m tests.golden.make

PyTorch is not among the project's packages: the tests read the numbers. Nothing of
mhmoe_jax is called here, only PyTorch's own functions and optimizer.
"""

import numpy as np
import torch
from torch.nn import functional as F

from tests.golden import golden


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
  return {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}


def _with_gradients(y: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict:
  """The value, and the gradient of its product with a wave for each input."""
  (y * torch.tensor(golden.wave(0.3, *y.shape))).sum().backward()
  gradients = {f"d_{name}": x.grad.numpy() for name, x in inputs.items()}
  return {"y": y.detach().numpy()} | gradients


def gelu(approximate: str) -> dict:
  inputs = _tensors({"x": np.linspace(-6, 6, 25)})
  return _with_gradients(F.gelu(inputs["x"], approximate=approximate), inputs)


def norm(kind: str, epsilon: float) -> dict:
  inputs = _tensors(golden.waves(1, x=(3, 6), scale=(6,), bias=(6,)))
  if kind == "rmsnorm":
    del inputs["bias"]
    y = F.rms_norm(inputs["x"], (6,), inputs["scale"], epsilon)
  else:
    y = F.layer_norm(inputs["x"], (6,), inputs["scale"], inputs["bias"], epsilon)
  return _with_gradients(y, inputs)


def ffn(activation: str, kind: str, epsilon: float) -> dict:
  """With a bias everywhere and a norm on the hidden activations."""
  shapes = {"x": (3, 4), "w_in": (4, 6), "w_out": (6, 4), "b_in": (6,), "b_out": (4,)}
  shapes |= {"scale": (6,), "bias": (6,), "w_gate": (4, 6), "b_gate": (6,)}
  inputs = _tensors(golden.waves(2, **shapes))
  i = inputs
  h = F.linear(i["x"], i["w_in"].T, i["b_in"])
  if activation == "swiglu":
    h = h * F.silu(F.linear(i["x"], i["w_gate"].T, i["b_gate"]))
  else:
    del inputs["w_gate"], inputs["b_gate"]
    h = F.gelu(h, approximate="tanh" if activation == "gelu_tanh" else "none")
  if kind == "rmsnorm":
    del inputs["bias"]
    h = F.rms_norm(h, (6,), i["scale"], epsilon)
  else:
    h = F.layer_norm(h, (6,), i["scale"], i["bias"], epsilon)
  return _with_gradients(F.linear(h, i["w_out"].T, i["b_out"]), inputs)


def _rotate(x_BALQ, positions_BL, theta: float):
  """Rotary positions by complex numbers, halves as real and imaginary parts."""
  half = x_BALQ.shape[-1] // 2
  speed = theta ** (-torch.arange(half, dtype=torch.float64) * 2 / x_BALQ.shape[-1])
  turn = torch.polar(
    torch.ones(()).double(), positions_BL[:, None, :, None].double() * speed
  )
  turned = torch.complex(x_BALQ[..., :half], x_BALQ[..., half:]) * turn
  return torch.cat([turned.real, turned.imag], dim=-1)


def _attention(x, p, positions_BL, segments_BL, heads: int, theta: float):
  """`p` has the weights of `F.linear` for q, k, v and o, transposed, and biases."""
  B, L, D = x.shape

  def split(name):
    y = F.linear(x, p[f"w_{name}"].T, p.get(f"b_{name}"))
    return y.reshape(B, L, heads, D // heads).transpose(1, 2)

  q, k, v = split("q"), split("k"), split("v")
  q, k = (_rotate(y, positions_BL, theta) for y in (q, k))
  mask = (segments_BL[:, :, None] == segments_BL[:, None, :]).tril()
  y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
  y = y.transpose(1, 2).reshape(B, L, D)
  return F.linear(y, p["w_o"].T, p.get("b_o"))


POSITIONS = [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
SEGMENTS = [[1, 1, 1, 2, 2], [1, 1, 1, 1, 1]]


def attention() -> dict:
  shapes = {"x": (2, 5, 8)} | {f"w_{n}": (8, 8) for n in "qkvo"}
  inputs = _tensors(golden.waves(3, **shapes, **{f"b_{n}": (8,) for n in "qkvo"}))
  places = torch.tensor(POSITIONS), torch.tensor(SEGMENTS)
  y = _attention(inputs["x"], inputs, *places, heads=2, theta=50.0)
  return _with_gradients(y, inputs)


def decoder() -> dict:
  """Two dense pre-norm blocks with SwiGLU, RMSNorm and tied, scaled embeddings."""
  shapes = {"embed": (7, 8), "final_norm": (8,)}
  for i in range(2):
    shapes |= {f"{i}_w_{n}": (8, 8) for n in "qkvo"}
    shapes |= {f"{i}_attention_norm": (8,), f"{i}_ffn_norm": (8,)}
    shapes |= {f"{i}_w_in": (8, 6), f"{i}_w_gate": (8, 6), f"{i}_w_out": (6, 8)}
  inputs = _tensors(golden.waves(4, **shapes))
  places = torch.tensor(POSITIONS), torch.tensor(SEGMENTS)
  x = F.embedding(torch.tensor(TOKENS), inputs["embed"]) * 8**0.5
  for i in range(2):
    p = {k[2:]: v for k, v in inputs.items() if k.startswith(f"{i}_")}
    y = F.rms_norm(x, (8,), p["attention_norm"], 1e-2)
    x = x + _attention(y, p, *places, heads=2, theta=50.0)
    y = F.rms_norm(x, (8,), p["ffn_norm"], 1e-2)
    x = x + (F.silu(y @ p["w_gate"]) * (y @ p["w_in"])) @ p["w_out"]
  logits = F.rms_norm(x, (8,), inputs["final_norm"], 1e-2) @ inputs["embed"].T
  losses = F.cross_entropy(
    logits.reshape(-1, 7), torch.tensor(TARGETS).reshape(-1), reduction="none"
  )
  weights = torch.tensor(WEIGHTS).double()
  loss = (losses * weights.reshape(-1)).sum() / weights.sum()
  loss.backward()
  gradients = {f"d_{name}": x.grad.numpy() for name, x in inputs.items()}
  return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()} | gradients


TOKENS = [[3, 1, 4, 1, 5], [2, 6, 5, 3, 0]]
TARGETS = [[1, 4, 2, 5, 0], [6, 5, 3, 0, 2]]
WEIGHTS = [[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]


def projected_router() -> dict:
  """torchscale's: the embeddings are overwritten at a norm of 1.5, then normalised."""
  inputs = _tensors(golden.waves(5, x=(4, 6), w=(6, 3), embed=(5, 3)))
  with torch.no_grad():
    embed = inputs["embed"]
    embed.mul_(1.5 / embed.norm(p=2.0, dim=1, keepdim=True))
  y = inputs["x"] @ inputs["w"] @ F.normalize(embed, p=2.0, dim=1, eps=1e-4).T
  return _with_gradients(y, inputs) | {"embed": embed.detach().numpy()}


def optimizer() -> dict:
  """Three steps of AdamW, the first at half the rate; two gradients are clipped."""
  p = {k: torch.nn.Parameter(v) for k, v in _tensors(PARAMS).items()}
  adam = torch.optim.AdamW(
    [{"params": [p["w"]], "weight_decay": 0.1}, {"params": [p["b"]]}],
    betas=(0.9, 0.98),
    eps=1e-2,
    weight_decay=0.0,
  )
  for step, (rate, size) in enumerate(((0.05, 2.0), (0.1, 1.0), (0.1, 0.1))):
    for group in adam.param_groups:
      group["lr"] = rate
    for i, x in enumerate(p.values()):
      x.grad = torch.tensor(size * golden.wave(7 + 2 * step + i, *x.shape))
    norm = torch.sqrt(sum((x.grad**2).sum() for x in p.values()))
    for x in p.values():
      x.grad *= min(1.0, 0.8 / norm)
    adam.step()
  return {k: x.detach().numpy() for k, x in p.items()}


PARAMS = golden.waves(6, w=(3, 4), b=(4,))


if __name__ == "__main__":
  golden.save(
    {
      "gelu": gelu("none"),
      "gelu_tanh": gelu("tanh"),
      "rmsnorm": norm("rmsnorm", 1e-2),
      "layernorm": norm("layernorm", 1e-2),
      "ffn_gelu_layernorm": ffn("gelu", "layernorm", 1e-2),
      "ffn_gelu_tanh_rmsnorm": ffn("gelu_tanh", "rmsnorm", 1e-2),
      "ffn_swiglu_rmsnorm": ffn("swiglu", "rmsnorm", 1e-2),
      "attention": attention(),
      "decoder": decoder(),
      "projected_router": projected_router(),
      "optimizer": optimizer(),
    }
  )
