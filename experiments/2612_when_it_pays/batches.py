"""The batches of the runs as arrays: batches.py --data DIR --out OUT

at_once.py reads them on a machine that has an accelerator and no TensorFlow. DIR is
run.py's. OUT gets vocabularies, and for each text TEXT-SEED.npz, arrays (steps, B, L),
and TEXT-valid.npz, the same of every part of the validation text.
"""

import argparse
from collections.abc import Iterable
import itertools
import pathlib

from ml_collections import ConfigDict
import numpy as np
import run

from mhmoe_jax.train.config import resolve

TYPE = np.uint16
ENGLISH, LANGUAGES = run.MAIN[0], f"languages,{run.MAIN[0]}"  # rows on either text

Arrays = dict[str, np.ndarray]  # of batches, by name, with an axis before those of one


def train_path(folder: pathlib.Path, config: ConfigDict, seed: int) -> pathlib.Path:
  """Where the training batches of a seed are."""
  return folder / f"{_text(config)}-{seed}.npz"


def valid_path(folder: pathlib.Path, config: ConfigDict) -> pathlib.Path:
  """Where the validation batches are."""
  return folder / f"{_text(config)}-valid.npz"


def _text(config: ConfigDict) -> str:
  return pathlib.Path(config.data.vocabulary).stem


def load_train(path: pathlib.Path) -> Arrays:
  """The training batches of a file."""
  with np.load(path) as file:
    return dict(file)


def load_valid(path: pathlib.Path) -> dict[str, tuple[Arrays, int]]:
  """Of each part of the validation text its batches, and how many bytes they are."""
  parts = {}
  with np.load(path) as file:
    for key, value in file.items():
      part, _, name = key.rpartition("/")
      parts.setdefault(part, {})[name] = value
  return {part: (found, int(found.pop("num_bytes"))) for part, found in parts.items()}


def stack(batches: Iterable[Arrays]) -> Arrays:
  """Batches on a new first axis.

  Raises:
    ValueError: a value does not fit into the type.
  """
  kept = []
  for batch in batches:
    kept.append({name: x.astype(TYPE) for name, x in batch.items()})
    for name, x in batch.items():
      if not np.array_equal(kept[-1][name], x):
        raise ValueError(f"{name} must be in 0 ... {np.iinfo(TYPE).max}, got {x}.")
  return {name: np.stack([batch[name] for batch in kept]) for name in kept[0]}


def write(job: run.Job, data: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the batches that a job is trained on, and the validation's."""
  config = run.make_config(job, data, out)
  cfg = resolve(config)
  task, size = cfg.task, cfg.train.batch_size
  feed = task.train_feed(size, range(cfg.data.streams))
  train = stack(itertools.islice(feed, job.steps))
  np.savez_compressed(train_path(out, config, job.seed), **train)
  path = valid_path(out, config)
  if path.exists():
    return
  valid = {}
  for part, feed in task.eval_batches(size).items():
    batches, counts = zip(*itertools.islice(feed, cfg.train.eval_batches), strict=True)
    valid |= {f"{part}/{name}": x for name, x in stack(batches).items()}
    valid[f"{part}/num_bytes"] = sum(count["num_bytes"] for count in counts)
  np.savez_compressed(path, **valid)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  for seed in run.SEEDS:
    write(run.Job(ENGLISH, seed, run.LONG), args.data, args.out)
  write(run.Job(LANGUAGES, run.SEEDS[0], run.LONG), args.data, args.out)


if __name__ == "__main__":
  main()
