"""Flags of the verbs: what a user mistypes becomes one line."""

from absl import flags, logging


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


def parse(values, verb: str, argv: list[str], required: tuple[str, ...] = ()) -> None:
  try:
    rest = values([f"mhmoe {verb}", *argv])[1:]
  except (AttributeError, KeyError, TypeError, FileNotFoundError) as error:
    # ConfigDict's words for an unknown key and for a value of another type.
    raise ValueError(str(error).strip("\"'")) from error
  except flags.IllegalFlagValueError as error:
    # What a config file raises, for a mistyped row, arrives with a traceback inside.
    if "Error whilst parsing config file" not in str(error):
      raise
    cause = error
    while cause.__context__ is not None:
      cause = cause.__context__
    raise ValueError(str(cause)) from error
  if values.help:
    print(values.main_module_help() or values.get_help())
    raise SystemExit(0)
  if rest:
    raise ValueError(f"flags look like --name=value, got {rest[0]!r}.")
  if values.v:
    logging.set_verbosity(logging.DEBUG)
  for name in required:
    if values[name].value is None:
      raise ValueError(f"{verb} needs --{name}; see `mhmoe help`.")
