"""Trains the models of the region study: run.py --data DIR --out runs/regions

Start it again after a kill, and it goes on; what is finished is skipped. README.md says
what is in DIR; `study.py` traces what there is, and measures.
"""

import argparse
from collections.abc import Iterator
import itertools
import json
import os
import pathlib

import config as rows

JOBS = (("h8", 0), ("h4", 0), ("h8_shared", 0), ("h4_shared", 0))


def prepare(data: pathlib.Path, out: pathlib.Path) -> None:
  """Fits the vocabulary of texts, if it is not there; that of patches is the runs'."""
  from mhmoe_jax.data import tokenizer
  from mhmoe_jax.train.config import resolve

  config = rows.get_config("h8")
  rows.set_data(config, data, out)
  out.mkdir(parents=True, exist_ok=True)
  tokens = out / "tokens.model"
  if not tokens.exists():
    part = tokens.with_suffix(".part")
    texts = _texts(resolve(config).data)
    tokenizer.train_sentencepiece(texts, rows.VOCAB_SIZE - 1, str(part))
    part.rename(tokens)


def _texts(data) -> Iterator[str]:
  """What the model reads: captions of shapes, and as many pieces of the plays."""
  from mhmoe_jax.data import windows
  from mhmoe_jax.data.images.sources import open_source

  pairs = open_source(data.pairs, "train", 64)
  yield from (pairs[i].record["caption"] for i in range(2_000))
  yield from itertools.islice(windows.iterate_texts(data.text, "train"), 2_000)


def train(row: str, seed: int, steps: int, data: pathlib.Path, out: pathlib.Path):
  """Trains a row; tells its validation scalars, or None if a signal stopped it."""
  from mhmoe_jax.train import loop

  config = rows.get_config(row)
  rows.set_data(config, data, out)
  rows.set_steps(config, steps)
  config.train.seed = config.data.seed = config.data.text.seed = seed
  result = loop.train(config, str(out / f"{row}-{seed}"))
  return result.evaluation and result.evaluation.scalars()


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=400)
  args = parser.parse_args()
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
  prepare(args.data, args.out)
  path = args.out / "trained.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  finished = {(done["row"], done["seed"]) for done in map(json.loads, lines)}
  for row, seed in JOBS:
    if (row, seed) in finished:
      continue
    valid = train(row, seed, args.steps, args.data, args.out)
    if valid is None:
      return
    with path.open("a") as file:
      about = {"row": row, "seed": seed, "steps": args.steps, "valid": valid}
      file.write(json.dumps(about) + "\n")


if __name__ == "__main__":
  main()
