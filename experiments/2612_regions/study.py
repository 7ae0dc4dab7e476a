"""Traces the trained models and measures: study.py --data DIR --out runs/regions

Runs are in OUT, as `run.py` left them. Start it again after a kill or when more models
are trained; what is measured is skipped. OUT/results gets the numbers as JSON lines,
tables.md and the figures.

Every checkpoint is looked at with its own routers and with fresh ones on the same
hidden states: one MoE layer at a time gets the router it would have had at the start,
and only what that layer does is counted, so that all before it is as it was trained.
"""

import argparse
import json
import pathlib
import time

import config as rows
import jax
import jax.numpy as jnp
import measures
from ml_collections import ConfigDict
import numpy as np
import report
import run
import sets
from sets import Pictures

from mhmoe_jax.analysis.statistics.diversity import count_distinct
from mhmoe_jax.analysis.statistics.heads import head_load
from mhmoe_jax.analysis.statistics.modality import measure_sharing
from mhmoe_jax.analysis.traces import picture_tracing
from mhmoe_jax.analysis.traces.trace import Trace, load_trace
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.data.images import given

FRESH = 6  # draws of fresh routers
KINDS = (("textured", "plain"), ("textured", "ground"), ("plain", "ground"))
PARTS = (8, 4, 2, 1)  # of the training: checkpoints after an eighth, a quarter ...
FLAT, TEXTURED = 4.0, 20.0  # grey levels of deviation
BATCH = 40


class Looker:
  """Runs a model of one config over pictures; compiled once."""

  def __init__(self, cfg, fixed):
    step = picture_tracing.make_picture_step(
      cfg.model, cfg.task.codes, with_texts=False
    )
    self._step, self._fixed = jax.jit(step), fixed
    self._none_BT = np.zeros((BATCH, 3), np.int32)

  def __call__(self, params, pixels_UYXC: np.ndarray) -> np.ndarray:
    """How many distinct experts every patch reaches in each layer, (U, P, N)."""
    found = []
    for first in range(0, len(pixels_UYXC), BATCH):
      part = pixels_UYXC[first : first + BATCH]
      batch = np.zeros((BATCH, *part.shape[1:]), np.uint8)
      batch[: len(part)] = part
      _, choices = self._step(params, self._fixed, batch, self._none_BT, self._none_BT)
      expert_NBPX = np.asarray(choices.expert_BLHK)[:, : len(part)]
      found.append(count_distinct(expert_NBPX.reshape(*expert_NBPX.shape[:3], -1)))
    return np.moveaxis(np.concatenate(found, axis=1), 0, -1)


def with_router(params, other, layer: int):
  """`params` with the routers of one MoE layer, counted from the first, of `other`."""

  def choose(path, mine, its):
    if not any(getattr(p, "key", "") == "router" for p in path):
      return mine
    return jnp.asarray(mine).at[layer].set(jnp.asarray(its)[layer])

  return jax.tree_util.tree_map_with_path(choose, params, other)


def look_fresh(look: Looker, params, fresh, pixels_UYXC) -> np.ndarray:
  """The same with a fresh router on the hidden states that each layer had."""
  layers = range(len(jax.tree.leaves(params["encoder"]["moe_layers"])[0]))
  found = [look(with_router(params, fresh, n), pixels_UYXC)[..., n] for n in layers]
  return np.stack(found, axis=-1)


def measure_set(steps: dict, pictures: Pictures) -> dict:
  """All numbers of one model on one set of pictures.

  Args:
    steps: by step distinct experts (U, P, N), and of fresh routers a list of them.
    pictures: the set.
  """
  weight_SU = measures.resample(len(pictures.pixels_UYXC))
  bright_UP, texture = pictures.brightness_UP, pictures.texture
  taken_out = measures.spans(bright_UP)
  matched = {"matched": taken_out["matched"]}
  deviation_UP = texture["deviation"]
  textured_UP, flat_UP = deviation_UP > TEXTURED, deviation_UP < FLAT
  result, draws = {}, {name: {} for name in texture}
  for step, (trained_UPN, fresh) in steps.items():
    y_UP, others = trained_UPN.mean(axis=-1), [f.mean(axis=-1) for f in fresh]

    def told(measure, y_UP=y_UP, others=others) -> dict:
      mine = measure(y_UP)
      about = {"trained": measures.interval(mine)}
      if others:
        about |= measures.against(mine, [measure(other) for other in others])
      return about

    about = {
      "distinct": told(lambda y: weight_SU @ y.mean(axis=1) / weight_SU.sum(axis=1)),
      "by_layer": trained_UPN.mean(axis=(0, 1)).tolist(),
      "difference": {
        f"{a} less {b}": told(
          lambda y, a=a, b=b: measures.difference(
            y, pictures.kinds[a], pictures.kinds[b], weight_SU
          )
        )
        for a, b in KINDS
        if pictures.kinds
      },
      "correlation": {},
    }
    if textured_UP.any() and flat_UP.any():
      about["difference"]["textured less flat, matched"] = told(
        lambda y: measures.matched_difference(
          y, textured_UP, flat_UP, bright_UP, weight_SU
        )
      )
    for name, x_UP in texture.items():
      mine = measures.compare(x_UP, y_UP, taken_out, weight_SU)
      its = [measures.compare(x_UP, y, taken_out, weight_SU) for y in others]
      draws[name][step] = mine
      numbers = {way: {"trained": measures.interval(x)} for way, x in mine.items()}
      for way in numbers if its else ():
        numbers[way] |= measures.against(mine[way], [one[way] for one in its])
      by_layer = np.moveaxis(trained_UPN, -1, 0)
      numbers["matched"]["by layer"] = [
        float(measures.compare(x_UP, y, matched, weight_SU[:1])["matched"][0])
        for y in by_layer
      ]
      about["correlation"][name] = numbers
    result[str(step)] = about
  first, *_, last = sorted(step for step in steps if step)
  change = {
    name: {way: measures.interval(x - of[first][way]) for way, x in of[last].items()}
    for name, of in draws.items()
  }
  return {"steps": result, "last less first": change}


