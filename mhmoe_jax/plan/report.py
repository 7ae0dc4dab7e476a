"""What `mhmoe plan` finds out, as text and as JSON."""

import dataclasses
import json

from mhmoe_jax.models.remat import POLICIES
from mhmoe_jax.plan import accounting, parity, table
from mhmoe_jax.plan.compile import Compiled, compile_step
from mhmoe_jax.train.config import MeshConfig, RunConfig


@dataclasses.dataclass(frozen=True)
class ModelPlan:
  """What a config costs whatever it runs on."""

  cfg: RunConfig
  parameters: accounting.Parameters
  flops: accounting.Flops
  sizes: accounting.Sizes
  rivals: list[parity.Rival]

  def text(self) -> str:
    """A dozen lines."""
    model = table.describe_model(self.cfg, self.parameters, self.flops, self.sizes)
    return f"{model}\n\n{table.describe_rivals(self.rivals)}"

  def json(self) -> str:
    """One line."""
    rivals = [r._asdict() | {"parameters": r.parameters._asdict()} for r in self.rivals]
    return json.dumps(
      {
        "parameters": self.parameters._asdict(),
        "flops_per_token": self.flops._asdict(),
        "bytes": self.sizes._asdict(),
        "rivals": rivals,
      }
    )


def plan_model(cfg: RunConfig) -> ModelPlan:
  """Counts a config's parameters, FLOPs and bytes, and those of its rivals."""
  return ModelPlan(
    cfg,
    accounting.count_parameters(cfg.task),
    accounting.count_flops(cfg),
    accounting.count_sizes(cfg),
    parity.rivals(cfg),
  )


@dataclasses.dataclass(frozen=True)
class StepPlan:
  """What a config's training step needs and does on a topology."""

  cfg: RunConfig
  flops: accounting.Flops
  compiled: Compiled

  @property
  def tokens(self) -> int:
    """Per step."""
    return self.cfg.train.batch_size * self.cfg.task.tokens_per_example

  def text(self) -> str:
    """A dozen lines."""
    model_flops = self.tokens * self.flops.training
    text = table.describe_compiled(self.compiled, model_flops, self.tokens)
    if not self.compiled.fits:
      advice = remedies(self.cfg, self.compiled.mesh)
      text += "\n\ntry" + "".join(f"\n  {line}" for line in advice)
    return text

  def json(self) -> str:
    """One line."""
    found = dataclasses.asdict(self.compiled)
    found["collectives"] = [c._asdict() for c in self.compiled.collectives]
    if self.compiled.fits:
      found["step_seconds"] = self.compiled.step_seconds()
      found["utilization"] = self.compiled.utilization(
        self.tokens * self.flops.training
      )
    else:
      found["remedies"] = remedies(self.cfg, self.compiled.mesh)
    found["tokens"] = self.tokens
    return json.dumps({"flops_per_token": self.flops._asdict(), "step": found})


def plan_step(
  cfg: RunConfig, topology: str, slices: int = 1, quick: bool = False, rounds: int = 1
) -> StepPlan:
  """Compiles a config's training step for a topology; see `compile_step`."""
  compiled = compile_step(cfg, topology, slices, quick, rounds)
  return StepPlan(cfg, accounting.count_flops(cfg), compiled)


def remedies(cfg: RunConfig, mesh: dict[str, int]) -> list[str]:
  """What may make a step fit on a mesh, the cheapest first."""
  found = []
  if not cfg.mesh.fsdp and mesh["data"] > 1:
    found.append("--config.mesh.fsdp=True splits parameters and optimizer over data")
  ladder = list(POLICIES)
  for name, cost in (
    ("norms", "recomputes what multiplies no matrices"),
    ("projections", "recomputes all but attention and experts"),
    ("blocks", "recomputes blocks, a third more work"),
  ):
    if ladder.index(name) > ladder.index(cfg.model.remat):
      found.append(f"--config.model.remat={name} {cost}")
  train, holders = cfg.train, mesh["replica"] * mesh["data"] * mesh["expert"]
  if train.batch_size % (2 * train.accumulate_steps * holders) == 0:
    found += [
      f"--config.train.accumulate_steps={2 * train.accumulate_steps} computes a batch "
      "in more parts",
      f"--config.train.batch_size={train.batch_size // 2} is a smaller batch",
    ]
  expert = 2 * mesh["expert"]
  experts = cfg.model.layer.num_experts if cfg.model.ffn != "dense" else 0
  if experts and experts % expert == 0 and mesh["data"] % 2 == 0:
    found.append(
      f"--mesh data={mesh['data'] // 2},expert={expert} keeps fewer experts on a device"
    )
  return [*found, "a larger topology"]


def parse_mesh(text: str) -> dict[str, int | bool]:
  """The keys of config.mesh to set, from "data=8,expert=8,fsdp=true".

  Raises:
    ValueError: for another key, or a value that is not a number (for fsdp: not true or
      false).
  """
  names = [field.name for field in dataclasses.fields(MeshConfig)]
  changes = {}
  for item in filter(None, text.split(",")):
    name, _, value = item.partition("=")
    is_number = value.removeprefix("-").isdecimal()
    if name not in names or not (
      value.lower() in ("true", "false") if name == "fsdp" else is_number
    ):
      raise ValueError(
        f"a mesh is written as {'=N,'.join(names[:-1])}=N,fsdp=true, "
        f"in parts or whole, got {item!r}."
      )
    changes[name] = value.lower() == "true" if name == "fsdp" else int(value)
  return changes
