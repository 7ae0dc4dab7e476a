"""Commands as they run in the shell of whoever reads them: called by name or by path,
with the reader's own flags, quoted.
"""

from collections.abc import Sequence
import os
import shlex
import shutil
import sys

# Commands that are installed beside `mhmoe`: the module that `python -m` runs.
_MODULES = {"mhmoe": "mhmoe_jax.cli", "tensorboard": "tensorboard.main"}


def program(name: str = "mhmoe") -> str:
  """What calls a command of this environment, activated or not."""
  called = sys.argv[0]
  path = os.path.join(os.path.dirname(called), name)
  if os.path.basename(called) != "mhmoe" or not os.path.exists(path):
    return f"{shlex.quote(sys.executable)} -m {_MODULES[name]}"
  found = shutil.which(name)
  is_found = found is not None and os.path.samefile(found, path)
  return name if is_found else shlex.quote(path)


def replace(argv: Sequence[str], **values: object) -> list[str]:
  """The words with other values of some flags, those at the end that were not there.

  Args:
    argv: flags of a verb, as `--name=value` or as two words.
    **values: by name, with "__" for "."; None removes a flag.
  """
  values = {name.replace("__", "."): value for name, value in values.items()}
  words, missing = [], dict(values)
  rest = iter(argv)
  for word in rest:
    name, equals, _ = word.lstrip("-").partition("=")
    if not word.startswith("-") or name not in values:
      words.append(word)
      continue
    if not equals:
      next(rest, None)
    if missing.pop(name, None) is not None:
      words.append(f"--{name}={values[name]}")
  return words + [f"--{n}={value}" for n, value in missing.items() if value is not None]


def command(verb: str, argv: Sequence[str]) -> str:
  return f"{program()} {verb} {shlex.join(argv)}"


def name_run(out: str) -> str:
  """A workdir for a run that uses the file or folder `out`."""
  return os.path.join("runs", os.path.basename(os.path.splitext(out.rstrip("/"))[0]))
