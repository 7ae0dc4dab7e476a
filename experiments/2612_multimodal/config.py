"""The paper's masked multi-modal models in miniature: config.py:ROW, such as mhmoe_8.

`run.py` beside this file trains them.

  dense             BEiT-3's multiway encoder, small
  xmoe_N            two pools of N experts as wide as the dense FFN, top-2
  mhmoe_N           4 heads, N experts, X-MoE's size: 2404.15045, which makes its work
                    four times X-MoE's
  mhmoe_flops_N     4 heads, X-MoE's work, experts for X-MoE's size: 2411.16205
  mhmoe_8_shared    one pool of 16 experts for both modalities, mhmoe_8's size
  mhmoe_8_second    MoE layers in blocks 2, 4 and 6, not in the last three

Sizes and work are matched as the papers do, in the MoE layer without its router.
"""

import pathlib

from configs import base_masked
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.plan import matching

EMBED_DIM = 96
DENSE_DIM = 384
VOCAB_SIZE = 2_048  # with [MASK]
NUM_CODES = 512
_PLAIN = {"activation": "gelu", "use_bias": True, "sub_ln": True}
_PLAIN |= {"ffn_norm": "layernorm"}


def _xmoe(n: int) -> dict:
  return {"num_heads": 1, "num_linear": 0, "num_experts": n, "expert_dim": DENSE_DIM}


def _layer(changes: dict) -> MoeConfig:
  return MoeConfig(**_PLAIN | {"top_k": 2, "num_heads": 4, "expert_dim": 1} | changes)


def _same_size(n: int) -> dict:
  layer = {"num_experts": n}
  like, count = _layer(_xmoe(n)), matching.parameters
  width = matching.match_expert_dim(_layer(layer), like, EMBED_DIM, count)
  return layer | {"expert_dim": width}


def _same_work(n: int) -> dict:
  like, layer = _layer(_xmoe(n)), {"num_experts": n}
  width = matching.match_expert_dim(_layer(layer), like, EMBED_DIM, matching.macs)
  layer["expert_dim"] = width
  number = matching.match_num_experts(_layer(layer), like, EMBED_DIM)
  return layer | {"num_experts": number}


ROWS = {
  "dense": ("dense", {}, {}),
  "xmoe_8": ("smoe", _xmoe(8), {}),
  "mhmoe_8": ("mhmoe", _same_size(8), {}),
  "mhmoe_flops_8": ("mhmoe", _same_work(8), {}),
  "xmoe_32": ("smoe", _xmoe(32), {}),
  "mhmoe_32": ("mhmoe", _same_size(32), {}),
  "mhmoe_8_shared": ("mhmoe", _same_size(8) | {"num_experts": 16}, {"pools": "shared"}),
  "mhmoe_8_second": ("mhmoe", _same_size(8), {"moe_last": 6, "moe_every": 2}),
}


def get_config(row: str = "mhmoe_8"):
  """The config of a row, such as "mhmoe_8"."""
  if row not in ROWS:
    raise ValueError(f"the row must be one of {', '.join(ROWS)}, got {row!r}.")
  config = base_masked.get_config()
  model, moe, data = config.model, config.model.moe, config.data
  model.vocab_size = VOCAB_SIZE
  model.num_codes = NUM_CODES
  model.picture_size = 64
  model.patch_size = 8
  model.text_length = 64
  model.num_layers = 6
  model.embed_dim = EMBED_DIM
  model.num_attention_heads = 4
  model.ffn_dim = DENSE_DIM
  model.moe_last = 3
  model.drop_path = 0.0
  moe.router = "projected"
  moe.renormalize = True
  model.ffn, changes, others = ROWS[row]
  moe.update(changes)
  model.update(others)

  data.images.source = data.pairs.source = "npz"
  data.pairs.text_key = "text"
  data.pair_length = 32
  data.cut_pairs = True
  data.text.source = "text"
  data.text.sequence_length = 64
  data.text.shuffle_buffer = 2_000
  data.codes.kind, data.codes.steps = "kmeans", 20

  config.optimizer.weight_decay = 0.05
  config.train.batch_size = 8
  config.train.log_every = 50
  config.train.eval_batches = 40
  config.train.image_every = 0
  set_data(config, pathlib.Path("data"), pathlib.Path("runs/multimodal"))
  return config


def set_data(config, folder: pathlib.Path, out: pathlib.Path) -> None:
  """Points a config to the pictures and texts in `folder`, README.md says which."""
  data = config.data

  def files(names: str, split: str, ending: str) -> str:
    return ",".join(str(folder / f"{name}_{split}.{ending}") for name in names.split())

  for split in ("train", "valid"):
    setattr(data.images, split, files("caltech clothing", split, "npz"))
    setattr(data.pairs, split, files("emoji openclipart", split, "npz"))
    setattr(data.text, split, files("text", split, "txt"))
  data.text.vocabulary = str(out / "tokens.model")
  data.codes.path = str(out / "codes")


def set_steps(config, steps: int) -> None:
  """Trains for so many steps, of 8 examples of each kind."""
  train, optimizer = config.train, config.optimizer
  train.num_steps = steps
  train.eval_every = train.checkpoint_every = max(1, steps // 3)
  optimizer.schedule = "cosine"
  optimizer.final_fraction = 0.0
  optimizer.warmup_steps = steps // 10
