"""Minutes on two CPU cores: captions of generated pictures of shapes.

  mhmoe train --config configs/tiny_multimodal.py --workdir runs/mm
  mhmoe train --config configs/finetune/captioning.py --workdir runs/captioning

and behind the second `--config.init=runs/mm`. Without it it trains from scratch.
`configs/finetune/captioning.py:dense`, `:smoe` start from those of tiny_multimodal.py.
Beside a setting is that of BEiT-3 base on COCO (its released code; the 1.9B model of
2208.10442 Table 13 in brackets).
"""

from configs import base_finetune, tiny_multimodal


def get_config(ffn: str = "mhmoe"):
  """The config of `ffn`: "mhmoe", or the baseline "smoe" or "dense"."""
  config = base_finetune.tune(tiny_multimodal.get_config(ffn), "captioning")
  config.model.picture_size = 32  # 480 [392], of 224 in pre-training
  config.model.drop_path = 0.0  # 0.1 [0.3]
  # 0.7 [0.6]: of words. Of letters a model that sees so few learns no word.
  config.data.mask_share = 0.3
  config.objective.label_smoothing = 0.0  # 0.1 [0.1]
  config.optimizer.learning_rate = 2e-3  # 4e-5 [8e-6]
  config.optimizer.layer_decay = 1.0  # 1.0 [1.0]
  config.optimizer.weight_decay = 0.05  # 0.05 [0.01]
  config.optimizer.b2 = 0.98
  config.optimizer.warmup_steps = 50  # 1 of 10 epochs [1.6k of 16k steps]
  config.train.num_steps = 1_500  # 10 epochs [16k steps]
  config.train.batch_size = 16  # 256 [256]
  config.train.eval_every = 500
  config.train.checkpoint_every = 500
  return config
