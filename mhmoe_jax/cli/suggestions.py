"""What to try after training, as commands that run in the reader's shell.

They repeat the flags of the run, since another model than the checkpoint's is refused.
What would be refused all the same is not suggested: `mhmoe train` reads it first.
"""

from collections.abc import Callable, Sequence
import os
import shlex

from absl import flags
from ml_collections import ConfigDict

from mhmoe_jax.cli.shell import command, program, replace
from mhmoe_jax.train.config import RunConfig, resolve


def after_training(
  argv: Sequence[str],
  config: ConfigDict,
  workdir: str,
  parse: Callable[[Sequence[str]], flags.FlagValues],
) -> str:
  """What to do with a trained model, and what to train next.

  Args:
    argv: the flags of the run.
    config: of the run.
    workdir: of the run.
    parse: reads the flags of `mhmoe train`, or raises.
  """
  cfg, here = resolve(config), [f"--workdir={workdir}"]
  of_language = cfg.task_name == "language"
  lines = [command("sample", [*here, *_prompt(cfg)])] if of_language else []
  if not of_language:
    lines.append(command("eval", here))
    lines += _look(cfg, workdir, "--pairs") if cfg.task_name == "masked" else []
  elif text := _text(cfg):
    lines.append(command("eval", [*here, f"--text={text}"]))
    lines += _look(cfg, workdir, f"--data={text}")
  events = shlex.quote(os.path.join(workdir, "tensorboard"))
  lines.append(f"{program('tensorboard')} --logdir {events}")
  lines += [command("train", words) for words in _runs(argv, cfg, workdir, parse)]
  return "\n  ".join(["try next", *lines])


def _look(cfg: RunConfig, workdir: str, what: str) -> list[str]:
  """A trace of `what`, unless it is there, and its page."""
  if cfg.model.ffn == "dense" or "://" in workdir:
    return []
  trace = os.path.join(workdir, f"trace_{cfg.train.num_steps}")
  page = os.path.join(workdir, "routing.html")
  words = [f"--workdir={workdir}", what, f"--out={trace}"]
  lines = [] if os.path.exists(trace) else [command("routing trace", words)]
  return [*lines, command("routing report", [f"--trace={trace}", f"--out={page}"])]


def _prompt(cfg: RunConfig) -> list[str]:
  """For the bundled corpus; who brought a text knows what suits it."""
  bundled = cfg.data.source == "bundled" and not cfg.data.mixture
  return ["--prompt=ROMEO:"] if bundled else ["--num_samples=3"]


def _text(cfg: RunConfig) -> str | None:
  """Files of text that the reader has."""
  if cfg.data.source in ("text", "jsonl") and not cfg.data.mixture:
    return cfg.data.valid
  return "README.md" if os.path.isfile("README.md") else None


def _runs(argv, cfg, workdir, parse) -> list[list[str]]:
  """Flags of longer training, and of the other rows of the config in this size."""
  path = parse(argv)["config"].config_filename.partition(":")[0]
  runs = [replace(argv, config__train__num_steps=2 * cfg.train.num_steps)]
  # Other rows cannot start from the parameters of this one's start.
  for ffn in () if cfg.init else ("mhmoe", "smoe", "dense"):
    other = f"{workdir.rstrip('/')}_{ffn}"
    words = replace(argv, config=f"{path}:{ffn}", workdir=other)
    if ffn != cfg.model.ffn and _ffn_of(words, parse) == ffn:
      runs.append(words)
  return runs


def _ffn_of(argv, parse) -> str | None:
  """The kind of model that a command would train; None if it would be refused."""
  try:
    return resolve(parse(argv).config).model.ffn
  except (ValueError, flags.Error):
    return None
