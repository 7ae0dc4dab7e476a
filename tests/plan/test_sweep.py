"""Sweeps: which candidates there are, and in which order they come."""

import dataclasses
import json

import pytest

from configs import base
from mhmoe_jax.plan import sweep
from mhmoe_jax.plan.chips import CHIPS
from mhmoe_jax.plan.compile import Compiled
from mhmoe_jax.train.config import resolve


@pytest.fixture
def cfg():
  config = base.get_config()
  config.model.num_layers = 2
  config.model.moe.dispatch = "capacity"
  return resolve(config)


@pytest.fixture
def compiled(monkeypatch):
  """Stands in for the compiler: experts in more places and larger batches are faster,
  and only whole blocks computed again fit."""
  seen = []

  def compile_step(cfg, topology, slices, quick):
    seen.append(cfg)
    if cfg.train.batch_size < 32:
      raise ValueError("too small")
    return Compiled(
      chip=CHIPS["v5e"],
      num_devices=16,
      mesh=dataclasses.asdict(cfg.mesh),
      fits=cfg.model.remat == "blocks",
      needed=1.0,
      compute_seconds=1 / cfg.mesh.expert,
      collective_seconds=1.0 * cfg.model.moe.capacity_factor,
    )

  monkeypatch.setattr(sweep, "compile_step", compile_step)
  return seen


def test_ranking(cfg, compiled, capsys):
  found = sweep.sweep(cfg, "v5e:4x4", 1, ["mesh", "remat", "batch"])
  meshes = {(c.changes["data"], c.changes["expert"]) for c in found.candidates}
  assert meshes == {(16, 1), (8, 2), (4, 4), (2, 8)}  # 8 experts
  assert len(found.candidates) == len(compiled) == 4 * 4 * 3
  best = found.candidates[0]
  assert best.changes == {"data": 2, "expert": 8, "remat": "blocks", "batch_size": 64}
  rates = [c.tokens_per_second for c in found.candidates]
  assert rates == sorted(rates, reverse=True)
  assert rates.count(0.0) == 4 * (3 * 3 + 1)  # with less remat, or a batch of 16
  lines = found.text().splitlines()
  assert lines[1].startswith("data=2 expert=8 remat=blocks batch_size=64")
  assert lines[-1] == "too small"
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 48
  assert "1/48  data=16 expert=1 remat=none batch_size=16  fits: cannot run" in told[0]
  assert told[-1].startswith("48/48  ")
  assert told[-1].endswith("fits: yes  0 s left")
  assert json.loads(found.json())["candidates"][0]["changes"] == best.changes


def test_capacity(cfg, compiled):
  found = sweep.sweep(cfg, "v5e:4x4", 1, ["capacity"])
  assert {c.changes["capacity_factor"] for c in found.candidates} == {1, 1.25, 1.5, 2}
  assert {c.model.moe.capacity_factor for c in compiled} == {1, 1.25, 1.5, 2}


def test_parts_of_a_batch(cfg, compiled):
  sweep.sweep(cfg, "v5e:4x4", 1, ["accumulate"])
  assert [c.train.accumulate_steps for c in compiled] == [1, 2, 4, 8]
  train = dataclasses.replace(cfg.train, batch_size=36)
  sweep.sweep(dataclasses.replace(cfg, train=train), "v5e:4x4", 1, ["accumulate"])
  assert [c.train.accumulate_steps for c in compiled[4:]] == [1, 2, 4]


def test_impossible_sweeps(cfg):
  with pytest.raises(ValueError) as error:
    sweep.sweep(cfg, "v5e:4x4", 1, ["depth"])
  assert "mesh, capacity, remat, accumulate, batch, got 'depth'." in str(error.value)
  moe = dataclasses.replace(cfg.model.moe, dispatch="sorted")
  model = dataclasses.replace(cfg.model, moe=moe)
  with pytest.raises(ValueError) as error:
    sweep.sweep(dataclasses.replace(cfg, model=model), "v5e:4x4", 1, ["capacity"])
  assert "got dispatch='sorted'." in str(error.value)
