"""Minutes on two CPU cores: statements about two generated pictures of shapes.

  mhmoe train --config configs/tiny_multimodal.py --workdir runs/mm
  mhmoe train --config configs/finetune/nlvr.py --config.init=runs/mm --workdir runs/two

`configs/finetune/nlvr.py:dense` and `:smoe` start from those of tiny_multimodal.py.
Without `config.init` it trains from scratch. Beside a setting is that of BEiT-3 base on
NLVR2 (its released code; the 1.9B model of 2208.10442 Table 12 in brackets).
"""

from configs import base_finetune, tiny_multimodal


def get_config(ffn: str = "mhmoe"):
  """The config of `ffn`: "mhmoe", or the baseline "smoe" or "dense"."""
  config = base_finetune.tune(tiny_multimodal.get_config(ffn), "nlvr")
  config.model.picture_size = 32  # 224 [224]
  config.model.drop_path = 0.0  # 0.2 [0.4]
  config.optimizer.learning_rate = 1e-3  # 7e-4 [1e-3]
  config.optimizer.layer_decay = 0.8  # 0.65 [0.8]
  config.optimizer.weight_decay = 0.05  # 0.2 [0.05]
  config.optimizer.b2 = 0.98  # 0.999 [0.98]
  config.optimizer.warmup_steps = 50  # 5 of 20 epochs [5 of 20]
  config.train.num_steps = 400  # 20 epochs [20]
  config.train.batch_size = 32  # 256 [256]
  config.train.eval_every = 200
  config.train.checkpoint_every = 200
  return config
