"""Language models of equal work that differ in one factor: config.py:ROW.

`run.py` beside this file trains them. D is the width of a token, H the number of its
sub-tokens; without a D it is 192, without an H 2.

  dense_D             no experts
  smoe_D              8 experts as wide as the dense FFN, 2 D, top-2, a linear router
  fine_D              16 experts of half the width, top-4
  mhmoe_D_H           H heads, head and merge layer, smoe_D's work; as many experts as
                      smoe_D's parameters allow
  equal_size          mhmoe with smoe's 8 experts, as wide as its parameters allow: more
                      work (2404.15045 Table 1)
  split, split_H      mhmoe without its head and merge layer, experts wider for it
  linear              smoe with a head and a merge layer, experts narrower for it
  narrow              smoe with experts as narrow as those of linear and as many, and no
                      head and merge layer: less work and parameters
  head, merge         mhmoe with one of the two alone
  split_512           split with that D
  languages,ROW       the same on 15 languages
  FACTOR=VALUE        mhmoe with another router, residual, sub_ln, start, rate ...
  smoe,FACTOR=VALUE   and smoe; smoe,router=cosine is X-MoE

Work and parameters are matched in the MoE layer without its router, as the papers do
it; `tests/experiments/test_when_it_pays.py` asserts how near whole models come.
"""

from collections.abc import Mapping
import dataclasses
from types import MappingProxyType
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.plan import matching

WIDTHS = {96: (2, 4), 192: (2, 3, 4, 8), 256: (2, 4)}
WIDTH, HEADS = 192, 2  # where the factors are changed one at a time
WIDE = 512  # of a few models, on an accelerator
LANGUAGES = (
  *("ar", "bg", "de", "el", "en", "es", "fr", "hi"),
  *("ru", "sw", "th", "tr", "ur", "vi", "zh"),
)
IN_LANGUAGES = ("smoe_192", "mhmoe_192_2", "split", "dense_192", "fine_192")
# What is changed, of the MoE layer or, with a point, of anything else. "start" is what
# `starts.py` does to initial values; "capacity" is that of experts in training and in
# evaluation, where all else drops nothing. Those of one model alone come last.
FACTORS = (
  {"router": "cosine"},
  {"router": "projected"},
  {"router": "projected", "router_dim": 96},
  {"renormalize": False},
  {"sub_ln": True},
  {"top_k": 1, "renormalize": False},  # a single weight of 1 teaches a router nothing
  {"top_k": 4},
  {"capacity": 1.0},
  {"start": "unit_variance"},
  {"start": "magneto"},
  {"init": "torch"},
  {"objective.balance_weight": 0.0},
  {"objective.balance_weight": 0.1},
  {"optimizer.weight_decay": 0.0},
  {"optimizer.warmup_steps": 20},
  {"optimizer.warmup_steps": 600},
  {"optimizer.rates": {"router": 0.3}},
  {"optimizer.rates": {"router": 3.0}},
  {"optimizer.rates": {"experts": 0.5}},
  {"optimizer.rates": {"experts": 2.0}},
)
FACTORS_OF_MHMOE = (
  {"residual": True},
  {"num_linear": 2},
  {"start": "identity_head"},
  {"start": "zero_merge"},
  {"optimizer.rates": {"head": 0.5, "merge": 0.5}},
  {"optimizer.rates": {"head": 2.0, "merge": 2.0}},
)


def name_of(factor: Mapping) -> str:
  """A factor as part of a row's name: "router=cosine", "head+merge_rate=0.5"."""
  parts = []
  for key, value in factor.items():
    if key == "optimizer.rates":
      parts.append(f"{'+'.join(value)}_rate={next(iter(value.values()))}")
    else:
      parts.append(f"{key.rpartition('.')[-1]}={value}")
  return ",".join(parts)


def _layer(width: int, **changes) -> MoeConfig:
  smoe = MoeConfig(
    num_heads=1,
    num_linear=0,
    num_experts=8,
    expert_dim=2 * width,
    top_k=2,
    use_bias=False,
    renormalize=True,
  )
  return dataclasses.replace(smoe, **changes)


def _same_work(width: int, **changes) -> MoeConfig:
  """A layer of the SMoE's work and, by the number of its experts, its size."""
  like, layer = _layer(width), _layer(width, **changes)
  dim = matching.match_expert_dim(layer, like, width, matching.macs)
  layer = dataclasses.replace(layer, expert_dim=dim)
  number = matching.match_num_experts(layer, like, width)
  return dataclasses.replace(layer, num_experts=number)


def _mhmoe(width: int = WIDTH, heads: int = HEADS, **changes) -> MoeConfig:
  return _same_work(width, **{"num_heads": heads, "num_linear": 1} | changes)


class Row(NamedTuple):
  """What makes a row."""

  width: int  # D
  layer: MoeConfig | None
  others: Mapping[str, object] = MappingProxyType(
    {}
  )  # changes to the config, "table.key" to value
  start: str = ""  # what is done to the initial values, one of `starts.STARTS`
  languages: bool = False  # instead of English


