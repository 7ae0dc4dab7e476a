"""Makes the golden models of tests/interop: tiny, random, with transformers' logits.

  PYTHONPATH=. python experiments/2611_interop/golden.py tests/interop/golden

needs torch and transformers, which nothing else here does; float32 on a CPU.
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

SIZES = {
  "vocab_size": 40,
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "intermediate_size": 24}
MODELS = {
  "llama": transformers.LlamaConfig(
    **SIZES, head_dim=6, intermediate_size=24, rms_norm_eps=1e-3
  ),
  "llama_tied": transformers.LlamaConfig(
    **SIZES | {"num_key_value_heads": 1},
    intermediate_size=24,
    tie_word_embeddings=True,
  ),
  "mixtral": transformers.MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4),
  "olmoe": transformers.OlmoeConfig(**SIZES, **EXPERTS, num_experts=4, pad_token_id=0),
  "qwen3_moe": transformers.Qwen3MoeConfig(
    **SIZES | {"num_hidden_layers": 4},
    **EXPERTS,
    head_dim=6,
    moe_intermediate_size=12,
    num_experts=4,
    decoder_sparse_step=2,
    norm_topk_prob=True,
  ),
}


def main(out: str) -> None:
  """Writes a folder for each model, with its logits of a few tokens."""
  for name, config in MODELS.items():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
      # Fresh models have weights so small that an error could hide in them.
      for parameter in model.parameters():
        parameter.copy_(0.5 * torch.randn_like(parameter))
      tokens = torch.randint(40, (2, 12))
      logits = model(tokens).logits
    folder = pathlib.Path(out) / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    np.savez(folder / "golden.npz", tokens=tokens.numpy(), logits=logits.numpy())


if __name__ == "__main__":
  main(*sys.argv[1:])
