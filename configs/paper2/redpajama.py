"""The models of "MH-MoE: Multi-Head Mixture-of-Experts" (2411.16205).

  mhmoe plan --config configs/paper2/redpajama.py:mhmoe_h2
  mhmoe train --config configs/paper2/redpajama.py:mhmoe_h3_bitnet --workdir runs/h3

  dense, smoe, finegrained, mhmoe_h2, mhmoe_h3            Table 1
  ..._shared (not dense)                                  Table 2, a shared expert
  ..._bitnet                                              Table 3, BitNet b1.58
  smoe_layers, finegrained_layers                         Table 4, with both layers
  mhmoe_h2_wide_bare, mhmoe_h2_wide                       Table 4, without and with
  mhmoe_h2_bare, mhmoe_h2_head_only, mhmoe_h2_merge_only  Table 5 (both: mhmoe_h2)

Every MoE layer of Table 1 does 4,718,592 multiply-adds a token, its router apart. The
columns "50k" and "100k" are one run, evaluated twice. What the paper leaves open, and
what it says differently from the released code (scripts of November 2024):

* Fine-grained SMoE has no top-k in the paper. Only 2 makes it equal to SMoE.
* Expert counts 40 and 96 are the paper's; equal parameters would be 41 and 93, which
  `matching.match_num_experts` gives: moe.num_experts = 41.
* Table 4 says that rows with layers do more than those without, so its MH-MoE is not
  that of Table 1. Equal work without the layers makes the experts 1024 wide, and equal
  parameters make 32 of them, exactly. Table 5, whose row without layers is worse, takes
  layers away from mhmoe_h2 and gives nothing back.
* The shared expert of 2048 "in every MoE model": here on whole tokens, beside the head
  and merge layers, so that it adds the same 4,718,592 parameters to each model.
* Residual inside the layer: none, as in Eq. 3 and the code. Other reading (the first
  paper's): moe.residual = True.
* Router: a bias-free linear layer, weights not renormalised, as the released script
  runs it. Other reading (the first paper's): moe.router = "projected".
* Biases: none, but in head and merge layers, where the code keeps them under its
  --no-bias. They start as `nn.Linear` does, as the router does. Other reading (the
  analysis of section 2): moe.linear_bias = False.
* Norms add 1e-5 to the mean square, as the code does. There is no sub-LN; with
  model.sub_ln = True it is RMSNorm, too, as in the code.
* BitNet b1.58: ternary weights and 8-bit inputs in attention projections, FFNs and
  experts. Embeddings and router are not rounded, nor the head and merge layers, which
  the code keeps plain in BitNet mode. No norms are added: "everything else unchanged".
* Capacity: the code drops what exceeds ceil(S / E) slots a choice. Taken: nothing is
  dropped. Other reading: moe.dispatch = "capacity", with the factors of 1.0 set below.
* Training: the paper prints 100,000 steps of 0.5M tokens; the rest is the released
  script's. Its README trains 512 sequences: train.batch_size = 512.
* Vocabulary: not stated; the README names an English one of 64k. No figure above
  depends on it.

Departures: embeddings are scaled by sqrt(d) as in the first paper, bfloat16 instead of
float16. The balance loss is of all choices, without padding, over the batch; the code's
is of first choices, per GPU. Padding is not routed; the code routes it. Slots of
dispatch="capacity" are given in the order of positions for each sequence, the code's
first choices first over the batch of a GPU, where later tokens push out earlier ones.
"""

from configs import base
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.plan import matching

EMBED_DIM = 768
SMOE_DIM = 2048
_SMOE = {"num_heads": 1, "num_linear": 0, "num_experts": 8, "top_k": 1}
_SMOE |= {"expert_dim": SMOE_DIM}


def _layer(changes: dict) -> MoeConfig:
  return MoeConfig(**{"activation": "swiglu", "use_bias": False} | changes)


def _equal_work(changes: dict) -> dict:
  like, layer = _layer(_SMOE), _layer(changes | {"expert_dim": 1})
  width = matching.match_expert_dim(layer, like, EMBED_DIM, matching.macs)
  return changes | {"expert_dim": width}