def measure_modalities(trace: Trace) -> dict:
  """How patches and words use experts and heads."""
  made = {}
  for name, here_T in (("image", trace.is_patch_T), ("text", ~trace.is_patch_T)):
    part = trace.select(here_T)
    load_NHE = head_load(part)
    flat = part.expert_TNHK.reshape(*part.expert_TNHK.shape[:2], -1)
    most = np.log(trace.meta.num_experts)
    made[name] = {
      "tokens": len(part.document_T),
      "distinct": count_distinct(flat).mean(axis=0).tolist(),
      "effective_experts": measures.effective_experts(load_NHE.mean(axis=1)),
      "effective_of_a_head": float(
        np.mean(
          [
            measures.effective_experts(load_NHE[:, [h]].mean(1))
            for h in range(load_NHE.shape[1])
          ]
        )
      ),
      "entropy": float(part.entropy_TNH.mean(dtype=np.float64) / most),
      "load": load_NHE.mean(axis=1).round(4).tolist(),
    }
  if sharing := measure_sharing(trace):
    made["sharing"] = {
      name: np.asarray(x).round(4).tolist() for name, x in sharing._asdict().items()
    }
  return made


def load(row: str, seed: int, step: int | None, args):
  """The config and the parameters of a checkpoint, of step 0 as they were made."""
  workdir = str(args.out / f"{row}-{seed}")
  config = ConfigDict(saved.load_config(workdir))
  rows.set_data(config, args.data, args.out)
  cfg, params = restore.load_model(workdir, config, step or None)
  if step == 0:
    params = initial(cfg, seed)
  return cfg, params


def initial(cfg, seed: int):
  """The parameters that `train.state.make_state` begins with."""
  key = jax.random.split(jax.random.key(seed))[0]
  return jax.jit(cfg.task.init)(key)


def study(row: str, seed: int, steps: list[int], wanted: dict[str, Pictures], args):
  """Yields the results of a model, a set of pictures at a time."""
  cfg, _ = load(row, seed, None, args)
  fixed = restore.load_fixed(str(args.out / f"{row}-{seed}"), cfg)
  look = Looker(cfg, fixed)
  fresh = [initial(cfg, 1_000 + draw) for draw in range(FRESH)]
  # Many passes each: before training, at the first checkpoint and at the last.
  compared = {steps[0], steps[1], steps[-1]}
  loaded = {step: load(row, seed, step, args)[1] for step in steps}
  for name, pictures in wanted.items():
    found = {}
    for step, params in loaded.items():
      others = fresh if name in ("photographs", "shapes") and step in compared else []
      pixels = pictures.pixels_UYXC
      found[step] = (
        look(params, pixels),
        [look_fresh(look, params, other, pixels) for other in others],
      )
    yield name, measure_set(found, pictures)


def trace_pairs(row: str, seed: int, step: int, args) -> Trace:
  """Generated pictures with their captions, through a checkpoint."""
  path = args.out / "traces" / f"{row}-{seed}-{step}"
  if not path.exists():
    cfg, params = load(row, seed, step, args)
    fixed = restore.load_fixed(str(args.out / f"{row}-{seed}"), cfg)
    meta = picture_tracing.describe_encoder(cfg, {}, f"{row}-{seed}", step, (), True)
    pairs = given.iterate_shapes(1, sets.PICTURES, cfg.model.picture_size, True)
    picture_tracing.write_picture_trace(str(path), meta, cfg, params, fixed, pairs)
  return load_trace(path)


def read(path: pathlib.Path) -> list[dict]:
  """The results so far."""
  return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  jax.config.update("jax_compilation_cache_dir", str(args.out / "compiled"))
  results = args.out / "results"
  results.mkdir(parents=True, exist_ok=True)
  regions, modality = results / "regions.jsonl", results / "modality.jsonl"
  config = rows.get_config("h8")
  pictures = sets.read(args.data, config.model.picture_size, config.model.patch_size)
  finished = {
    (r["row"], r["seed"]): r["steps"] for r in read(args.out / "trained.jsonl")
  }
  for row, seed in run.JOBS:
    if (row, seed) not in finished:
      continue
    last, start = finished[row, seed], time.monotonic()
    model = {"row": row, "seed": seed}
    done = {(r["row"], r["seed"]) for r in read(modality)}
    if (row, seed) not in done:
      made = {
        str(step): measure_modalities(trace_pairs(row, seed, step, args))
        for step in (last // PARTS[0], last)
      }
      append(modality, model | {"steps": made})
    done = {(r["row"], r["seed"], r["set"]) for r in read(regions)}
    left = {name: x for name, x in pictures.items() if (row, seed, name) not in done}
    steps = [0, *(last // part for part in PARTS)]
    for name, result in study(row, seed, steps, left, args) if left else ():
      append(regions, model | {"set": name} | result)
      print(f"{row}-{seed} {name}: {time.monotonic() - start:.0f} s", flush=True)
  report.write(read(regions), read(modality), read(args.out / "trained.jsonl"), results)
  print(f"wrote {results}/tables.md and the figures")


def append(path: pathlib.Path, result: dict) -> None:
  with path.open("a") as file:
    file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
  main()
