"""What guessing costs: references.py --data DIR --out runs/multimodal

Entropies of the visual codes of the validation pictures, plug-in estimates in nats: of
a code by its frequency in training, and of a code given its left neighbour's, with the
counts of training and one of each pair added, so that unseen pairs cost what they must.
"""

import argparse
import json
import pathlib

import config as rows
import jax
import numpy as np


def codes_of(cfg, saved, part, split: str) -> np.ndarray:
  """The codes of pictures, (pictures, rows, columns)."""
  from mhmoe_jax.codes import vocabulary
  from mhmoe_jax.data.images.augment import squash
  from mhmoe_jax.data.images.sources import open_source
  from mhmoe_jax.models.patches import normalize, to_patches

  size, patch = cfg.model.picture_size, cfg.model.patch_size
  source = open_source(part, split, size)
  pictures = [squash(source[i].pixels, size) for i in range(len(source))]
  encode = jax.jit(lambda x: vocabulary.encode(cfg.task.codes, saved.arrays, x))
  found = [
    np.asarray(encode(normalize(to_patches(np.stack(pictures[i : i + 256]), patch))))
    for i in range(0, len(pictures), 256)
  ]
  return np.concatenate(found).reshape(-1, size // patch, size // patch)


def unigram(train: np.ndarray, valid: np.ndarray, num_codes: int) -> float:
  """Cross-entropy of validation codes by their frequency in training, nats."""
  counts = np.bincount(train.ravel(), minlength=num_codes) + 1.0
  return float(-np.log(counts / counts.sum())[valid].mean())


def neighbour(train: np.ndarray, valid: np.ndarray, num_codes: int) -> float:
  """The same given the code to the left, mixed with the frequency where that is rare.

  A pair's probability is (n(left, code) + 4 p(code)) / (n(left) + 4).
  """
  counts = np.bincount(train.ravel(), minlength=num_codes) + 1.0
  p = counts / counts.sum()
  pairs = train[..., :-1].ravel() * num_codes + train[..., 1:].ravel()
  n = np.bincount(pairs, minlength=num_codes**2).reshape(num_codes, num_codes)
  given = (n + 4 * p) / (n.sum(axis=1, keepdims=True) + 4)
  return float(-np.log(given)[valid[..., :-1], valid[..., 1:]].mean())


def main():
  from mhmoe_jax.codes import saved
  from mhmoe_jax.train.config import resolve

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  config = rows.get_config("dense")
  rows.set_data(config, args.data, args.out)
  cfg = resolve(config)
  found, result = saved.load(cfg.data.codes.path), {}
  for name, part in (("image", cfg.data.images), ("pair/image", cfg.data.pairs)):
    train, valid = (
      codes_of(cfg, found, part, split) for split in ("train", "validation")
    )
    result[name] = {
      "unigram": unigram(train, valid, rows.NUM_CODES),
      "left neighbour": neighbour(train, valid, rows.NUM_CODES),
      "same as left": float((valid[..., 1:] == valid[..., :-1]).mean()),
    }
  result["codes"] = found.statistics._asdict()
  path = args.out / "results" / "references.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=1) + "\n")
  print(path.read_text())


if __name__ == "__main__":
  main()
