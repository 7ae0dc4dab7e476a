"""`mhmoe VERB ...`: every capability is one command.

A verb reads its flags, calls a library function and prints. What a user can repair ends
with one line and exit code 1; `-v=1` shows where it came from. Verbs are imported when
they run, and import what they need themselves: jax and tensorflow take seconds to load.
"""

from collections.abc import Callable
import contextlib
import gc
import glob
import importlib.util
import io
import os
import shlex
import signal
import sys
import warnings

USAGE = """usage: mhmoe VERB [flags]

  train      --config configs/tiny.py --workdir runs/tiny [--config.KEY=VALUE ...]
             [--distributed, in each of several processes]
             [--accept_changed_data, where the text is not the checkpoint's]
             (a run that is there goes on without --config, with its own)
  sample     --workdir runs/tiny [--prompt TEXT] [--num_tokens N] [--temperature T]
             [--top_k K] [--top_p P] [--num_samples N] [--seed N]
  eval       --workdir runs/tiny [--text FILE] [--config.data.KEY=VALUE ...]
  ask        --workdir runs/vqa --image x.png --question "what color is the ring?"
  harness    --workdir runs/tiny --tasks arc_easy,piqa [--data DIR] [--limit N]
             [--num_fewshot N] [--max_length N] [--step N] [--out results.json]
  caption    --workdir runs/captioning --images 'x/*.png' [--out captions.jsonl]
             [--step N] [--config.objective.num_beams=N]
  tokenizer  --config CONFIG --vocab_size N --out PATH.model
  prepare    --config CONFIG --out DIR [--shards N]
  image-tokenizer --config CONFIG --out DIR [--config.data.codes.kind=vqvae]
  import     --from FOLDER --workdir runs/imported [--config CONFIG]
  export     --workdir runs/tiny --out FOLDER [--step N] [--layout mhmoe]
             [--shard_mb N] [--config.model.KEY=VALUE]
  upcycle    --workdir DENSE --config CONFIG --out runs/upcycled
  plan       --config CONFIG [--topology v5p:4x4x4] [--slices N]
             [--mesh data=8,expert=8] [--optimize]
             [--sweep mesh,capacity,remat,accumulate,batch] [--rounds N] [--json]
  routing trace   --workdir runs/tiny --data FILES --out trace/ [--unit line]
             [--step N] [--max_tokens N] [--name NAME] [--config.model.moe.KEY=VALUE]
             [--images 'x/*.png' or of the generator, --pairs] [--max_pictures N]
  routing figures --trace trace/,OTHER/ --out figures/ [--max_tokens N]
             [--homographs TSV] [--senses TSV]
  routing report  --trace trace/ [--compare OTHER/] [--earlier STEP_100/,STEP_200/]
             --out report.html [--max_tokens N]

mhmoe VERB --help tells more."""

