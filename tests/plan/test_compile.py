"""Real compiles for TPUs that are not there, small enough for a test."""

import dataclasses
import json

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding
import pytest

from configs import base
from mhmoe_jax import sharding
from mhmoe_jax.plan import compile as aot
from mhmoe_jax.plan import report
from mhmoe_jax.plan.accounting import count_flops
from mhmoe_jax.plan.chips import CHIPS, chip_of
from mhmoe_jax.train.config import resolve


def small(**mesh):
  config = base.get_config()
  config.model.update({"num_layers": 6, "embed_dim": 256, "num_attention_heads": 2})
  config.model.update({"ffn_dim": 256, "dtype": "bfloat16"})
  config.model.moe.update({"num_heads": 2, "expert_dim": 128, "dispatch": "einsum"})
  config.data.sequence_length = 128
  config.mesh.update(mesh)
  return config


@pytest.fixture(scope="module")
def moe():
  """An MH-MoE step of six layers on four chips."""
  return report.plan_step(resolve(small(expert=2, fsdp=True)), "v5e:2x2", quick=True)


# What a step of `moe` sends: kind, devices that take part, times.
GOLDEN = {
  ("all-gather", 2): 87,
  ("all-gather", 4): 6,
  ("all-reduce", 2): 8,
  ("all-reduce", 4): 13,
  ("reduce-scatter", 2): 4,
  ("all-to-all", 2): 12,
}


def test_collectives_of_a_step(moe):
  """A new one, or more of them, is a silent resharding: find it before renewing."""
  found = {(c.kind, c.group): c.count for c in moe.compiled.collectives}
  assert found == GOLDEN


def test_bounds_of_a_step(moe):
  """If they changed, so did the figures in docs/pods.md: measure those again."""
  found = moe.compiled
  bounds = found.compute_seconds, found.collective_seconds, found.needed
  assert bounds == pytest.approx((1.3863e-3, 1.0087e-4, 216591360), rel=1e-3)


def test_compiled_programs_are_not_kept(tmp_path):
  """libtpu without a TPU cannot read what it has kept."""
  chosen = {
    "jax_compilation_cache_dir": str(tmp_path),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before_all = {name: getattr(jax.config, name) for name in chosen}
  try:
    for name, value in chosen.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.jit(lambda x: x * 3 + 1)(jax.numpy.ones(7))
    before = sorted(tmp_path.iterdir())
    assert before
    device = aot.devices_of("v5e:2x2")[0]
    x = jax.ShapeDtypeStruct((8, 128), "float32", sharding=SingleDeviceSharding(device))

    def train_step(x):
      return x * 3 + 1

    aot._compile(jax.jit(train_step).lower(x), quick=True)
    assert sorted(tmp_path.iterdir()) == before
  finally:
    for name, value in before_all.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_memory_is_that_of_the_arguments(moe):
  compiled = moe.compiled
  assert compiled.fits
  assert compiled.arguments < compiled.needed < compiled.chip.usable
  assert compiled.mesh == {"replica": 1, "data": 2, "expert": 2, "model": 1}


def test_report(moe):
  shown = moe.text()
  for word in ("fits, 15.", "arguments", "HBM", "MFU at most", "all-reduce"):
    assert word in shown
  found = json.loads(moe.json())
  hidden, serial = found["step"]["utilization"]
  assert 0 < serial < hidden < 1


def test_a_pod():
  """64 chips, two slices: only gradients cross the network between them."""
  config = small(replica=2, data=8, expert=4, fsdp=True)
  config.model.ffn = "dense"
  config.train.batch_size = 128
  cfg = resolve(config)
  compiled = aot.compile_step(cfg, "v5p:2x4x4", slices=2, quick=True)
  assert compiled.fits
  assert compiled.num_devices == 64
  # All six layers are counted, though the program has one loop around one of them.
  model_flops = count_flops(cfg).training * 128 * 128
  # The attention kernel multiplies seven matrices backward, plain attention four.
  batch, layers, L, D = 128, 6, 128, 256
  recomputed = 3 * batch * layers * 2 * L * L * D
  assert compiled.unknown_loops == 0
  assert compiled.flops * 64 == pytest.approx(model_flops + recomputed, rel=0.005)
  assert {c.kind for c in compiled.collectives if "slices" in c.kind} == {
    "slices all-reduce"
  }


def test_what_does_not_fit_says_by_how_much():
  config = small()
  config.model.update({"ffn": "dense", "vocab_size": 2**19})
  config.data.sequence_length = 4096
  made = report.plan_step(resolve(config), "v5e:2x2", quick=True)
  assert not made.compiled.fits
  shown = made.text()
  assert "does not fit, by " in shown
  policies = [f"model.remat={name}" for name in ("norms", "projections", "blocks")]
  for key in ("mesh.fsdp=True", *policies, "accumulate_steps=2"):
    assert key in shown
  config.model.remat = "projections"
  found = "\n".join(report.remedies(resolve(config), made.compiled.mesh))
  assert [name in found for name in policies] == [False, False, True]
  assert "remedies" in json.loads(made.json())["step"]


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_has_a_topology(name):
  shape = "2x2" if name in ("v5e", "v6e") else "2x2x1"
  devices = aot.devices_of(f"{name}:{shape}")
  assert len(devices) == 4 * chip_of(f"{name}:{shape}").devices


def test_a_mesh_may_split_the_axes_of_a_torus():
  devices = aot.devices_of("v5p:4x4x4")
  mesh = sharding.make_mesh(data=8, expert=8, devices=devices)
  assert mesh.devices.shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
  ("topology", "message"),
  [
    ("v5e", "a topology is one of v4, v5e, v5p, v6e, tpu7x and its shape in chips"),
    ("v9:2x2", "a topology is one of v4,"),
    ("v5e:3x7", "v5e:3x7 is not a slice of v5e: "),
  ],
)
def test_topologies_that_do_not_exist(topology, message):
  with pytest.raises(ValueError) as error:
    aot.devices_of(topology)
  assert str(error.value).startswith(message)


