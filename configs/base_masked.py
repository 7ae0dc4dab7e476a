"""Every setting of masked multi-modal modelling with its default.

What is not of the task, `optimizer`, `mesh` and `train`, is that of base.py. The
defaults are BEiT-3's network, small, on generated pictures of shapes.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The defaults: a small multiway MH-MoE encoder on pictures of shapes."""
  config = base.get_config()
  language = config.copy_and_resolve_references()
  config.unlock()
  config.task = "masked"

  config.model = model = ConfigDict()
  model.vocab_size = 264  # of text: at least the vocabulary's size and one, for [MASK]
  model.num_codes = 512  # of the visual vocabulary
  model.picture_size = 32  # height and width, pixels
  model.patch_size = 4
  model.text_length = 216  # positions: at least the lengths in `data`
  model.num_layers = 4
  model.embed_dim = 128
  model.num_attention_heads = 4
  model.backbone = "multiway"  # weights for each modality, or "shared", once
  model.pools = "modality"  # experts for each modality, or "shared", one pool for both
  model.ffn = "mhmoe"  # or "smoe", "dense"
  model.ffn_dim = 512  # hidden width of the dense FFNs
  model.moe_last = 2  # MoE layers are in the last so many blocks,
  model.moe_every = 1  # in every n-th of them
  model.activation = "gelu"
  model.use_bias = True
  model.gate_bias = True
  model.norm = "layernorm"
  model.norm_epsilon = 1e-5
  model.sub_ln = True
  model.ffn_norm = model.get_oneway_ref("norm")
  model.ffn_norm_epsilon = model.get_oneway_ref("norm_epsilon")
  model.init = "flax"
  model.bitnet = False
  model.dropout = 0.0
  model.drop_path = 0.1  # share of examples that the last block is left out for
  model.dtype = "float32"
  model.remat = "none"  # or "norms", "projections", "blocks"

  moe = ConfigDict(language.model.moe.to_dict())
  names = ("activation", "use_bias", "gate_bias", "sub_ln", "ffn_norm")
  for name in (*names, "ffn_norm_epsilon", "bitnet", "init"):
    del moe[name]
    moe[name] = model.get_ref(name)
  model.moe = moe  # the keys of base.py

  config.data = data = ConfigDict()
  data.streams = 1  # parts of a batch with a place of their own; for good
  data.seed = 0
  # Pictures alone: "shapes", generated; "files", with an index of JSON lines; "npz",
  # arrays with JSON lines beside them; or "tfds".
  data.images = images = ConfigDict()
  images.source = "shapes"
  images.name = ""  # of a TFDS set, such as "caltech101:3.0.2"
  images.train = ""  # paths with commas between them; a TFDS split
  images.valid = ""
  images.text_key = ""
  images.num_train = 20_000  # pictures of generated shapes
  images.num_valid = 500
  images.seed = 0
  data.pairs = pairs = ConfigDict(images.to_dict())  # pictures with a text
  pairs.text_key = "caption"  # its field; what is in a field has a slash before it
  pairs.seed = 1
  # Tokens of its text, with the first and the last one: the longest caption of shapes.
  data.pair_length = 216
  data.cut_pairs = False  # cut longer texts; else they are errors
  data.text = text = ConfigDict(language.data.to_dict())  # text alone: as in base.py
  text.sequence_length = 64
  text.streams = data.get_ref("streams")
  data.augment = augment = ConfigDict()  # of pictures alone, in training
  augment.least_area = 0.5  # smallest share that a crop keeps; 1: no crop
  augment.flip = True
  augment.jitter = 0.4  # of brightness, contrast and saturation
  augment.randaugment = 0  # operations that are drawn for a picture
  data.pair_augment = augment = ConfigDict()
  augment.least_area = 1.0  # where a text says what is where, all stays there
  augment.flip = False
  augment.jitter = 0.0  # and what is red stays red
  augment.randaugment = 0
  data.mask = mask = ConfigDict()
  mask.patches = "blocks"  # or "random"
  mask.image = 0.4  # 2208.10442 section 2.2, and 2206.01127
  mask.text = 0.15
  mask.pair_image = 0.4
  mask.pair_text = 0.5
  mask.random_share = 0.1  # of masked tokens, which become any token, as in BERT
  mask.kept_share = 0.1
  data.codes = codes = ConfigDict()  # the visual vocabulary
  codes.path = ""  # of `mhmoe image-tokenizer`; empty: fitted when the run begins
  codes.kind = "kmeans"  # or "vqvae"
  codes.steps = 0  # rounds of k-means, 0: 20; steps of a VQ-VAE, 0: 1,000
  codes.num_pictures = 2_000

  config.objective = objective = ConfigDict()
  objective.balance_weight = 0.01  # 2404.15045 Table 10, summed over MoE layers
  objective.router_z_weight = 0.0
  objective.image_weight = 1.0  # the loss is the mean of the three, weighted
  objective.text_weight = 1.0
  objective.pair_weight = 1.0
  # LIMoE's losses of each modality (2206.02770); always logged.
  objective.local_entropy_weight = 0.0
  objective.global_entropy_weight = 0.0
  objective.global_entropy_least = 0.0  # nats; the log of a number of experts
  return config.lock()
