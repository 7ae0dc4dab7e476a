"""From a ConfigDict to frozen dataclasses, where every value is checked at once."""

import dataclasses
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.masked.config import MaskedDataConfig
from mhmoe_jax.data.pictured.captions import CaptionDataConfig
from mhmoe_jax.data.pictured.nlvr import NlvrDataConfig
from mhmoe_jax.data.pictured.vqa import VqaDataConfig
from mhmoe_jax.models.answering import AnsweringConfig
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.tasks.captioning import Captioning
from mhmoe_jax.tasks.captioning_objective import CaptioningObjectiveConfig
from mhmoe_jax.tasks.language import Language
from mhmoe_jax.tasks.masked import Masked
from mhmoe_jax.tasks.masked_objective import MaskedObjectiveConfig
from mhmoe_jax.tasks.nlvr import Nlvr
from mhmoe_jax.tasks.objective import ObjectiveConfig
from mhmoe_jax.tasks.pictured import EncoderObjectiveConfig
from mhmoe_jax.tasks.task import Task
from mhmoe_jax.tasks.vqa import Vqa
from mhmoe_jax.train.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes; configs/base.py says what each is for."""

  replica: int
  data: int
  expert: int
  model: int
  fsdp: bool


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How long to train and how often to look; in steps."""

  seed: int
  num_steps: int
  batch_size: int
  accumulate_steps: int
  log_every: int
  eval_every: int
  eval_batches: int
  checkpoint_every: int
  keep_last: int
  profile_steps: int
  image_every: int
  harness_every: int
  harness_tasks: str
  harness_data: str
  harness_limit: int

  def __post_init__(self):
    for name, least in (
      ("num_steps", 1),
      ("batch_size", 1),
      ("accumulate_steps", 1),
      ("log_every", 1),
      ("eval_every", 1),
      ("eval_batches", 0),
      ("checkpoint_every", 1),
      ("keep_last", 1),
      ("profile_steps", 0),
      ("image_every", 0),
      ("harness_every", 0),
      ("harness_limit", 0),
    ):
      value = getattr(self, name)
      if value < least:
        raise ValueError(f"{name} must be at least {least}, got {name}={value}.")
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed must be in [0, 2**32), got seed={self.seed}.")
    if self.batch_size % self.accumulate_steps:
      raise ValueError(
        f"accumulate_steps must divide batch_size, got "
        f"accumulate_steps={self.accumulate_steps}, batch_size={self.batch_size}."
      )


class _Kind(NamedTuple):
  """A task, and the tables that it is made from."""

  task: type[Task]
  model: type
  data: type
  objective: type


# By the name in `config.task`.
TASKS = {
  "language": _Kind(Language, TransformerConfig, DataConfig, ObjectiveConfig),
  "masked": _Kind(Masked, EncoderConfig, MaskedDataConfig, MaskedObjectiveConfig),
  "vqa": _Kind(Vqa, AnsweringConfig, VqaDataConfig, EncoderObjectiveConfig),
  "nlvr": _Kind(Nlvr, EncoderConfig, NlvrDataConfig, EncoderObjectiveConfig),
  "captioning": _Kind(
    Captioning, EncoderConfig, CaptionDataConfig, CaptioningObjectiveConfig
  ),
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """All of a run; the types of three tables are those of its task.

  Attributes:
    task_name: the key of `TASKS`.
    init: folder of a run whose parameters this one starts from, or "".
  """

  task_name: str
  init: str
  model: Any
  data: Any
  objective: Any
  optimizer: OptimizerConfig
  mesh: MeshConfig
  train: LoopConfig

  @property
  def task(self) -> Task:
    """What the model learns."""
    return TASKS[self.task_name].task(self.model, self.data, self.objective)

  def need(self, name: str, what: str) -> None:
    """Raises ValueError if the run is of another task than `what` is for."""
    if self.task_name != name:
      raise ValueError(f"{what} needs a run of task {name}, got {self.task_name}.")


def resolve(config: ConfigDict) -> RunConfig:
  """Checks `config` and freezes it.

  Raises:
    ValueError: for an unknown or missing key, a wrong type, or a value that cannot
      work; one line that names the rule and the numbers.
  """
  table = config.to_dict()
  name = table.pop("task", None)
  if name not in TASKS:
    raise ValueError(f"config.task must be one of {', '.join(TASKS)}, got {name!r}.")
  kind = TASKS[name]
  types = {"init": str, "model": kind.model, "data": kind.data}
  types |= {"objective": kind.objective}
  types |= {"optimizer": OptimizerConfig, "mesh": MeshConfig, "train": LoopConfig}
  cfg = RunConfig(name, **_check(types, table, "config"))
  cfg.task  # noqa: B018 - tables that do not fit each other are errors here.
  return cfg


def _check(fields: dict[str, type], table: dict, where: str) -> dict[str, Any]:
  """The values of a table, which must have just these keys, of these types."""
  for key in [*table, *fields]:
    if key not in fields or key not in table:
      problem = "unknown" if key not in fields else "missing"
      raise ValueError(
        f"{where} must have the keys {', '.join(fields)}, got {problem} key {key!r}."
      )
  values = {}
  for key, want in fields.items():
    value = table[key]
    if dataclasses.is_dataclass(want):
      types = {field.name: field.type for field in dataclasses.fields(want)}
      value = want(**_check(types, value, f"{where}.{key}"))
    elif want is float and type(value) is int:
      value = float(value)
    elif type(value) is not want:
      raise ValueError(
        f"{where}.{key} must be of type {want.__name__}, got {value!r} "
        f"of type {type(value).__name__}."
      )
    values[key] = value
  return values


def describe_changes(before: dict, now: dict, where: str = "") -> list[str]:
  """One line for every key that differs between two configs."""
  lines = []
  for key in sorted(before.keys() | now.keys()):
    old, new = before.get(key), now.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
      lines += describe_changes(old, new, f"{where}{key}.")
    elif old != new:
      lines.append(f"{where}{key} was {old!r}, is {new!r}")
  return lines
