"""The harness's index of tasks: what names stand for, and tasks on local files.

lm-eval keeps its index and its reader of YAML to itself, but offers no other way to
give a task, or a whole group, other data under the same name: hence the extra's one
version.
"""

from collections.abc import Iterator
import contextlib
import difflib
import functools
import itertools
import pathlib

import jinja2
import lm_eval
from lm_eval import utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.tasks.manager import TaskDict

from mhmoe_jax.evals import local_data

_GROUPS = pathlib.Path(__file__).parent / "groups"
_SPLIT = "test"  # what a local file is called
_MISTAKES = (
  AttributeError,
  LookupError,
  SyntaxError,
  TypeError,
  ValueError,
  jinja2.TemplateError,
)
# The harness compiles the template of a prompt for every record, each time anew.
utils.env.from_string = functools.cache(utils.env.from_string)


def load(names: list[str], data: str | None, limit: int | None = None) -> TaskDict:
  """Tasks and groups, ready to be asked for requests.

  Args:
    names: of tasks, groups and tags of the harness, or of ours; may have * in them.
    data: folder of local files (local_data.py); None: the Hugging Face hub.
    limit: records of each task that will be asked for; None: all.

  Raises:
    ValueError: an unknown task, or data that is not there or not of the task.
  """
  manager = know_tasks()
  names = _match(names, manager)
  local = {}
  if data is not None:
    entries = (manager.task_index[name] for name in _leaves(names, manager))
    local = {entry.name: _read_locally(entry, data) for entry in entries}
  with _in_place(manager, local):
    for name in local:
      _check(name, manager, data, limit)
    try:
      return manager.load(names)
    except ConnectionError as error:
      raise ValueError(
        f"the Hugging Face hub must be within reach, or --data name a folder: {error}"
      ) from None


@functools.cache
def know_tasks() -> TaskManager:
  """The harness's 14,000 tasks, whose index takes seconds, and ours."""
  return TaskManager(include_path=str(_GROUPS))


def _match(names: list[str], manager: TaskManager) -> list[str]:
  """The names with patterns spelt out."""
  found = []
  for name in names:
    matches = manager.match_tasks([name])
    if not matches:
      near = difflib.get_close_matches(name, manager.all_tasks)
      raise ValueError(
        f"tasks must be names that lm-eval {lm_eval.__version__} knows, got {name!r}"
        + (f"; near it are {', '.join(near)}." if near else ".")
      )
    found += matches
  return found


def _leaves(names: list[str], manager: TaskManager) -> list[str]:
  """The tasks that names of tasks, tags and groups stand for."""
  tasks = []
  for name in names:
    entry = manager.task_index[name]
    if entry.kind == Kind.TAG:
      tasks += sorted(entry.tags)
    elif entry.kind == Kind.GROUP:
      members = _members(entry.cfg["task"])
      if not manager.task_index.keys() >= {*members}:
        raise ValueError(
          "--data is for tasks with a name of their own, got the group "
          f"{name}, which makes some inside itself."
        )
      tasks += _leaves(members, manager)
    else:
      tasks.append(name)
  return tasks


def _members(listed: list[str | dict]) -> list[str]:
  """Names of what a group lists: by name, with changes, or as a group inside it."""
  names = []
  for member in listed:
    if isinstance(member, str):
      names.append(member)
    elif isinstance(member.get("task"), list):
      names += _members(member["task"])
    else:
      names.append(member.get("task") or member.get("group") or "")
  return names


def _read_locally(entry: Entry, directory: str) -> Entry:
  """The same task, with its records from a local file."""
  if entry.kind != Kind.TASK:
    raise ValueError(f"task {entry.name} reads its data itself, not from --data.")
  dataset = local_data.read(entry.name, directory, _SPLIT)
  own = load_yaml(entry.yaml_path)
  has_examples = "samples" in (own.get("fewshot_config") or {})
  config = own | {
    "custom_dataset": lambda **_: dataset,
    "dataset_kwargs": None,
    # All there is. Where examples are wanted, too, they are from here; that the splits
    # are the same tells the harness to leave out the record in question.
    "training_split": None,
    "validation_split": None,
    "test_split": _SPLIT,
    "fewshot_split": None if has_examples else _SPLIT,
  }
  return Entry(entry.name, Kind.TASK, yaml_path=None, cfg=config, tags=entry.tags)


@contextlib.contextmanager
def _in_place(manager: TaskManager, entries: dict[str, Entry]) -> Iterator[None]:
  """Has `manager` know `entries` instead of those of their names."""
  before = {name: manager.task_index[name] for name in entries}
  manager.task_index.update(entries)
  try:
    yield
  finally:
    manager.task_index.update(before)


def _check(name: str, manager: TaskManager, directory: str, limit: int | None) -> None:
  """Lets the harness make a prompt of each record of a local file."""
  config, path = manager.task_index[name].cfg, local_data.find(name, directory)
  records = config["custom_dataset"]()[_SPLIT]
  try:
    task = manager.load(name)["tasks"][name]
  except _MISTAKES as error:
    raise ValueError(
      f"the records of {path} must be as those of {config['dataset_path']} on the hub, "
      f"got the fields {', '.join(records.column_names)}."
    ) from error
  for number, record in enumerate(itertools.islice(task.eval_docs, limit)):
    try:
      _check_record(task, record)
    except _MISTAKES as error:
      where = "a line"
      if len(task.eval_docs) == len(records):  # Some tasks pass over records.
        where = f"line {local_data.find_line(name, directory, number)}"
      raise ValueError(
        f"task {name} must be able to ask every record, got {where} of {path} "
        f"({type(error).__name__}: {error})."
      ) from error


def _check_record(task: ConfigurableTask, record: dict) -> None:
  """Makes a prompt; ValueError if the right choice is none of the choices."""
  text, right = task.doc_to_text(record), task.doc_to_target(record)
  if task.OUTPUT_TYPE != "multiple_choice" or callable(task.config.process_results):
    return
  choices = task.doc_to_choice(record)
  right = text if task.multiple_input else right
  for one in right if isinstance(right, list) else [right]:
    # As the harness counts them, which takes any other for a wrong answer.
    is_number = isinstance(one, int) and 0 <= one < len(choices)
    if not is_number and one not in choices:
      raise ValueError(f"its answer must be one of {len(choices)}, got {one!r}")
