"""The masked multi-modal models of "Multi-Head Mixture-of-Experts" (2404.15045).

  mhmoe plan --config configs/paper1/multimodal.py:mhmoe_8
  mhmoe train --config configs/paper1/multimodal.py:mhmoe_8 --workdir runs/mm_mhmoe_8

  dense, xmoe_N, mhmoe_N   Tables 1 and 11; N = 8, 32

The network is BEiT-3's base (2208.10442, as released): 12 multiway layers of 768, 14 x
14 patches of 16 pixels, 64,010 tokens, 8,192 visual codes. No code of its mixture of
experts is public, and the paper says no more than that FFNs become experts. Taken here,
each an assignment after `get_config` away from another reading:

* Which layers. Table 11's MH-MoE rows have 3.54 M parameters more than X-MoE's outside
  of experts: the head and merge layers of three layers. Taken: the last three, where
  BEiT-3's largest model fuses both modalities. Other readings: every
  fourth layer, model.moe_last = 12, model.moe_every = 4; every second, which are six:
  model.moe_every = 2.
* One pool of experts, or one for each modality. Each further expert adds 29.75 M in
  Table 11, and three layers of two FFNs are 28.37 M. Taken: one for each, which has
  head and merge layers of its own: 7.0 M, where 3.54 M speak for one pair of these in a
  layer. Other reading: model.pools = "shared", twice the experts.
* Whether the FFN that experts replace is still there. The text says replaced, and that
  is taken: X-MoE with 8 experts has 475 M parameters. Table 11 has 514 M, about the
  dense model's 277 M and 8 x 29.75 M, as though it were still there. Other reading: the
  expert that every token uses, moe.shared_dim = 3_072: 504 M.
* Expert width of MH-MoE: 63/64 of 12,288, which the paper calls its smallest. Its 8
  experts and the other layers' FFNs are Table 11's 310 M then; 32 are 984 M, where the
  table has 1,014 M.
* Router, its width and its weights as in configs/paper1/english.py.
* Steps: figures go up to 250,000. Batch: 512 of each kind, where the table has 512; the
  ratio of the kinds is BEiT-3's. Masks, augmentation, drop-path and clipping are
  BEiT-3's, too. Text: 256 tokens, of pairs 64, not printed anywhere.
* Dropout: Table 10 prints 0.1, BEiT-3 has none. Taken: the former.

The data is what one brings: an index of JSON lines for ImageNet-21k and for the pairs
(CC12M, CC3M, SBU, COCO, VG), JSON lines of text, BEiT-3's SentencePiece model, and the
visual vocabulary that `mhmoe image-tokenizer` makes (BEiT-3's own is distilled from
CLIP, whose weights this project does not have).
"""

from configs import base_masked

FFN_DIM = 3_072
EXPERT_DIM = 12_096  # 63/64 * 4 * FFN_DIM

_XMOE = {"num_heads": 1, "num_linear": 0, "expert_dim": FFN_DIM}
ROWS = (
  {"dense": ("dense", {})}
  | {f"xmoe_{n}": ("smoe", _XMOE | {"num_experts": n}) for n in (8, 32)}
  | {f"mhmoe_{n}": ("mhmoe", {"num_experts": n}) for n in (8, 32)}
)


def get_config(row: str = "mhmoe_8"):
  """The config of a row, such as "mhmoe_8"."""
  if row not in ROWS:
    raise ValueError(f"the row must be one of {', '.join(ROWS)}, got {row!r}.")
  config = base_masked.get_config()
  model, moe = config.model, config.model.moe
  model.vocab_size = 64_010
  model.num_codes = 8_192
  model.picture_size = 224
  model.patch_size = 16
  model.text_length = 1_022  # BEiT-3's table has two rows more, which nothing uses
  model.num_layers = 12
  model.embed_dim = 768
  model.num_attention_heads = 12
  model.backbone = "multiway"
  model.pools = "modality"
  model.ffn_dim = FFN_DIM
  model.moe_last = 3
  model.dropout = 0.1
  model.drop_path = 0.1
  model.dtype = "bfloat16"

  moe.num_heads = 4
  moe.num_experts = 8
  moe.expert_dim = EXPERT_DIM
  moe.top_k = 2
  moe.router = "projected"
  moe.router_dim = 16
  moe.router_norm = 1.5
  moe.renormalize = True
  model.ffn, changes = ROWS[row]
  moe.update(changes)

  data = config.data
  data.images.source = data.pairs.source = "files"
  data.images.train = "data/imagenet21k/train.jsonl"
  data.images.valid = "data/imagenet21k/valid.jsonl"
  data.pairs.train = "data/pairs/train.jsonl"
  data.pairs.valid = "data/pairs/valid.jsonl"
  data.pair_length = 64
  data.cut_pairs = True
  data.text.source = "jsonl"
  data.text.train = "data/text/train/*.jsonl"
  data.text.valid = "data/text/valid/*.jsonl"
  data.text.vocabulary = "data/beit3.spm"
  data.text.sequence_length = 256
  data.text.shuffle_buffer = 10_000
  data.codes.path = "data/codes_8192"
  data.codes.kind = "vqvae"

  optimizer, train = config.optimizer, config.train  # Table 10
  optimizer.learning_rate = 2.8e-3
  optimizer.schedule = "cosine"
  optimizer.warmup_steps = 10_000
  optimizer.final_fraction = 0.0
  optimizer.weight_decay = 0.05
  optimizer.b1, optimizer.b2, optimizer.eps = 0.9, 0.98, 1e-6
  optimizer.clip_norm = 3.0  # 2208.10442 Table 11
  train.batch_size = 512
  train.num_steps = 250_000
  train.log_every = 100
  train.eval_every = train.checkpoint_every = 5_000
  train.eval_batches = 50
  return config
