"""The verb that makes something of the pictures of a config: image-tokenizer."""

import sys

from absl import flags
import numpy as np

from mhmoe_jax.cli import parsing


def image_tokenizer(argv: list[str]) -> None:
  """Fits a visual vocabulary to training pictures, and draws what it keeps of them."""
  values = parsing.make_flags()
  flags.DEFINE_string("out", None, "folder to write", flag_values=values)
  flags.DEFINE_enum(
    "kind", "kmeans", ["kmeans", "vqvae"], "of vocabulary", flag_values=values
  )
  flags.DEFINE_integer("codes", 512, "ids", 2, flag_values=values)
  flags.DEFINE_integer(
    "steps", None, "rounds of k-means, steps of a VQ-VAE", 1, flag_values=values
  )
  flags.DEFINE_integer(
    "num_pictures", 10_000, "to fit to, drawn from all", 1, flag_values=values
  )
  flags.DEFINE_integer("seed", 0, "of the fit", 0, flag_values=values)
  _define_pictures(values)
  parsing.parse(values, "image-tokenizer", argv, required=("out",))

  from mhmoe_jax.codes import build
  from mhmoe_jax.codes.fit import DEFAULT_STEPS
  from mhmoe_jax.codes.saved import check_free
  from mhmoe_jax.codes.vocabulary import VisualVocabulary

  check_free(values.out)  # Before pictures are read, which takes a while.
  vocabulary = VisualVocabulary(values.kind, values.codes, values.patch_size)
  made = build.build(
    values.out,
    vocabulary,
    _read_pictures(values),
    {"pictures": f"{values.source} {values.name or values.train}".strip()},
    steps=values.steps or DEFAULT_STEPS[values.kind],
    seed=values.seed,
    tell=lambda line: print(line, file=sys.stderr),
  )
  print(build.describe(made.statistics))
  print(f"originals beside reconstructions: {values.out}/{build.SHEET}")
  print(f"wrote {values.out}, fingerprint {made.fingerprint}")


def _define_pictures(values) -> None:
  flags.DEFINE_enum(
    "source", "shapes", ["shapes", "files", "npz", "tfds"], "", flag_values=values
  )
  flags.DEFINE_string("name", "", "of a TFDS set", flag_values=values)
  flags.DEFINE_string("train", "", "paths, or a TFDS split", flag_values=values)
  flags.DEFINE_integer("picture_size", 32, "pixels", 1, flag_values=values)
  flags.DEFINE_integer("patch_size", 8, "pixels", 1, flag_values=values)


def _read_pictures(values) -> np.ndarray:
  """As many training pictures as are asked for, uint8 (N, size, size, 3)."""
  from mhmoe_jax.data.images import sources
  from mhmoe_jax.data.images.augment import squash

  size, count = values.picture_size, values.num_pictures
  config = sources.PictureConfig(
    source=values.source,
    name=values.name,
    train=values.train,
    valid=values.train,
    text_key="caption",
    num_train=count,
    num_valid=1,
    seed=values.seed,
  )
  source = sources.open_source(config, "train", size)
  order = np.random.RandomState(values.seed).permutation(len(source))[:count]
  return np.stack([squash(source[int(i)].pixels, size) for i in np.sort(order)])
