"""Flags of the verbs: what a user mistypes becomes one line."""

import contextlib
import os
import pathlib
import re
import sys
import traceback

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from mhmoe_jax.cli.shell import program

# What a config file, which is a program, may raise.
_MISTAKES = (
  ArithmeticError,
  AssertionError,
  AttributeError,
  ImportError,
  LookupError,
  NameError,
  OSError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
)


_OF_CONFIG = re.compile(r"--?config\.")


def make_flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_bool("help", False, "show this help", flag_values=values)
  flags.DEFINE_integer("v", 0, "1 shows tracebacks of errors", flag_values=values)
  return values


def find_flag(name: str, argv: list[str]) -> str | None:
  """The value of a flag that other flags are made from, before they are parsed."""
  for i, word in enumerate(argv):
    flag, equals, value = word.partition("=")
    if flag in (f"--{name}", f"-{name}"):
      return value if equals else argv[i + 1] if argv[i + 1 :] else None
  return None


def define_run_config(values, verb: str, argv: list[str]) -> int | None:
  """Makes flags of the config of the run that `--workdir` and `--step` name.

  Returns:
    The step of the checkpoint. None where help is asked for, which needs no run.
  """
  workdir = find_flag("workdir", argv)
  if workdir is None:
    if {"--help", "-help"}.isdisjoint(argv):
      raise ValueError(f"{verb} needs --workdir; see `{program()} help`.")
    return None

  from mhmoe_jax.checkpoints import saved

  asked = find_flag("step", argv)
  step = int(asked) if asked and asked.isdecimal() else saved.newest_step(workdir)
  config = saved.with_own_answers(saved.load_config(workdir, step), workdir)
  config_flags.DEFINE_config_dict(
    "config", ConfigDict(config), flag_values=values, sys_argv=["mhmoe", *argv]
  )
  return step


def parse(values, verb: str, argv: list[str], required: tuple[str, ...] = ()) -> None:
  given = find_flag("config", argv)
  path = (given or "").partition(":")[0]
  if given is not None and not os.path.isfile(path):
    raise ValueError(f"--config must name a file, got {path!r}.")
  _find_imports(path)
  # Where ml_collections keeps the file of the verb before, whose names would stay.
  sys.modules.pop("config_config", None)
  try:
    rest = values([f"mhmoe {verb}", *argv])[1:]
  except _MISTAKES as error:
    raise ValueError(_explain(error, path, argv)) from error
  except flags.IllegalFlagValueError as error:
    if "Error whilst parsing config file" not in str(error):
      raise
    raise ValueError(_explain(error, path, argv)) from error
  if values.help:
    print(values.main_module_help() or values.get_help())
    raise SystemExit(0)
  if rest:
    raise ValueError(f"flags look like --name=value, got {rest[0]!r}.")
  if values.v:
    logging.set_verbosity(logging.DEBUG)
  config = values["config"].value if path else None
  # One that could not be read says why, once it is asked for anything.
  if path and not hasattr(config, "to_dict"):
    raise ValueError(
      f"get_config() of {path} must return a ConfigDict, got {type(config).__name__}."
    )
  for name in required:
    if values[name].value in (None, "", []):
      raise ValueError(f"{verb} needs --{name}; see `{program()} help`.")


def _find_imports(config: str) -> None:
  """Lets a config file import `configs.base` and what lies beside it, from anywhere."""
  root = pathlib.Path(__file__).parents[2]
  folders = [str(pathlib.Path(config).parent), str(root)]
  with contextlib.suppress(FileNotFoundError):  # The working folder may be gone.
    sys.path.insert(0, os.getcwd())
    folders[0] = os.path.abspath(folders[0])
  sys.path += folders  # Last, where they hide nothing.


def _explain_key(error: Exception, key: str, argv: list[str]) -> str:
  """One line on the flags that may name a key which the config lacks; "" if none do."""
  hint = ""
  while error is not None:
    found = re.search(r'Did you mean "[^"]*"', str(error))
    hint, error = f" {found[0]}?" if found else hint, error.__context__
  flags_given = [word.partition("=")[0] for word in argv if _OF_CONFIG.match(word)]
  found = [flag for flag in flags_given if key in flag.split(".")[1:]]
  if not found:
    return ""
  table = re.search(r"\.(rates|mixture)\.", found[0])
  if table:  # It has no keys but those that it is given.
    whole = found[0][: table.end() - 1]
    hint = f""" Give {table[1]} whole: {whole}="{{'{key}': ...}}"."""
  return f"{' or '.join(found)} must name a key of the config, got {key!r}.{hint}"


def _explain(error: Exception, config: str, argv: list[str]) -> str:
  """One line; where in the config file, if it was that which failed."""
  # ml_collections raises some errors of the file anew, with a traceback as the message.
  cause, frames = error, traceback.extract_tb(error.__traceback__)
  while cause.__context__ is not None:
    cause = cause.__context__
    frames += traceback.extract_tb(cause.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == config]
  if isinstance(cause, SyntaxError):
    return f"{cause.filename}, line {cause.lineno}: {cause.msg}."
  if isinstance(cause, AttributeError) and "'get_config'" in str(cause):
    return f"{config} must define get_config(), which returns a ConfigDict."
  if isinstance(cause, KeyError) and not lines:
    of_flag = _explain_key(error, str(cause.args[0]), argv)
    if of_flag:
      return of_flag
  text = str(cause.args[0]) if isinstance(cause, KeyError) else str(cause)
  # ConfigDict would show all of itself.
  text = re.sub(
    r"Other fields present: .*?(?=Did you mean|$)", "", text, flags=re.DOTALL
  )
  if not lines or isinstance(cause, ValueError):
    return text  # of a flag, or what a config says itself
  return f"{config}, line {lines[-1]}: {type(cause).__name__}: {text}"
