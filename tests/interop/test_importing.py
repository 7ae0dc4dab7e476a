"""Folders of Hugging Face's to runs: equal logits, and every refusal in one line."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tokenizers

from configs import base
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.interop import importing
from mhmoe_jax.models.transformer import Decoder

# Made by experiments/2611_interop/golden.py, which runs transformers.
GOLDEN = pathlib.Path(__file__).parent / "golden"
MODELS = sorted(path.name for path in GOLDEN.iterdir())
MESHES = {1: {"data": 1}, 8: {"data": 2, "expert": 2, "model": 2}}


def logits_of(cfg, params, tokens_BL):
  positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
  apply = jax.jit(Decoder(cfg.model).apply)
  return apply({"params": params}, tokens_BL, positions_BL, tokens_BL * 0 + 1)[0]


def bring(folder, workdir, devices=1):
  config = base.get_config()
  config.mesh.update(MESHES[devices])
  return importing.import_model(str(folder), config, str(workdir))


@pytest.mark.parametrize(
  ("name", "devices"), [*((name, 8) for name in MODELS), ("mixtral", 1)]
)
def test_logits_are_those_of_transformers(tmp_path, name, devices):
  made = bring(GOLDEN / name, tmp_path, devices)
  assert (made.max_length, made.vocabulary) == (64, "bytes")
  cfg, params = restore.load_model(tmp_path)
  assert made.num_parameters == sum(x.size for x in jax.tree.leaves(params))
  golden = np.load(GOLDEN / name / "golden.npz")
  found_BLV = logits_of(cfg, params, jnp.asarray(golden["tokens"], jnp.int32))
  assert np.abs(golden["logits"]).max() > 1
  np.testing.assert_allclose(found_BLV, golden["logits"], rtol=0, atol=1e-5)


def test_shards_and_bfloat16(tmp_path):
  """Three files with an index, of half the precision, and what old files still have."""
  folder = copy(tmp_path)
  weights = load_file(folder / "model.safetensors")
  weights = {k: x.astype(jnp.bfloat16) for k, x in weights.items()}
  weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
  where = {name: f"{i % 3}.safetensors" for i, name in enumerate(weights)}
  for file in set(where.values()):
    part = {name: x for name, x in weights.items() if where[name] == file}
    save_file(part, folder / file)
  (folder / "model.safetensors").unlink()
  index = json.dumps({"weight_map": where})
  (folder / "model.safetensors.index.json").write_text(index)
  bring(folder, tmp_path / "run")
  _, params = restore.load_model(tmp_path / "run")
  w_DAQ = params["layers"]["block_0"]["attention"]["w_q_DAQ"][1]
  expected = weights["model.layers.1.self_attn.q_proj.weight"].astype(np.float32)
  np.testing.assert_array_equal(w_DAQ.reshape(16, 24), expected.T)


def test_a_tokenizer_comes_along(tmp_path):
  folder = copy(tmp_path)
  (folder / "tokenizer.json").write_text("{}")
  with pytest.raises(ValueError, match=r"tokenizer.json must be a tokenizer, got"):
    bring(folder, tmp_path / "run")
  assert not (tmp_path / "run" / "tokenizer").exists()
  words = tokenizers.models.WordLevel({word: i for i, word in enumerate("abcd")}, "a")
  tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
  made = bring(folder, tmp_path / "run")
  assert made.vocabulary == f"hf:{tmp_path / 'run' / 'tokenizer'}"
  assert saved.load_config(tmp_path / "run")["data"]["vocabulary"] == made.vocabulary
  found = {path.name for path in (tmp_path / "run" / "tokenizer").iterdir()}
  assert found == {"tokenizer.json", "config.json"}
  moved = tmp_path / "elsewhere" / "run"
  moved.parent.mkdir()
  shutil.move(tmp_path / "run", moved)
  found = saved.load_config(moved)["data"]["vocabulary"]
  assert found == f"hf:{moved}/tokenizer"


# Refused.


def copy(tmp_path, name="llama"):
  return pathlib.Path(shutil.copytree(GOLDEN / name, tmp_path / "folder"))


def with_config(**changes):
  def damage(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return damage


def with_tensors(change):
  def damage(folder):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")

  return damage


def with_index(weight_map, *copies):
  def damage(folder):
    for name in copies:
      shutil.copy(folder / "model.safetensors", folder / name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))

  return damage


def cut(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def to_pickle(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


REFUSALS = {
  "no folder": (shutil.rmtree, "cannot read .*config.json"),
  "no config": (lambda f: (f / "config.json").unlink(), "cannot read .*config.json"),
  "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot read .*config"),
  "no object": (lambda f: (f / "config.json").write_text("[]"), "hold a JSON object"),
  "unknown": (with_config(model_type="gpt2"), "must be one of mhmoe, llama.*'gpt2'"),
  "size missing": (with_config(hidden_size=None), "must have hidden_size, got none"),
  "absurd": (with_config(vocab_size=10**30), "vocab_size must fit into 32 bits, got "),
  "size a word": (with_config(vocab_size="many"), "vocab_size .* int, got 'many'"),
  "size a half": (with_config(head_dim=1.5), "head_dim .* int, got 1.5"),
  "epsilon": (with_config(rms_norm_eps="small"), "rms_norm_eps .* float, got 'small'"),
  "rope a list": (with_config(rope_parameters=[1]), "rope_parameters .* an object"),
  "our own, empty": (with_config(model_type="mhmoe"), "a run of mhmoe, got 'config'"),
  "our own, of later": (
    with_config(model_type="mhmoe", config={"model": {"norm_epsilon": 1.0, "x": 1}}),
    "must hold the config of a run of mhmoe",
  ),
  "no weights": (lambda f: (f / "model.safetensors").unlink(), "got neither"),
  "pickle": (to_pickle, "pytorch_model.bin, a pickle"),
  "cut": (cut, "cannot read .*model.safetensors: .*incomplete"),
  "missing": (
    with_tensors(lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
    r"must have model.layers.1.mlp.up_proj.weight with shape \(24, 16\), got no such",
  ),
  "unexpected": (
    with_tensors(lambda w: w.update({"model.layers.2.x": np.zeros((2, 3))})),
    r"got model.layers.2.x with shape \(2, 3\)",
  ),
  "bias": (
    with_tensors(
      lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": np.ones(24)})
    ),
    "got model.layers.0.self_attn.q_proj.bias",
  ),
  "shape": (
    with_tensors(lambda w: w.update({"model.norm.weight": np.zeros(17)})),
    r"model.norm.weight must have shape \(16,\), .*got \(17,\)",
  ),
  "integers": (
    with_tensors(lambda w: w.update({"model.norm.weight": np.zeros(16, np.int8)})),
    "model.norm.weight must be of F32, .* got I8",
  ),
  "index empty": (with_index({}), "must name safetensors beside it, got 'none'"),
  "index elsewhere": (with_index({"a": "../b.safetensors"}), "beside it, got '../b"),
  "index not a map": (with_index("all"), "weight_map .* must give each tensor a file"),
  "shard lost": (with_index({"a": "b.safetensors"}), "cannot read .*b.safetensors"),
  "index wrong": (
    with_index({"lm_head": "model.safetensors"}),
    "got lm_head in model.safetensors, which does not have it",
  ),
  "duplicate": (
    with_index(
      {"a": "a.safetensors", "b": "b.safetensors"}, "a.safetensors", "b.safetensors"
    ),
    "must be in one file, got .* in a.safetensors and in b.safetensors",
  ),
  "rope scaling": (
    with_config(rope_scaling={"rope_type": "linear", "factor": 2.0}),
    "rope_scaling of config.json .*expressed",
  ),
  "rope parameters": (
    with_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
    "rope_scaling .*yarn",
  ),
  "activation": (with_config(hidden_act="gelu"), "hidden_act .*'silu'.*'gelu'"),
  "biases": (with_config(attention_bias=True), "attention_bias .*False .*True"),
  "window": (with_config(sliding_window=8), "sliding_window .*absent.*8"),
  "clip": (with_config(clip_qkv=8.0), "clip_qkv .*absent.*8"),
  "dense layers": (with_config(mlp_only_layers=[1]), "mlp_only_layers"),
  "quantized": (with_config(quantization_config={"bits": 4}), "quantization_config"),
  "width": (with_config(head_dim=5), "head_dim must be even"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_in_one_line(tmp_path, case):
  damage, message = REFUSALS[case]
  folder = copy(tmp_path)
  damage(folder)
  with pytest.raises(ValueError, match=message) as error:
    bring(folder, tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_run_is_not_overwritten(tmp_path):
  bring(GOLDEN / "llama", tmp_path)
  with pytest.raises(ValueError, match=r"a folder without one, got .* \[0\]"):
    bring(GOLDEN / "mixtral", tmp_path)
