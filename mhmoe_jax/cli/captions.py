"""The verb caption: what a trained run writes of pictures."""

from collections.abc import Callable, Iterator, Sequence
import glob
import json
import os
import sys

from absl import flags
from etils import epath
import numpy as np

from mhmoe_jax.cli import parsing


def caption(argv: list[str]) -> int:
  """Writes a caption of each picture; returns 1 if some could not be read."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_list(
    "images", None, "PNG and JPEG files, such as 'x/*.png'", flag_values=values
  )
  flags.DEFINE_integer("step", None, "of the checkpoint", 0, flag_values=values)
  flags.DEFINE_string("out", None, "captions as JSON lines", flag_values=values)
  step = parsing.define_run_config(values, "caption", argv)
  parsing.parse(values, "caption", argv, required=("workdir",))
  paths = find_pictures(values.images or [])
  # What is not there is said before a model is loaded.
  out = epath.Path(values.out or "captions.jsonl")
  if out.is_dir() or not out.parent.is_dir():
    raise ValueError(f"--out must be a file in a folder that exists, got {out}.")

  from mhmoe_jax import sharding
  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.evals.captioning import Captioner
  from mhmoe_jax.train.config import resolve

  cfg = resolve(values.config)
  mesh = sharding.make_mesh(
    cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model
  )
  write = Captioner(cfg, mesh)
  _, params = restore.load_model(values.workdir, values.config, step, mesh)
  unread, lines = [], []
  for names, pictures in read_batches(paths, write.batch_size, unread.append):
    for name, found in zip(names, write(params, pictures), strict=True):
      print(f"{name}\t{' '.join(found.text.split())}", flush=True)
      lines.append({"image": name, "caption": found.text, "score": found.worth})
  if values.out is not None:
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
  if unread:
    count = f"{len(unread)} of {len(paths)} pictures"
    print(f"mhmoe caption: {count} could not be read", file=sys.stderr)
  return int(bool(unread))


def find_pictures(patterns: Sequence[str]) -> list[str]:
  """The files of patterns such as x/*.png, each once, in order.

  Raises:
    ValueError: there are none.
  """
  paths = []
  for pattern in patterns:
    # A name without a pattern is said to be missing when it is read, as others are.
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    paths += sorted(found) if glob.has_magic(pattern) else [pattern]
  if not paths:
    asked = ",".join(patterns)
    raise ValueError(f"--images must name pictures, got none in {asked!r}.")
  return list(dict.fromkeys(paths))


def read_batches(
  paths: Sequence[str], batch_size: int, on_error: Callable[[str], None]
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
  """Pictures in batches with their paths; what cannot be read is named and left out."""
  from mhmoe_jax.data.images.decoding import read

  names, pictures = [], []
  for path in paths:
    try:
      pictures.append(read(path))
      names.append(path)
    except ValueError as error:
      print(f"mhmoe caption: {error}", file=sys.stderr)
      on_error(path)
    if len(pictures) == batch_size:
      yield names, pictures
      names, pictures = [], []
  if pictures:
    yield names, pictures
