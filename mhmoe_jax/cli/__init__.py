"""`mhmoe VERB ...`: every capability is one command.

A verb reads its flags, calls a library function and prints. What a user can repair ends
with one line and exit code 1; `-v=1` shows where it came from. Verbs are imported when
they run, and import what they need themselves: jax and tensorflow take seconds to load.
"""

from collections.abc import Callable
import gc
import glob
import os
import sys

USAGE = """usage: mhmoe VERB [flags]

  train      --config configs/tiny.py --workdir runs/tiny [--config.KEY=VALUE ...]
             [--distributed, in each of several processes]
  sample     --workdir runs/tiny [--prompt TEXT] [--num_tokens N] [--temperature T]
             [--top_k K] [--top_p P] [--num_samples N] [--seed N]
  eval       --workdir runs/tiny [--text FILE] [--config.data.KEY=VALUE ...]
  tokenizer  --config CONFIG --vocab_size N --out PATH.model
  prepare    --config CONFIG --out DIR [--shards N]
  plan       --config CONFIG [--topology v5p:4x4x4] [--slices N]
             [--mesh data=8,expert=8] [--optimize]
             [--sweep mesh,capacity,remat,batch] [--json]
  routing trace   --workdir runs/tiny --data FILES --out trace/ [--unit line]
             [--step N] [--max_tokens N] [--name NAME] [--config.model.moe.KEY=VALUE]
  routing figures --trace trace/,OTHER/ --out figures/ [--max_tokens N]
             [--homographs TSV] [--senses TSV]
  routing report  --trace trace/ [--compare OTHER/] [--earlier STEP_100/,STEP_200/]
             --out report.html [--max_tokens N]

mhmoe VERB --help tells more."""

_NO_TPU = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def main(argv: list[str] | None = None) -> int:
  """Runs one verb; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  run = _find(argv[0]) if argv else None
  if run is None:
    print(USAGE)
    return 0 if argv and argv[0] in ("help", "--help", "-h") else 1

  from absl import flags, logging

  from mhmoe_jax.cli import compiled, parsing

  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(logging.logging.Formatter("%(message)s"))
  if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/*"):
    # Without a TPU, libtpu is there to compile only; it would look for one, aloud.
    for name, value in _NO_TPU.items():
      os.environ.setdefault(name, value)
  # Importing and tracing make millions of objects that stay. At the usual threshold of
  # 700 looking through them, again and again, takes a fifth of a command's time.
  gc.set_threshold(100_000)
  # Figures are files. matplotlib refuses to be imported with a backend it has not.
  os.environ["MPLBACKEND"] = "agg"
  compiled.keep(parsing.find_flag("workdir", argv) if argv[0] == "train" else None)
  # Config files import each other as `configs.NAME`, as they would under `python -m`.
  sys.path.insert(0, os.getcwd())
  try:
    return run(argv[1:]) or 0
  except (ValueError, OSError, FloatingPointError, flags.Error) as error:
    logging.debug("", exc_info=True)
    # Some libraries' messages have several lines; a user gets one.
    print(f"mhmoe {argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _find(verb: str) -> Callable[[list[str]], int | None] | None:
  """The function of a verb, None if there is no such verb."""
  if verb in ("train", "sample", "eval"):
    from mhmoe_jax.cli import models

    verbs = {"train": models.train, "sample": models.sample, "eval": models.evaluate}
    return verbs[verb]
  if verb in ("tokenizer", "prepare"):
    from mhmoe_jax.cli import text

    return {"tokenizer": text.tokenizer, "prepare": text.prepare}[verb]
  if verb == "plan":
    from mhmoe_jax.cli import planning

    return planning.plan
  if verb == "routing":
    from mhmoe_jax.cli import routing

    return routing.routing
  return None
