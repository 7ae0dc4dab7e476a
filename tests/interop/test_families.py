"""Configs of other people's: nothing of ours forgotten, nothing of theirs guessed."""

import dataclasses

import pytest

from mhmoe_jax.interop import expressing, families
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.moe.config import MoeConfig

SIZES = {
  "vocab_size": 40,
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 4,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "num_experts_per_tok": 2,
  "num_experts": 4,
  "num_local_experts": 4,
  "moe_intermediate_size": 12,
}


def read(**about):
  about = SIZES | about
  return families.read_model(families.find_family(about), about)


def test_every_setting_is_imported_or_known_to_be_free():
  """A new key of ours must say what it is for models that came from elsewhere."""
  model = read(model_type="mixtral")
  needed = set(expressing._NEED)
  for kind, found, free in (
    (TransformerConfig, set(model), expressing._FREE),
    (MoeConfig, set(model["moe"]), expressing._FREE_MOE),
  ):
    names = {field.name for field in dataclasses.fields(kind)}
    assert names - found - free - needed == set(), kind
    assert found <= names


# Of published models: their config.json, as far as it decides.
PUBLISHED = {
  "Llama 2": (
    {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_scaling": None},
    {"rope_theta": 1e4, "norm_epsilon": 1e-5, "ffn": "dense", "qk_norm": "none"},
  ),
  "Mixtral": (
    {"model_type": "mixtral", "rope_theta": 1e6, "rms_norm_eps": 1e-5},
    {"rope_theta": 1e6, "norm_epsilon": 1e-5, "ffn": "smoe", "moe_every": 1},
  ),
  "OLMoE": (
    {"model_type": "olmoe", "norm_topk_prob": False, "clip_qkv": None},
    {"rope_theta": 1e4, "norm_epsilon": 1e-5, "qk_norm": "whole", "head_dim": 0},
  ),
  "Qwen3": (
    {
      "model_type": "qwen3_moe",
      "head_dim": 8,
      "sliding_window": 4096,
      "use_sliding_window": False,
      "decoder_sparse_step": 2,
      "mlp_only_layers": [],
      "rope_theta": 1e7,
      "tie_word_embeddings": True,
    },
    {"moe_every": 2, "head_dim": 8, "qk_norm": "head", "tie_embeddings": True},
  ),
  "of version 5": (
    {
      "model_type": "llama",
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    {"rope_theta": 5e5},
  ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name):
  about, expected = PUBLISHED[name]
  found = read(**about)
  assert {key: found[key] for key in expected} == expected


def test_weights_of_experts():
  """Mixtral's always sum to 1, of the others where they say so."""
  for kind, key, expected in (
    ("mixtral", {}, True),
    ("olmoe", {}, False),
    ("qwen3_moe", {"norm_topk_prob": True}, True),
  ):
    assert read(model_type=kind, **key)["moe"]["renormalize"] is expected
  assert read(model_type="qwen3_moe")["moe"]["expert_dim"] == 12
  assert read(model_type="mixtral")["moe"]["expert_dim"] == 24
