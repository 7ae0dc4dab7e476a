"""22 billion parameters, at most 4.1 billion active, on two slices of 256 v5p chips.

  mhmoe plan --config configs/pod/large.py --topology v5p:4x8x8 --slices 2
  mhmoe train --config configs/pod/large.py --workdir gs://BUCKET/large

On v5p 45.8 of 95.74 GiB a chip; at peak rates 707 ms of computation and 112 ms of
communication a step of 4,194,304 tokens, so 59.3 to 68.7 % MFU at most.

Not a paper's model: 2411.16205's block, deeper and wider, with 256 experts in each of
16 layers. Its learning rate has not been tried.
"""

from configs.paper2 import redpajama


def get_config():
  """Experts over 16 neighbours, parameters over 16 more, gradients between slices."""
  config = redpajama.get_config("mhmoe_h3")
  model, moe = config.model, config.model.moe
  model.num_layers = 32
  model.embed_dim = 3072
  model.num_attention_heads = 24
  model.ffn_dim = 8192
  model.remat = "norms"
  moe.num_heads = 4
  moe.num_experts = 256
  moe.top_k = 4
  moe.expert_dim = 2048
  moe.dispatch = "capacity"
  moe.capacity_factor = 1.25
  config.mesh.replica = 2
  config.mesh.data = 16
  config.mesh.expert = 16
  config.mesh.fsdp = True
  config.train.batch_size = 2048  # 4M tokens
  return config
