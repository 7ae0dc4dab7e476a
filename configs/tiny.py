"""Minutes on two CPU cores: MH-MoE on Tiny Shakespeare, to 2.49 - 2.52 bits per byte.

  mhmoe train --config configs/tiny.py --workdir runs/tiny

`configs/tiny.py:dense` and `configs/tiny.py:smoe` are its baselines. The SMoE has as
many parameters in its experts (they see whole tokens, h times wider, so they are h
times narrower inside), 10 % fewer in all, and does 0.6 of the work; the dense model is
the same without experts.
"""

from configs import base


def get_config(ffn: str = "mhmoe"):
  """The config of `ffn`: "mhmoe", or the baseline "smoe" or "dense"."""
  config = base.get_config()
  config.model.ffn = ffn
  # In the same time, two blocks and twice the steps learn more than four blocks.
  config.model.num_layers = 2
  config.model.moe_every = 1
  config.model.embed_dim = 96
  config.model.num_attention_heads = 2
  config.model.activation = "swiglu"
  config.model.scan_unroll = 2
  config.model.ffn_dim = 192
  config.model.moe.num_heads = 4
  config.model.moe.num_experts = 16
  config.model.moe.expert_dim = 96
  if ffn == "smoe":
    config.model.moe.expert_dim //= config.model.moe.num_heads

  config.data.sequence_length = 128
  config.data.shuffle_buffer = 10_000  # all of the corpus
  config.optimizer.learning_rate = 4e-3
  config.optimizer.b2 = 0.99
  config.optimizer.final_fraction = 0.0
  config.optimizer.warmup_steps = 50
  config.train.num_steps = 2_000
  config.train.batch_size = 8
  config.train.log_every = 40
  config.train.eval_every = 1_000
  config.train.checkpoint_every = 500
  return config
