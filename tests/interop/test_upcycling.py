"""Models with experts, made of one without, compute what it did."""

import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.checkpoints import restore
from mhmoe_jax.interop import upcycling
from mhmoe_jax.train.config import resolve
from tests.interop.models import make_run, small_config
from tests.interop.test_importing import MESHES, logits_of

TOKENS_BL = jnp.arange(3, 19).reshape(2, 8) * 7 % 259
SHARED = {"shared_dim": 24}
COPIES = {"expert_dim": 24, "renormalize": True}


def make(tmp_path, new, devices=8, **dense):
  """A dense run, and the logits of it and of what `new` makes of it."""
  run, out = str(tmp_path / "dense"), str(tmp_path / "new")
  before = small_config(ffn="dense", **dense)
  old = make_run(before, run)
  config = small_config(**dense, **new)
  config.mesh.update(MESHES[devices])
  promise = upcycling.upcycle(run, config, out)
  cfg, params = restore.load_model(out)
  assert cfg.model == resolve(config).model
  expected_BLV = logits_of(resolve(before), old, TOKENS_BL)
  assert np.abs(expected_BLV).max() > 1
  return promise, params, expected_BLV, logits_of(cfg, params, TOKENS_BL)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("every", [1, 2])
def test_an_mhmoe_is_equal_to_the_last_bit(tmp_path, every, devices):
  new = {"ffn": "mhmoe", "moe_every": every, "moe": SHARED | {"num_linear": 2}}
  promise, params, expected, found = make(tmp_path, new, devices, use_bias=True)
  assert "to the last bit" in promise
  np.testing.assert_array_equal(found, expected)
  moe = params["layers"][f"block_{every - 1}"]["moe"]
  assert not moe["merge"]["w_1_DP"].any()
  assert not moe["merge"]["b_1_P"].any()
  # What is behind the zeros is alive, so that training moves it.
  for name in ("w_0_DP", "w_1_DP"):
    assert moe["head"][name].any()
  assert moe["merge"]["w_0_DP"].any()
  assert moe["experts"]["w_in_EMF"].any()


def test_an_smoe_of_copies_is_equal_to_rounding(tmp_path):
  dense = {"activation": "swiglu", "norm": "layernorm", "sub_ln": True}
  new = {"ffn": "smoe", "moe": COPIES}
  promise, params, expected, found = make(tmp_path, new, **dense)
  assert "to rounding" in promise
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
  moe = params["layers"]["block_1"]["moe"]
  w_EMF = moe["experts"]["w_gate_EMF"][0]
  np.testing.assert_array_equal(w_EMF, jnp.broadcast_to(w_EMF[:1], w_EMF.shape))
  assert moe["router"]["w_ME"].any()


def test_without_renormalising_it_says_so(tmp_path):
  new = {"ffn": "smoe", "moe": COPIES | {"renormalize": False}}
  promise, _, expected, found = make(tmp_path, new)
  assert "times a token's summed weights" in promise
  assert np.abs(found - expected).max() > 0.01


def test_layers_keep_their_places():
  """Block b of period p is layer p * period + b."""
  dense = {"layers": {"block_0": {"a": jnp.arange(4), "ffn": {"w_in_DF": jnp.ones(4)}}}}
  fresh = {"layers": {"block_1": {"moe": {"merge": {"w_0_DP": jnp.ones(2)}}}}}
  config = resolve(small_config(moe_every=2)).model
  layers = upcycling.combine(dense, fresh, config)["layers"]
  assert layers["block_0"]["a"].tolist() == [0, 2]
  assert layers["block_1"]["a"].tolist() == [1, 3]


REFUSALS = {
  "to dense": ({"ffn": "dense"}, "makes an smoe or an mhmoe .*'dense' of ffn='dense'"),
  "width": ({"moe": SHARED, "embed_dim": 32}, "embed_dim must be .*=32 and 16"),
  "heads": ({"moe": SHARED, "num_kv_heads": 1}, "num_kv_heads must be that"),
  "dense blocks": ({"moe": SHARED, "ffn_dim": 32}, "ffn_dim must be .*=32 and 24"),
  "shared": ({"moe": {}}, "moe.shared_dim must be 24, which is the dense model's ffn"),
  "no merge": (
    {"moe": SHARED | {"use_merge_layer": False}},
    "moe.use_merge_layer must be True, which begins at zero",
  ),
  "no maps": ({"moe": SHARED | {"num_linear": 0}}, "needs a merge layer"),
  "experts": ({"ffn": "smoe", "moe": {}}, "moe.expert_dim must be 24"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_line(case):
  new, message = REFUSALS[case]
  dense = resolve(small_config(ffn="dense")).model
  with pytest.raises(ValueError, match=message):
    upcycling._check(dense, resolve(small_config(**new)).model)


def test_a_check_leaves_nothing_for_the_next():
  """Which fields may differ is a matter of the two models alone."""
  dense = resolve(small_config(ffn="dense")).model
  upcycling._check(dense, resolve(small_config(moe=SHARED)).model)
  test_refused_in_one_line("heads")


def test_refused_vocabulary(tmp_path):
  make_run(small_config(ffn="dense"), tmp_path / "dense")
  config = small_config(moe=SHARED)
  config.data.vocabulary = "cl100k"
  with pytest.raises(ValueError, match=r"must be that of the dense run, got 'cl100k'"):
    upcycling.upcycle(str(tmp_path / "dense"), config, str(tmp_path / "new"))
