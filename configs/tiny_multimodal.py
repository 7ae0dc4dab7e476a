"""Minutes on two CPU cores: masked modelling of generated pictures, texts and both.

  mhmoe train --config configs/tiny_multimodal.py --workdir runs/tiny_mm

`configs/tiny_multimodal.py:dense` and `configs/tiny_multimodal.py:smoe` are its
baselines. The text is Tiny Shakespeare, and the captions of the shapes.
"""

from configs import base_masked


def get_config(ffn: str = "mhmoe"):
  """The config of `ffn`: "mhmoe", or the baseline "smoe" or "dense"."""
  config = base_masked.get_config()
  config.model.ffn = ffn
  config.model.num_layers = 3
  config.model.embed_dim = 96
  config.model.num_attention_heads = 2
  config.model.ffn_dim = 192
  config.model.moe_last = 2
  config.model.moe.num_heads = 4
  config.model.moe.num_experts = 8
  config.model.moe.expert_dim = 96
  if ffn == "smoe":
    config.model.moe.expert_dim //= config.model.moe.num_heads
  config.model.drop_path = 0.0
  config.model.num_codes = 256
  config.data.text.sequence_length = 64
  config.optimizer.learning_rate = 2e-3
  config.optimizer.b2 = 0.98
  config.optimizer.final_fraction = 0.0
  config.optimizer.warmup_steps = 50
  config.train.num_steps = 500
  config.train.batch_size = 16
  config.train.log_every = 20
  config.train.eval_every = 250
  config.train.checkpoint_every = 250
  config.train.image_every = 100
  return config