def _equal_size() -> MoeConfig:
  smoe, layer = _layer(WIDTH), _layer(WIDTH, num_heads=HEADS, num_linear=1)
  dim = matching.match_expert_dim(layer, smoe, WIDTH, matching.parameters)
  return dataclasses.replace(layer, expert_dim=dim)


def _changed(factor: Mapping, is_smoe: bool) -> Row:
  own = {key: value for key, value in factor.items() if "." not in key}
  others = {key: value for key, value in factor.items() if "." in key}
  start = own.pop("start", "")
  if "capacity" in own:
    room = own.pop("capacity")
    own |= {"dispatch": "capacity"}
    own |= {"capacity_factor": room, "eval_capacity_factor": room}
  if is_smoe and "top_k" not in own:
    layer = _layer(WIDTH, **own)
  else:
    layer = _same_work(WIDTH, **own) if is_smoe else _mhmoe(**own)
  return Row(WIDTH, layer, others, start)


def _rows() -> dict[str, Row]:
  rows = {}
  for width, numbers in WIDTHS.items():
    rows[f"dense_{width}"] = Row(width, None)
    rows[f"smoe_{width}"] = Row(width, _layer(width))
    fine = {"num_experts": 16, "expert_dim": width, "top_k": 4}
    rows[f"fine_{width}"] = Row(width, _layer(width, **fine))
    for heads in numbers:
      rows[f"mhmoe_{width}_{heads}"] = Row(width, _mhmoe(width, heads))
  rows["equal_size"] = Row(WIDTH, _equal_size())
  rows["split"] = Row(WIDTH, _mhmoe(num_linear=0))
  rows[f"dense_{WIDE}"] = Row(WIDE, None)
  rows[f"smoe_{WIDE}"] = Row(WIDE, _layer(WIDE))
  rows[f"mhmoe_{WIDE}_{HEADS}"] = Row(WIDE, _mhmoe(WIDE))
  rows[f"split_{WIDE}"] = Row(WIDE, _mhmoe(WIDE, num_linear=0))
  for heads in (4, 8):
    rows[f"split_{heads}"] = Row(WIDTH, _mhmoe(heads=heads, num_linear=0))
  linear = _mhmoe(heads=1)
  rows["linear"] = Row(WIDTH, linear)
  rows["narrow"] = Row(WIDTH, dataclasses.replace(linear, num_linear=0))
  rows["head"] = Row(WIDTH, _mhmoe(use_merge_layer=False))
  rows["merge"] = Row(WIDTH, _mhmoe(use_head_layer=False))
  for factor in (*FACTORS_OF_MHMOE, *FACTORS):
    rows[name_of(factor)] = _changed(factor, is_smoe=False)
  for factor in FACTORS:
    rows[f"smoe,{name_of(factor)}"] = _changed(factor, is_smoe=True)
  for name in IN_LANGUAGES:
    rows[f"languages,{name}"] = rows[name]._replace(languages=True)
  return rows


ROWS = _rows()


def get_config(name: str = f"mhmoe_{WIDTH}_{HEADS}", steps: int = 2_000) -> ConfigDict:
  """The config of a row, a tenth of its steps warm-up, with five evaluations."""
  if name not in ROWS:
    raise ValueError(f"the row must be one of {', '.join(ROWS)}, got {name!r}.")
  row = ROWS[name]
  config = base.get_config()
  model = config.model
  model.vocab_size = 2048
  model.num_layers = 4
  model.embed_dim = row.width
  model.num_attention_heads = max(2, row.width // 64)
  model.ffn_dim = 2 * row.width
  model.moe_every = 2
  model.use_bias = False
  model.scan_unroll = 2
  model.ffn = "dense"
  if row.layer is not None:
    is_smoe = row.layer.num_heads == 1 and row.layer.num_linear == 0
    model.ffn = "smoe" if is_smoe else "mhmoe"
    layer = dataclasses.asdict(row.layer)
    model.moe.update({key: layer[key] for key in model.moe if key in layer})
    # Biases and the norm inside follow the model's.
    model.use_bias, model.sub_ln = row.layer.use_bias, row.layer.sub_ln
    model.init = row.layer.init
  config.data.source = "text"
  config.data.train, config.data.valid = "data/train.txt", "data/valid.txt"
  config.data.vocabulary = "runs/tokens.model"
  config.data.sequence_length = 128
  config.data.shuffle_buffer = 2_000
  config.optimizer.schedule = "linear"
  config.optimizer.final_fraction = 0.0
  config.train.batch_size = 8  # 1,024 tokens
  config.train.eval_batches = 80
  config.train.log_every = 20
  config.train.keep_last = 5
  config.train.num_steps = steps
  config.optimizer.warmup_steps = max(1, steps // 10)
  config.train.eval_every = max(1, steps // 5)
  config.train.checkpoint_every = max(1, steps // 5)
  for key, value in row.others.items():
    table, field = key.split(".")
    config[table][field] = value
  if row.languages:
    config.data.mixture = {
      x: {"train": f"data/{x}.train.txt", "valid": f"data/{x}.valid.txt"}
      for x in LANGUAGES
    }
    config.data.vocabulary, model.vocab_size = "runs/languages.model", 4096
    config.train.eval_batches = 5  # of each language
  return config
