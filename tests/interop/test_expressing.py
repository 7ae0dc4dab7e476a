"""What of ours the decoders of Hugging Face can express, and what stops them."""

import pytest

from mhmoe_jax.interop import expressing
from mhmoe_jax.train.config import resolve
from tests.interop.models import MIXTRAL, small_config

NOBODY_ELSE = {
  "gelu": ({"ffn": "dense"}, "llama comes nearest and needs activation='swiglu', got"),
  "layernorm": (
    MIXTRAL | {"norm": "layernorm", "qk_norm": "whole"},
    "olmoe comes nearest and needs norm='rmsnorm', got norm='layernorm'",
  ),
  "weights": (MIXTRAL, "mixtral comes .* moe.renormalize=True, got moe.renormalize=F"),
  "router": (
    MIXTRAL | {"qk_norm": "whole", "moe": {"router": "projected"}},
    "olmoe comes nearest and needs moe.router='linear', got moe.router='projected'",
  ),
  "drops": (
    MIXTRAL | {"qk_norm": "whole", "moe": {"dispatch": "capacity"}},
    "needs moe.dispatch='sorted', got moe.dispatch='capacity'",
  ),
  "every other block": (
    MIXTRAL | {"qk_norm": "whole", "moe_every": 2},
    "olmoe comes nearest and needs moe_every=1, got moe_every=2",
  ),
  "no router": (
    MIXTRAL | {"moe": {"num_experts": 1, "top_k": 1}},
    "num_experts must be at least 2, got num_experts=1",
  ),
  "heads": (
    MIXTRAL | {"qk_norm": "whole", "head_dim": 6},
    "olmoe comes nearest and needs head_dim=4, got head_dim=6",
  ),
}


@pytest.mark.parametrize("name", NOBODY_ELSE)
def test_what_nobody_else_can_express(name):
  model, message = NOBODY_ELSE[name]
  config = resolve(small_config(**model)).model
  with pytest.raises(ValueError, match=message) as error:
    expressing.choose_family(config)
  assert "\n" not in str(error.value)


def test_machines_and_training_are_nobodys_business():
  changes = {
    "dropout": 0.1,
    "dtype": "bfloat16",
    "remat": "blocks",
    "tie_embeddings": True,
  }
  config = small_config(**MIXTRAL, **changes, moe={"renormalize": True})
  config.model.moe.update({"dispatch": "rounds", "backend": "blocks", "top_k": 3})
  assert expressing.choose_family(resolve(config).model) == "mixtral"