def test_mesh_and_batch_must_fit():
  with pytest.raises(ValueError) as error:
    aot.compile_step(resolve(small(data=2)), "v5e:2x2")
  assert str(error.value).startswith("a mesh must use every device of the topology")
  config = small()
  config.train.batch_size = 6
  with pytest.raises(ValueError) as error:
    aot.compile_step(resolve(config), "v5e:2x2")
  assert "must divide batch_size, got batch_size=6" in str(error.value)
  with pytest.raises(ValueError) as error:
    aot.compile_step(resolve(small(data=8)), "v5e:2x2", slices=2)
  assert str(error.value).startswith("replica must be a multiple of the number")


def test_without_libtpu(monkeypatch):
  monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError) as error:
    aot.devices_of("v5e:2x2")
  assert "pip install libtpu" in str(error.value)


@pytest.mark.parametrize(
  ("kind", "seconds"),
  [
    ("all-reduce", 2 * 3 / 4),
    ("all-gather", 3 / 4),
    ("reduce-scatter", 3 / 4),
    ("all-to-all", 3 / 4),
    ("collective-permute", 1),
    ("slices all-reduce", 2 * 3 / 4 * 10),
  ],
)
def test_collective_seconds(kind, seconds):
  chip = dataclasses.replace(CHIPS["v5e"], ici=100.0, dcn=10.0)
  collective = aot.Collective(kind, 4, 1, 100)
  assert aot.collective_seconds(collective, chip) == pytest.approx(seconds)


@pytest.mark.parametrize(
  ("message", "needed"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
      "temporaries (512.00G) exceeds available HBM (15.75G).",
      512 * 2**30,
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
      "memory space hbm. Used 16.5G of 15.75G hbm. Exceeded hbm capacity by 768.0M.",
      16.5 * 2**30,
    ),
    ("RESOURCE_EXHAUSTED: no numbers of HBM", None),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem for %a = f32[2] "
      "custom-call(%b). Scoped allocation with size (60.45M) exceeded the limit.",
      None,
    ),
    ("INTERNAL: Used 3G", None),
  ],
)
def test_memory_asked_for(message, needed):
  assert aot.memory_asked_for(message) == needed


def test_mesh_flag():
  assert report.parse_mesh("data=8,expert=-1,fsdp=true") == {
    "data": 8,
    "expert": -1,
    "fsdp": True,
  }
  for text in ("data", "fsdp=1", "data=x", "experts=2"):
    with pytest.raises(ValueError) as error:
      report.parse_mesh(text)
    assert f"got {text!r}" in str(error.value)
