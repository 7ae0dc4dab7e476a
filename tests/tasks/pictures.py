"""A run of masked modelling small enough to train many times in the tests."""

import jax
import numpy as np

from configs import base_finetune, base_masked
from mhmoe_jax.data.pictured.answers import find_answers
from mhmoe_jax.train.config import resolve

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"


def small_masked(directory):
  """16 patches of 4 x 4, 8 codes, texts of at most 20 tokens; 4 steps of 8 examples."""
  (directory / "train.txt").write_text(TEXT * 40)
  (directory / "valid.txt").write_text(TEXT * 2)
  config = base_masked.get_config()
  config.model.num_codes = 8
  config.model.picture_size = 16
  config.model.text_length = 20
  config.model.num_layers = 2
  config.model.embed_dim = 16
  config.model.num_attention_heads = 2
  config.model.ffn_dim = 16
  config.model.moe_last = 1
  config.model.drop_path = 0.0
  config.model.moe.num_heads = 2
  config.model.moe.num_experts = 4
  config.model.moe.expert_dim = 8
  config.data.images.num_train = 20
  config.data.images.num_valid = 5
  config.data.pairs.num_train = 12
  config.data.pairs.num_valid = 3
  config.data.pair_length = 20
  config.data.cut_pairs = True
  config.data.text.source = "text"
  config.data.text.train = str(directory / "train.txt")
  config.data.text.valid = str(directory / "valid.txt")
  config.data.text.sequence_length = 16
  config.data.text.shuffle_buffer = 20
  config.data.codes.steps = 3
  config.data.codes.num_pictures = 30
  config.optimizer.warmup_steps = 2
  config.mesh.data = 1
  config.train.num_steps = 4
  config.train.batch_size = 8
  config.train.log_every = 1
  config.train.eval_every = 4
  config.train.checkpoint_every = 2
  return config


def small_start(directory):
  """`small_masked` of one block and one pool, in the dispatch that compiles fastest."""
  config = small_masked(directory)
  config.model.num_layers = 1
  config.model.pools = "shared"
  config.model.moe.dispatch = "einsum"
  # With room for all.
  config.model.moe.capacity_factor = config.model.moe.eval_capacity_factor = 8.0
  return config


def small_finetune(directory, task):
  """Questions or statements about shapes, for what starts from `small_start`."""
  config = base_finetune.tune(small_start(directory), task)
  config.model.text_length = config.data.text_length = 62
  config.data.pictures.num_train = 24
  config.data.pictures.num_valid = 11
  if task == "vqa":
    data = resolve(config).data
    config.model.num_answers = len(find_answers(data.pictures, data.answers))
  return config


def small_captioning(vocab_size=264):
  """Captions of at most 18 bytes about 16 patches; 2 steps of 4 examples."""
  config = base_finetune.tune(base_masked.get_config(), "captioning")
  config.model.vocab_size = vocab_size
  config.model.picture_size = 16
  config.model.text_length = config.data.text_length = 20
  config.model.num_layers = 1
  config.model.embed_dim = 16
  config.model.num_attention_heads = 2
  config.model.num_codes = 8
  config.model.ffn_dim = 16
  config.model.moe_last = 1
  config.model.drop_path = 0.0
  config.model.moe.num_heads = 2
  config.model.moe.num_experts = 4
  config.model.moe.expert_dim = 8
  config.data.cut_texts = True
  config.data.pictures.num_train = 20
  config.data.pictures.num_valid = 7
  config.objective.label_smoothing = 0.1
  config.objective.num_captions = 5
  config.objective.num_beams = 2
  config.optimizer.warmup_steps = 2
  config.mesh.data = 1
  config.train.num_steps = 2
  config.train.batch_size = 4
  config.train.log_every = 1
  config.train.eval_every = 2
  config.train.checkpoint_every = 2
  return config


def noise_params(task, scale=0.3):
  """Parameters of a task, all of them random, without compiling its initial ones."""
  shapes = jax.eval_shape(lambda: task.init(jax.random.key(0)))
  draw = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (scale * draw.standard_normal(x.shape)).astype(x.dtype), shapes
  )
