"""A run small enough to train many times in the tests."""

import pytest

from configs import base

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n"


@pytest.fixture
def config(tmp_path):
  """A model of a few hundred parameters on a text of a few kilobytes; 6 steps."""
  (tmp_path / "train.txt").write_text(TEXT * 40)
  (tmp_path / "valid.txt").write_text(TEXT * 4)
  config = base.get_config()
  config.model.num_layers = 2
  config.model.embed_dim = 16
  config.model.num_attention_heads = 2
  config.model.ffn_dim = 16
  config.model.moe.expert_dim = 8
  config.data.source = "text"
  config.data.train = str(tmp_path / "train.txt")
  config.data.valid = str(tmp_path / "valid.txt")
  config.data.sequence_length = 16
  config.data.shuffle_buffer = 20
  config.optimizer.warmup_steps = 2
  config.mesh.data = 1
  config.train.num_steps = 6
  config.train.batch_size = 8
  config.train.log_every = 1
  config.train.eval_every = 3
  config.train.checkpoint_every = 2
  return config
