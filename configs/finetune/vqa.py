"""Minutes on two CPU cores: questions about generated pictures of shapes.

  mhmoe train --config configs/tiny_multimodal.py --workdir runs/mm
  mhmoe train --config configs/finetune/vqa.py --config.init=runs/mm --workdir runs/vqa

`configs/finetune/vqa.py:dense` and `:smoe` start from those of tiny_multimodal.py.
Without `config.init` it trains from scratch. Beside a setting is that of BEiT-3 base on
VQA v2 (its released code; the 1.9B model of 2208.10442 Table 12 in brackets).
"""

from configs import base_finetune, tiny_multimodal


def get_config(ffn: str = "mhmoe"):
  """The config of `ffn`: "mhmoe", or the baseline "smoe" or "dense"."""
  config = base_finetune.tune(tiny_multimodal.get_config(ffn), "vqa")
  config.model.picture_size = 32  # 480 [756], of 224 in pre-training
  config.model.drop_path = 0.0  # 0.1 [0.4]
  config.optimizer.learning_rate = 1e-3  # 3e-5 [1e-5]
  config.optimizer.rates = {}  # {"answer_head": 20} [20]
  config.optimizer.layer_decay = 1.0  # 1.0 [1.0]
  config.optimizer.weight_decay = 0.01  # 0.01 [0.01]
  config.optimizer.b2 = 0.98  # 0.98 [0.98]
  config.optimizer.warmup_steps = 50  # 1 of 10 epochs [1 of 10]
  config.train.num_steps = 800  # 10 epochs [10]
  config.train.batch_size = 32  # 128 [128]
  config.train.eval_every = 400
  config.train.checkpoint_every = 400
  return config
