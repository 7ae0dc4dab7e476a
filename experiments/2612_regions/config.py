"""The models of the region study: config.py:ROW, such as h8.

`run.py` beside this file trains and traces them.

  h4, h8            4 or 8 heads and a pool of experts for each modality; the experts
                    have the same size in all, and an expert of h8 is twice as wide
  h4_shared         one pool for both modalities
  h8_shared

Pictures alone are photographs, pairs are the generator's shapes with their captions, so
that one model knows both.
"""

import pathlib

from configs import base_masked

EMBED_DIM = 96
VOCAB_SIZE = 512  # with [MASK]
ROWS = {
  "h4": (4, "modality"),
  "h8": (8, "modality"),
  "h4_shared": (4, "shared"),
  "h8_shared": (8, "shared"),
}


def get_config(row: str = "h8"):
  """The config of a row, such as "h8"."""
  if row not in ROWS:
    raise ValueError(f"the row must be one of {', '.join(ROWS)}, got {row!r}.")
  config = base_masked.get_config()
  model, moe, data = config.model, config.model.moe, config.data
  moe.num_heads, model.pools = ROWS[row]
  moe.num_experts = 16
  moe.expert_dim = EMBED_DIM * moe.num_heads // 4
  moe.renormalize = True
  model.vocab_size = VOCAB_SIZE
  model.num_codes = 256
  model.picture_size = 64
  model.patch_size = 8
  model.text_length = 64
  model.num_layers = 6
  model.embed_dim = EMBED_DIM
  model.num_attention_heads = 4
  model.ffn_dim = 2 * EMBED_DIM
  model.moe_last = 3
  model.drop_path = 0.0

  data.images.source = "npz"
  data.pairs.source = "shapes"
  data.pair_length = 56
  data.cut_pairs = True
  data.text.sequence_length = 48
  data.text.shuffle_buffer = 500
  config.optimizer.learning_rate = 2e-3
  config.optimizer.final_fraction = 0.0
  config.train.batch_size = 8
  config.train.log_every = 50
  config.train.eval_batches = 20
  config.train.image_every = 0
  set_data(config, pathlib.Path("data"), pathlib.Path("runs/regions"))
  return config


def set_data(config, data: pathlib.Path, out: pathlib.Path) -> None:
  """Points a config to the photographs in `data` and the vocabulary in `out`."""
  config.data.images.train = str(data / "caltech_train.npz")
  config.data.images.valid = str(data / "caltech_valid.npz")
  config.data.text.vocabulary = str(out / "tokens.model")


def set_steps(config, steps: int) -> None:
  """Trains for so many steps, and keeps the states at eighths of them."""
  train, optimizer = config.train, config.optimizer
  train.num_steps = steps
  train.eval_every = steps
  train.checkpoint_every = max(1, steps // 8)
  train.keep_last = 8
  optimizer.warmup_steps = steps // 10
