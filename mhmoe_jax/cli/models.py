"""Verbs that train a model and use one: train, sample, eval."""

from collections.abc import Iterator
import contextlib
import math
import os
import sys
import textwrap

from absl import flags
from ml_collections import ConfigDict, config_flags

from mhmoe_jax.cli import parsing

# Of a run of several processes that a signal stopped: "try again" in sysexits.h.
EXIT_STOPPED = 75


def parse_train(argv: list[str]) -> flags.FlagValues:
  """The flags of `mhmoe train`."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "where the run lives", flag_values=values)
  saved_config = _saved_config(argv)
  if saved_config is None:
    config_flags.DEFINE_config_file(
      "config", None, flag_values=values, sys_argv=["mhmoe", *argv]
    )
  else:
    config_flags.DEFINE_config_dict(
      "config", saved_config, flag_values=values, sys_argv=["mhmoe", *argv]
    )
  flags.DEFINE_bool(
    "distributed", False, "join the other processes of the run", flag_values=values
  )
  flags.DEFINE_bool(
    "accept_changed_data",
    False,
    "where the data is no longer that of the checkpoint, begin it anew",
    flag_values=values,
  )
  parsing.parse(values, "train", argv, required=("config", "workdir"))
  return values


def train(argv: list[str]) -> int:
  """Trains, then shows what came of it; returns the exit code."""
  values = parse_train(argv)
  if values.distributed:
    from mhmoe_jax.train import processes

    processes.join()

  import jax

  from mhmoe_jax.train import loop
  from mhmoe_jax.train.config import resolve

  workdir = values.workdir
  result = loop.train(values.config, workdir, values.accept_changed_data)
  cfg = resolve(values.config)
  stopped = result.evaluation is None
  # A launcher takes 0 for done, and would not start a preempted run again.
  code = EXIT_STOPPED if stopped and values.distributed else 0
  if jax.process_index() > 0:
    return code

  from mhmoe_jax.cli import suggestions
  from mhmoe_jax.train import summary

  with _afterwards("the summary"):
    print("\n" + summary.describe(cfg, result))
  if stopped:
    print("stopped by a signal; the same command continues")
    return code
  for name, load_NHE in result.evaluation.loads.items():
    figure = os.path.join(workdir, f"expert_load{name and '_'}{name}.png")
    with _afterwards("the figure of expert load"):
      from mhmoe_jax.analysis.figures import figures

      figures.draw_load(load_NHE, cfg.model.moe_blocks, figure)
      print(f"expert load     {figure}")
  for name, picture in result.pictures.items():
    path = os.path.join(workdir, f"{name}.png")
    with _afterwards("a picture"):
      from mhmoe_jax.codes import sheet

      sheet.write_png(path, picture)
      print(f"{name.replace('_', ' '):15} {path}")
  # No process of several has all of the parameters.
  if cfg.task_name == "language" and jax.process_count() == 1:
    options = {"num_samples": 2, "temperature": 0.7, "top_p": 0.95, "seed": 0}
    with _afterwards("samples"):
      from mhmoe_jax.evals import sampling

      texts = sampling.sample_texts(cfg, result.params, "\n", **options)
      print("samples")
      for text in texts:
        print(textwrap.indent(text.strip(), "  | ", lambda _: True) + "\n")
  if parsing.find_flag("config", argv):
    print(suggestions.after_training(argv, values.config, workdir, parse_train))
  return 0


def _saved_config(argv: list[str]) -> ConfigDict | None:
  """That of the run in --workdir, if there is one and no other is asked for.

  Processes that have yet to join each other cannot agree on one.
  """
  from mhmoe_jax.checkpoints import saved

  workdir, given = (parsing.find_flag(name, argv) for name in ("workdir", "config"))
  if given or not workdir or "--distributed" in argv:
    return None
  if not saved.checkpoints_directory(workdir).exists():
    return None
  return ConfigDict(saved.load_config(workdir))


@contextlib.contextmanager
def _afterwards(what: str) -> Iterator[None]:
  """Makes one line of what fails when a run is trained, which it stays.

  These are what the world around raises: a package or a file that is gone, a full disk,
  too little memory (of a device: RuntimeError), a vocabulary that is not what it was.
  """
  try:
    yield
  except BrokenPipeError:  # Nobody reads any more.
    raise
  except (
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
  ) as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"mhmoe train: warning: {what} failed: {reason}", file=sys.stderr)


def sample(argv: list[str]) -> None:
  """Continues a prompt with a trained model."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_string("prompt", "", "the text to continue", flag_values=values)
  flags.DEFINE_integer(
    "num_tokens", None, "to add; default: to the trained length", 1, flag_values=values
  )
  flags.DEFINE_integer("num_samples", 1, "how many", 1, flag_values=values)
  flags.DEFINE_float("temperature", 0.8, "0: the likeliest", 0.0, flag_values=values)
  flags.DEFINE_integer("top_k", 0, "among k tokens, 0: all", 0, flag_values=values)
  flags.DEFINE_float(
    "top_p", 1.0, "draw from the nucleus", 0.0, 1.0, flag_values=values
  )
  flags.DEFINE_integer("seed", 0, "of the draws", flag_values=values)
  parsing.parse(values, "sample", argv, required=("workdir",))
  for name in ("temperature", "top_p"):
    if not math.isfinite(values[name].value):
      raise ValueError(f"{name} must be finite, got {name}={values[name].value}.")

  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.evals import sampling

  cfg, params = restore.load_model(values.workdir)
  for text in sampling.sample_texts(
    cfg,
    params,
    values.prompt,
    num_samples=values.num_samples,
    num_tokens=values.num_tokens,
    temperature=values.temperature,
    top_k=values.top_k,
    top_p=values.top_p,
    seed=values.seed,
  ):
    print(text, end="\n\n")


def evaluate(argv: list[str]) -> None:
  """Perplexity and bits per byte of a text; how well another task is done."""
  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.data.files import kind_of
  from mhmoe_jax.evals import meteor, perplexity

  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_string("text", None, "files of text or JSONL", flag_values=values)
  step = parsing.define_run_config(values, "eval", argv)
  parsing.parse(values, "eval", argv)
  config = values.config
  if values.text is not None:
    if not values.text.strip():
      raise ValueError(f"--text must name files, got {values.text!r}.")
    if config.task != "language":
      raise ValueError(f"--text needs a run of task language, got {config.task}.")
    config.data.source, config.data.mixture = kind_of(values.text), ConfigDict()
    config.data.text_key = config.data.text_key or "text"
    config.data.train = config.data.valid = values.text
    config.data.prepared = ""
  cfg, params = restore.load_model(values.workdir, config, step)
  fixed = restore.load_fixed(values.workdir, cfg, step)
  result = perplexity.evaluate_model(cfg, params, fixed)
  if cfg.task_name != "language":
    print("\n".join(result.in_words()))
    if cfg.task_name == "captioning":
      print("\n".join(meteor.in_words(result.captions, result.references)))
    return
  print(
    f"loss           {result.loss:.4f} nats per token\n"
    f"perplexity     {result.perplexity:.3f} per token\n"
    f"bits per byte  {result.bits_per_byte:.4f}\n"
    f"text           {result.num_tokens:,} tokens, {result.num_bytes:,} bytes"
  )
  if result.bits_per_byte > 8:
    print(
      "more than 8 bits per byte are worse than a guess at every byte: the model has "
      "learned nothing of text of this kind"
    )
  for name, part in result.members.items():
    print(f"{name:14} {part.bits_per_byte:.4f} bits per byte, {part.loss:.4f} nats")
