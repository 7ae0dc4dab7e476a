"""The verb caption: what a trained run writes of pictures."""

import itertools
import json
import sys

from absl import flags
from etils import epath

from mhmoe_jax.cli import parsing


def caption(argv: list[str]) -> int:
  """Writes a caption of each picture; returns 1 if some could not be read."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_string(
    "images", None, "PNG and JPEG files, such as 'x/*.png'", flag_values=values
  )
  flags.DEFINE_integer("step", None, "of the checkpoint", 0, flag_values=values)
  flags.DEFINE_string("out", None, "captions as JSON lines", flag_values=values)
  from mhmoe_jax.data.images import given

  step = parsing.define_run_config(values, "caption", argv)
  parsing.parse(values, "caption", argv, required=("workdir", "images"))
  paths = given.find_pictures(values.images)
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

  def tell(problem: str) -> None:
    unread.append(problem)
    print(f"mhmoe caption: {problem}", file=sys.stderr)

  pictures = given.iterate_pictures(paths, "", tell)
  for batch in iter(lambda: list(itertools.islice(pictures, write.batch_size)), []):
    written = write(params, [one.pixels for one in batch])
    for one, found in zip(batch, written, strict=True):
      print(f"{one.name}\t{' '.join(found.text.split())}", flush=True)
      lines.append({"image": one.name, "caption": found.text, "score": found.worth})
  if values.out is not None:
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
  if unread:
    count = f"{len(unread)} of {len(unread) + len(lines)} pictures"
    print(f"mhmoe caption: {count} could not be read", file=sys.stderr)
  return int(bool(unread))
