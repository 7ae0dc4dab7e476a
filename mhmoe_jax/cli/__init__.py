"""`mhmoe VERB ...`: every capability is one command.

A verb reads its flags, calls a library function and prints. What a user can repair ends
with one line and exit code 1; `-v=1` shows where it came from. Verbs import what they
need themselves: tensorflow takes seconds to load, and some verbs do without it.
"""

import glob
import os
import sys

from absl import flags, logging

from mhmoe_jax.cli import interop, models, planning, routing, text

USAGE = """usage: mhmoe VERB [flags]

  train      --config configs/tiny.py --workdir runs/tiny [--config.KEY=VALUE ...]
             [--distributed, in each of several processes]
             (a run that is there goes on without --config, with its own)
  sample     --workdir runs/tiny [--prompt TEXT] [--num_tokens N] [--temperature T]
             [--top_k K] [--top_p P] [--num_samples N] [--seed N]
  eval       --workdir runs/tiny [--text FILE] [--config.data.KEY=VALUE ...]
  tokenizer  --config CONFIG --vocab_size N --out PATH.model
  prepare    --config CONFIG --out DIR [--shards N]
  import     --from FOLDER --workdir runs/imported [--config CONFIG]
  export     --workdir runs/tiny --out FOLDER [--step N] [--layout mhmoe]
             [--shard_mb N] [--config.model.KEY=VALUE]
  upcycle    --workdir DENSE --config CONFIG --out runs/upcycled
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
  verbs = {
    "train": models.train,
    "sample": models.sample,
    "eval": models.evaluate,
    "tokenizer": text.tokenizer,
    "prepare": text.prepare,
    "import": interop.import_,
    "export": interop.export,
    "upcycle": interop.upcycle,
    "plan": planning.plan,
    "routing": routing.routing,
  }
  if not argv or argv[0] not in verbs:
    print(USAGE)
    return 0 if argv and argv[0] in ("help", "--help", "-h") else 1
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(logging.logging.Formatter("%(message)s"))
  if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/*"):
    # Without a TPU, libtpu is there to compile only; it would look for one, aloud.
    for name, value in _NO_TPU.items():
      os.environ.setdefault(name, value)
  # Config files import each other as `configs.NAME`, as they would under `python -m`.
  sys.path.insert(0, os.getcwd())
  try:
    return verbs[argv[0]](argv[1:]) or 0
  except (ValueError, OSError, FloatingPointError, flags.Error) as error:
    logging.debug("", exc_info=True)
    # Some libraries' messages have several lines; a user gets one.
    print(f"mhmoe {argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
