"""Runs to safetensors and back, in either layout, on one device and on eight."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.interop import card, exporting, importing
from tests.checkpoints.states import assert_same_bits
from tests.interop.models import MIXTRAL, make_run, mixtral_config, small_config
from tests.interop.test_importing import MESHES, logits_of

OWN = {
  "mhmoe": {"moe": {"num_linear": 2, "shared_dim": 8}, "use_bias": True},
  "projected router": {
    "moe": {"router": "projected"},
    "norm": "layernorm",
    "sub_ln": True,
  },
}
THEIRS = {
  "llama": {"ffn": "dense", "activation": "swiglu", "num_kv_heads": 2, "head_dim": 6},
  "mixtral": MIXTRAL | {"moe": {"renormalize": True, "top_k": 3}, "rope_theta": 1e6},
  "olmoe": MIXTRAL | {"qk_norm": "whole", "num_kv_heads": 1, "norm_epsilon": 1e-3},
  "qwen3_moe": MIXTRAL
  | {"qk_norm": "head", "moe_every": 2, "head_dim": 6, "tie_embeddings": False},
}
TOKENS_BL = jnp.arange(3, 19).reshape(2, 8) * 7 % 259


@pytest.fixture(autouse=True)
def plain_card(request, monkeypatch):
  """The comparison in a card takes seconds, and one test that looks at it."""
  if request.node.name != "test_the_card_knows_the_run":
    monkeypatch.setattr(card, "write_card", lambda *_: "")


def export(workdir, out, **options):
  cfg = restore.resolve(restore.ConfigDict(saved.load_config(workdir)))
  return exporting.export_model(cfg, str(workdir), str(out), **options)


def bring(folder, workdir, devices=8):
  config = base.get_config()
  config.mesh.update(MESHES[devices])
  return importing.import_model(str(folder), config, str(workdir))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", OWN)
def test_our_own_layout_bit_for_bit(tmp_path, name, devices):
  config = small_config(**OWN[name])
  config.mesh.update(MESHES[devices])
  params = make_run(config, tmp_path / "run")
  export(tmp_path / "run", tmp_path / "out", shard_bytes=2_000)
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
  bring(tmp_path / "out", tmp_path / "again", 9 - devices)
  cfg, found = restore.load_model(tmp_path / "again")
  assert_same_bits(jax.device_get(found), params)
  assert cfg.model == restore.resolve(config).model


@pytest.mark.parametrize("name", THEIRS)
def test_their_layout_computes_the_same(tmp_path, name):
  """sqrt(D) goes into the embeddings, exactly: each product is taken once, either way.

  That transformers computes the same is seen in experiments/2611_interop.
  """
  config = small_config(**THEIRS[name])
  config.mesh.update(MESHES[8])
  params = make_run(config, tmp_path / "run")
  assert export(tmp_path / "run", tmp_path / "out") == 1
  about = json.loads((tmp_path / "out" / "config.json").read_text())
  assert about["model_type"] == name
  assert bring(tmp_path / "out", tmp_path / "again", 1).vocabulary == "bytes"
  cfg, found = restore.load_model(tmp_path / "again")
  assert not cfg.model.scale_embeddings
  np.testing.assert_array_equal(found["embed_VD"], params["embed_VD"] * np.float32(4))
  expected_BLV = logits_of(restore.resolve(config), params, TOKENS_BL)
  found_BLV = logits_of(cfg, found, TOKENS_BL)
  assert np.abs(expected_BLV).max() > 0.1
  np.testing.assert_array_equal(found_BLV, expected_BLV)


def test_shards_hold_what_their_index_says(tmp_path):
  make_run(mixtral_config(), tmp_path / "run")
  whole = export(tmp_path / "run", tmp_path / "whole")
  files = export(tmp_path / "run", tmp_path / "shards", shard_bytes=20_000)
  assert (whole, files) == (1, len(list((tmp_path / "shards").glob("*.safetensors"))))
  index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
  expected = load_file(tmp_path / "whole" / "model.safetensors")
  assert index["metadata"]["total_size"] == sum(x.nbytes for x in expected.values())
  found = {}
  for file in set(index["weight_map"].values()):
    shard = load_file(tmp_path / "shards" / file)
    assert sum(x.nbytes for x in shard.values()) <= 20_000
    assert {index["weight_map"][name] for name in shard} == {file}
    found |= shard
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(found[name], x)


def test_the_card_knows_the_run(tmp_path):
  make_run(mixtral_config(), tmp_path / "run")
  export(tmp_path / "run", tmp_path / "out")
  card = (tmp_path / "out" / "README.md").read_text()
  for line in ("SMoE, 4 layers of width 16, 4 experts, top-2", "| data | bundled |"):
    assert line in card
  assert re.search(
    r"\| dense, equal parameters \| [\d,]+ \| .* \| [01]\.\d{3} \|", card
  )
  assert "not measured at this checkpoint" in card


def test_refused_folders_and_models(tmp_path):
  with pytest.raises(ValueError, match="no checkpoint under"):
    saved.load_config(tmp_path / "run")
  config = mixtral_config()
  make_run(config, tmp_path / "run")
  with pytest.raises(ValueError, match="layout must be one of auto, mhmoe, got"):
    export(tmp_path / "run", tmp_path / "out", layout_name="torch")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine").write_text("")
  with pytest.raises(ValueError, match="--out must be a new or an empty folder"):
    export(tmp_path / "run", tmp_path / "out")
  config.model.embed_dim = 32
  cfg = restore.resolve(config)
  with pytest.raises(ValueError, match=r"got params/embed_VD with shape \(264, 32\)"):
    exporting.export_model(cfg, str(tmp_path / "run"), str(tmp_path / "other"))


def test_damage_is_noticed(tmp_path):
  make_run(mixtral_config(), tmp_path / "run")
  about = tmp_path / "run/checkpoints/0/run/about.json"
  found = json.loads(about.read_text())
  found["checksums"]["params/embed_VD"] ^= 1
  about.write_text(json.dumps(found))
  with pytest.raises(ValueError, match="damaged: params/embed_VD has another checksum"):
    export(tmp_path / "run", tmp_path / "out")
  assert not (tmp_path / "out" / "config.json").exists()