# Flags that are paths.
_PATHS = ("config", "workdir", "out", "text", "data", "trace", "compare", "earlier")
_PATHS += ("config.init", "image", "images")
_NO_TPU = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def main(argv: list[str] | None = None) -> int:
  """Runs one verb; returns the exit code."""
  argv = [_with_home(word) for word in (sys.argv[1:] if argv is None else argv)]
  _repair_streams()
  try:
    run = _find(argv[0]) if argv else None
  except ModuleNotFoundError as error:
    if error.name.split(".")[0] == "mhmoe_jax":
      raise
    # The layer alone is installed. pip takes the extras of what is there already.
    install = f"{shlex.quote(sys.executable)} -m pip install 'mhmoe_jax[train]'"
    _complain(argv[0], f"error: it needs {error.name}: {install}")
    return 1
  if run is None:
    print(USAGE)
    if not argv or argv[0] in ("help", "--help", "-h"):
      return 0 if argv else 1
    _complain(argv[0], "error: there is no such verb; they are above.")
    return 1

  from absl import flags, logging

  from mhmoe_jax.cli import compiled, parsing

  logging.set_verbosity(logging.WARNING)
  logging.logging.basicConfig(format="%(message)s")
  # Without a TPU, libtpu is there to compile only; it would look for one, aloud.
  if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/*"):
    for name, value in _NO_TPU.items():
      os.environ.setdefault(name, value)
    has_gpu = glob.glob("/dev/nvidia*") or glob.glob("/dev/kfd")
    if importlib.util.find_spec("libtpu") and not has_gpu:
      # Its profiler, which jax would start beside its own, crashes.
      os.environ.setdefault("JAX_PLATFORMS", "cpu")
  # What TensorFlow warns of it raises as well. jax has set 1, if it was not set.
  if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
  if sys.unraisablehook.__module__ != __name__:  # To the end: they speak last.
    sys.unraisablehook = _hide_closed_loops(sys.unraisablehook)
  # Nor does anyone wait for the other arrays of a save that failed.
  unawaited = "coroutine '.*' was never awaited"
  warnings.filterwarnings("ignore", unawaited, RuntimeWarning)
  # Importing and tracing make millions of objects that stay. At the usual threshold of
  # 700 looking through them, again and again, takes a fifth of a command's time.
  gc.set_threshold(100_000)
  # Figures are files. matplotlib refuses to be imported with a backend it has not.
  os.environ["MPLBACKEND"] = "agg"
  compiled.keep(parsing.find_flag("workdir", argv) if argv[0] == "train" else None)
  try:
    code = run(argv[1:]) or 0
    sys.stdout.flush()
    return code
  except KeyboardInterrupt:
    _complain(argv[0], "interrupted")
    return 128 + signal.SIGINT
  except BrokenPipeError:
    # Who read it has seen enough, as `head` does: that is no error of ours.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0
  except (ValueError, OSError, FloatingPointError, flags.Error) as error:
    logging.debug("", exc_info=True)
    _complain(argv[0], f"error: {error}")
    return 1


def _find(verb: str) -> Callable[[list[str]], int | None] | None:
  """The function of a verb, None if there is no such verb."""
  if verb in ("train", "sample", "eval"):
    from mhmoe_jax.cli import models

    verbs = {"train": models.train, "sample": models.sample, "eval": models.evaluate}
    return verbs[verb]
  if verb == "harness":
    from mhmoe_jax.cli import evaluating

    return evaluating.harness
  if verb == "caption":
    from mhmoe_jax.cli import captions

    return captions.caption
  if verb in ("tokenizer", "prepare"):
    from mhmoe_jax.cli import text

    return {"tokenizer": text.tokenizer, "prepare": text.prepare}[verb]
  if verb in ("image-tokenizer", "ask"):
    from mhmoe_jax.cli import pictures

    verbs = {"image-tokenizer": pictures.image_tokenizer, "ask": pictures.ask}
    return verbs[verb]
  if verb in ("import", "export", "upcycle"):
    from mhmoe_jax.cli import interop

    verbs = {"import": interop.import_, "export": interop.export}
    return (verbs | {"upcycle": interop.upcycle})[verb]
  if verb == "plan":
    from mhmoe_jax.cli import planning

    return planning.plan
  if verb == "routing":
    from mhmoe_jax.cli import routing

    return routing.routing
  return None


def _with_home(word: str) -> str:
  """In --workdir=~/run the shell leaves the ~ as it is."""
  flag, equals, value = word.partition("=~/")
  if equals and flag.lstrip("-") in _PATHS:
    return f"{flag}={os.path.expanduser('~')}/{value}"
  return word


def _complain(verb: str, text: str) -> None:
  with contextlib.suppress(OSError):  # The terminal may be gone.
    # Some libraries' messages have several lines; a user gets one.
    print(f"mhmoe {verb}: {' '.join(text.split())}", file=sys.stderr)


def _repair_streams() -> None:
  """What was closed leads nowhere, and what cannot be encoded becomes a "?"."""
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")


def _hide_closed_loops(before):
  """Hides what tensorstore's threads print for each array of a save that failed.

  It is that nobody waits for them any more; why, is raised in the main thread.
  """

  def hook(unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  return hook
