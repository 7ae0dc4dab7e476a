"""The papers' language models in miniature: config.py:ROW, such as config.py:mhmoe_8.

`run.py` beside this file trains them. A comma and "multilingual" after the row take the
other data.

  dense               no experts
  smoe_N              X-MoE with a linear router
  xmoe_N              N experts as wide as the dense FFN, top-2, torchscale's router
  fine_N              2 N experts of half the width, top-4: X-MoE's size and work
  mhmoe_N             4 heads, N experts, X-MoE's size: 2404.15045, which makes its
                      work four times X-MoE's
  mhmoe_flops_N       4 heads, X-MoE's work, experts for X-MoE's size: 2411.16205
  heads_H             Table 5: H = 2, 6, 8, 12 in X-MoE's size; 4 is mhmoe_8
  dense_mlp, xmoe_mlp Table 6: head and merge layers, nothing split
  mhmoe_without_mlp   Table 6: split and merged, no linear layers; Table 7, n = 0
  linear_N            Table 7: N = 2, 3 layers for head and merge each; 1 is mhmoe_8
  balance_W           mhmoe_8 with this balance weight: 0, 0.001, 0.1; it has 0.01

Sizes and work are matched as the papers do, in the MoE layer without its router;
`tests/experiments/test_small_tables.py` asserts how near whole models come. Tables 6
and 7 give nothing back, as in `configs/paper1/english.py`.
"""

from configs import base
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.plan import matching

EMBED_DIM = 96
DENSE_DIM = 384
VOCABULARIES = {"english": 2048, "multilingual": 4096}
# fmt: off
LANGUAGES = (
  "ar", "bg", "de", "el", "en", "es", "fr", "hi",
  "ru", "sw", "th", "tr", "ur", "vi", "zh",
)
# fmt: on
COUNTS = (8, 16, 32, 64, 128, 256)
HEADS = (2, 6, 8, 12)  # 4 is mhmoe_8
BALANCE = (0.0, 0.001, 0.1)  # 0.01 is mhmoe_8
# What a row is trained as: rows of one kind share a learning rate.
KINDS = ("dense", "smoe", "xmoe", "fine", "mhmoe", "mhmoe_flops")

# The results were made with GELU's tanh approximation, then the only one, and with
# router embeddings of free length.
_PLAIN = {"activation": "gelu_tanh", "use_bias": False}


def _xmoe(n: int) -> dict:
  return {"num_heads": 1, "num_linear": 0, "num_experts": n, "expert_dim": DENSE_DIM}


def _layer(changes: dict) -> MoeConfig:
  return MoeConfig(**_PLAIN | {"top_k": 2, "num_heads": 4, "expert_dim": 1} | changes)


def _same_size(changes: dict) -> dict:
  like = _layer(_xmoe(changes["num_experts"]))
  width = matching.match_expert_dim(
    _layer(changes), like, EMBED_DIM, matching.parameters
  )
  return changes | {"expert_dim": width}


def _same_work(n: int) -> dict:
  like, layer = _layer(_xmoe(n)), {"num_experts": n}
  width = matching.match_expert_dim(_layer(layer), like, EMBED_DIM, matching.macs)
  layer["expert_dim"] = width
  number = matching.match_num_experts(_layer(layer), like, EMBED_DIM)
  return layer | {"num_experts": number}


_FINE = {"top_k": 4, "expert_dim": DENSE_DIM // 2}
_MHMOE = _same_size({"num_experts": 8})
ROWS = (
  {"dense": ("dense", {})}
  | {f"smoe_{n}": ("smoe", _xmoe(n) | {"router": "linear"}) for n in COUNTS}
  | {f"xmoe_{n}": ("smoe", _xmoe(n)) for n in COUNTS}
  | {f"fine_{n}": ("smoe", _xmoe(2 * n) | _FINE) for n in COUNTS}
  | {f"mhmoe_{n}": ("mhmoe", _same_size({"num_experts": n})) for n in COUNTS}
  | {f"mhmoe_flops_{n}": ("mhmoe", _same_work(n)) for n in COUNTS}
  | {
    f"heads_{h}": ("mhmoe", _same_size({"num_experts": 8, "num_heads": h}))
    for h in HEADS
  }
  | {
    # One expert that every token goes to is a dense FFN, and has no router.
    "dense_mlp": ("mhmoe", _xmoe(1) | {"top_k": 1, "num_linear": 1}),
    "xmoe_mlp": ("mhmoe", _xmoe(8) | {"num_linear": 1}),
    "mhmoe_without_mlp": ("mhmoe", _MHMOE | {"num_linear": 0}),
  }
  | {f"linear_{n}": ("mhmoe", _MHMOE | {"num_linear": n}) for n in (2, 3)}
  | {f"balance_{weight:g}": ("mhmoe", _MHMOE) for weight in BALANCE}
)


def kind_of(row: str) -> str:
  """The kind whose learning rate a row takes."""
  if row.startswith("dense"):
    return "dense"
  if row == "xmoe_mlp":
    return "xmoe"
  kind = row.rpartition("_")[0]
  return kind if kind in KINDS else "mhmoe"


def get_config(row: str = "mhmoe_8"):
  """The config of a row, such as "mhmoe_8" or "mhmoe_8,multilingual"."""
  row, _, language = row.partition(",")
  if row not in ROWS or language not in ("", *VOCABULARIES):
    raise ValueError(
      f"the row must be one of {', '.join(ROWS)}, with nothing or "
      f"{' or '.join(f',{name}' for name in VOCABULARIES)} after it, got {row!r} "
      f"and {language!r}."
    )
  config = base.get_config()
  model, moe = config.model, config.model.moe
  language = language or "english"
  model.vocab_size = VOCABULARIES[language]
  model.num_layers = 4
  model.embed_dim = EMBED_DIM
  model.num_attention_heads = 2
  model.ffn_dim = DENSE_DIM
  model.moe_every = 2
  model.update(_PLAIN)
  model.scan_unroll = 2

  moe.num_heads = 4
  moe.top_k = 2
  moe.router = "projected"
  moe.router_dim = 16
  moe.router_norm = 0.0
  moe.renormalize = True
  model.ffn, changes = ROWS[row]
  moe.update(changes)
  if row.startswith("balance_"):
    config.objective.balance_weight = float(row.removeprefix("balance_"))

  config.data.source = "text"
  config.train.eval_batches = 40
  if language == "english":
    config.data.train = "data/english/train.txt"
    config.data.valid = "data/english/valid.txt"
  else:
    config.data.mixture = {
      x: {part: f"data/multilingual/{x}.{part}.txt" for part in ("train", "valid")}
      for x in LANGUAGES
    }
    config.train.eval_batches = 5  # of each language
  config.data.vocabulary = f"runs/{language}.model"
  config.data.sequence_length = 128
  config.data.shuffle_buffer = 2_000

  config.optimizer.schedule = "linear"
  config.optimizer.final_fraction = 0.0
  config.train.batch_size = 8  # 1,024 tokens
  config.train.log_every = 20
  config.train.keep_last = 1
  set_steps(config, 600)
  return config


def set_steps(config, steps: int) -> None:
  """Trains for so many steps, a tenth of them warm-up, with five evaluations."""
  config.train.num_steps = steps
  config.optimizer.warmup_steps = max(1, steps // 10)
  config.train.eval_every = max(1, steps // 5)
  config.train.checkpoint_every = max(1, steps // 2)