_FINE = {"num_heads": 1, "num_linear": 0, "num_experts": 16, "top_k": 2}
_FINE = _equal_work(_FINE)  # 1024
_H2 = _equal_work({"num_heads": 2, "num_experts": 40, "top_k": 2})  # 768
_H3 = _equal_work({"num_heads": 3, "num_experts": 96, "top_k": 3})  # 512
_WIDE_BARE = _equal_work(_H2 | {"num_linear": 0})  # 1024
_WIDE_BARE["num_experts"] = matching.match_num_experts(  # 32
  _layer(_WIDE_BARE), _layer(_SMOE), EMBED_DIM
)

_TABLE_1 = {
  "dense": ("dense", {}),
  "smoe": ("smoe", _SMOE),
  "finegrained": ("smoe", _FINE),
  "mhmoe_h2": ("mhmoe", _H2),
  "mhmoe_h3": ("mhmoe", _H3),
}
ROWS = (
  _TABLE_1
  | {
    f"{name}_shared": (ffn, changes | {"shared_dim": SMOE_DIM})
    for name, (ffn, changes) in _TABLE_1.items()
    if ffn != "dense"
  }
  | {f"{name}_bitnet": row for name, row in _TABLE_1.items()}
  | {
    "smoe_layers": ("mhmoe", _SMOE | {"num_linear": 1}),
    "finegrained_layers": ("mhmoe", _FINE | {"num_linear": 1}),
    "mhmoe_h2_wide_bare": ("mhmoe", _WIDE_BARE),
    "mhmoe_h2_wide": ("mhmoe", _WIDE_BARE | {"num_linear": 1}),
    "mhmoe_h2_bare": ("mhmoe", _H2 | {"num_linear": 0}),
    "mhmoe_h2_head_only": ("mhmoe", _H2 | {"use_merge_layer": False}),
    "mhmoe_h2_merge_only": ("mhmoe", _H2 | {"use_head_layer": False}),
  }
)


def get_config(row: str = "mhmoe_h2"):
  """The config of a row, such as "mhmoe_h2" or "finegrained_shared"."""
  if row not in ROWS:
    raise ValueError(f"the row must be one of {', '.join(ROWS)}, got {row!r}.")
  config = base.get_config()
  model, moe = config.model, config.model.moe
  model.vocab_size = 64_000
  model.num_layers = 12
  model.embed_dim = EMBED_DIM
  model.num_attention_heads = 12
  model.ffn_dim = SMOE_DIM
  model.moe_every = 2
  model.activation = "swiglu"
  model.use_bias = False
  model.norm = "rmsnorm"
  model.norm_epsilon = 1e-5
  model.init = "torch"
  model.tie_embeddings = True
  model.dtype = "bfloat16"
  model.bitnet = row.endswith("_bitnet")

  moe.linear_bias = True
  moe.router = "linear"
  moe.renormalize = False
  moe.capacity_factor = 1.0
  moe.eval_capacity_factor = 1.0
  model.ffn, changes = ROWS[row]
  moe.update(changes)

  # RedPajama, one JSON record a line; bring the files and the vocabulary.
  config.data.source = "jsonl"
  config.data.train = "data/redpajama/train/*.jsonl"
  config.data.valid = "data/redpajama/valid/*.jsonl"
  config.data.vocabulary = "data/english_64k.model"
  config.data.shuffle_buffer = 10_000
  config.data.sequence_length = 2048

  config.objective.balance_weight = 0.01
  optimizer, train = config.optimizer, config.train
  optimizer.learning_rate = 6e-4
  optimizer.schedule = "linear"
  optimizer.final_fraction = 0.05  # 3e-5
  optimizer.warmup_steps = 375
  optimizer.weight_decay = 0.1
  optimizer.b1, optimizer.b2, optimizer.eps = 0.9, 0.95, 1e-6
  optimizer.clip_norm = 2.0
  train.num_steps = 100_000
  train.batch_size = 256  # 524,288 tokens
  train.log_every = 100
  train.eval_every = train.checkpoint_every = 5_000
  train.eval_batches = 50
  return config
