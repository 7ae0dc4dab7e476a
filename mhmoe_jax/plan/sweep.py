"""Many ways to run one model on one topology, compiled and ranked.

Every candidate is compiled (in quick mode), so a sweep takes minutes; the ranking is by
the tokens per second that the compiled program allows at the chip's peak rates with no
communication hidden. Compile the winner again by itself for its own figures.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import json
import sys
import time

from mhmoe_jax.models.remat import POLICIES
from mhmoe_jax.plan import accounting, table
from mhmoe_jax.plan.compile import Compiled, compile_step, devices_of
from mhmoe_jax.train.config import RunConfig

AXES = ("mesh", "capacity", "remat", "accumulate", "batch")
CAPACITIES = (1.0, 1.25, 1.5, 2.0)
PARTS = (1, 2, 4, 8)  # of a batch


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run the model, and what became of it; `problem` if it cannot run."""

  changes: dict[str, object]
  tokens: int  # per step
  compiled: Compiled | None
  problem: str = ""

  @property
  def tokens_per_second(self) -> float:
    """At peak rates with no communication hidden; 0 if it does not fit."""
    if self.compiled is None or not self.compiled.fits:
      return 0.0
    return self.tokens / self.compiled.step_seconds()[1]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Candidates, the fastest first."""

  candidates: Sequence[Candidate]
  training_flops: float  # per token

  def text(self) -> str:
    """One line for each."""
    rows = [_row(c, self.training_flops) for c in self.candidates]
    header = ("setting", "fits", "memory", "computation", "communication")
    text = table.columns([(*header, "tokens/s", "MFU <="), *rows], left=(0, 1))
    problems = dict.fromkeys(c.problem for c in self.candidates if c.problem)
    return "\n\n".join([text, *problems])

  def json(self) -> str:
    """One line."""
    rows = [
      {
        "changes": c.changes,
        "problem": c.problem,
        "fits": bool(c.compiled and c.compiled.fits),
        "needed": c.compiled and c.compiled.needed,
        "tokens_per_second": c.tokens_per_second,
      }
      for c in self.candidates
    ]
    return json.dumps({"candidates": rows})


def sweep(cfg: RunConfig, topology: str, slices: int, over: Sequence[str]) -> Sweep:
  """Compiles every combination of the settings in `over`, some of `AXES`.

  A line on stderr tells of each, and how long the rest will take.

  Raises:
    ValueError: for another name, or a capacity where the dispatch has none.
  """
  unknown = [name for name in over if name not in AXES]
  if unknown:
    raise ValueError(
      f"a sweep goes over some of {', '.join(AXES)}, got {unknown[0]!r}."
    )
  if "capacity" in over and cfg.model.moe.dispatch not in ("capacity", "einsum"):
    raise ValueError(
      "a sweep over capacity needs dispatch 'capacity' or 'einsum', "
      f"got dispatch={cfg.model.moe.dispatch!r}."
    )
  devices = len(devices_of(topology, slices))
  choices = {
    "mesh": lambda: _meshes(cfg, devices),
    "capacity": lambda: [{"capacity_factor": c} for c in CAPACITIES],
    "remat": lambda: [{"remat": name} for name in POLICIES],
    "accumulate": lambda: [
      {"accumulate_steps": n} for n in PARTS if not cfg.train.batch_size % n
    ],
    "batch": lambda: [{"batch_size": cfg.train.batch_size * n // 2} for n in (1, 2, 4)],
  }
  every = list(itertools.product(*(choices[name]() for name in over)))
  found, start = [], time.monotonic()
  for parts in every:
    changes = {key: value for part in parts for key, value in part.items()}
    found.append(_try(cfg, topology, slices, changes))
    left = (time.monotonic() - start) / len(found) * (len(every) - len(found))
    setting, fits, *_ = _row(found[-1], 0.0)
    print(
      f"{len(found)}/{len(every)}  {setting}  fits: {fits}  {left:.0f} s left",
      file=sys.stderr,
    )
  found.sort(key=lambda c: -c.tokens_per_second)
  return Sweep(found, accounting.count_flops(cfg).training)


def _meshes(cfg: RunConfig, devices: int) -> list[dict[str, int]]:
  """Every split of a slice's devices between data and expert that the experts allow."""
  local = devices // cfg.mesh.replica // cfg.mesh.model
  experts = cfg.model.layer.num_experts if cfg.model.ffn != "dense" else 1
  return [
    {"data": local // n, "expert": n}
    for n in range(1, local + 1)
    if local % n == 0 and experts % n == 0
  ]


def _try(cfg: RunConfig, topology: str, slices: int, changes: dict) -> Candidate:
  mesh = {k: v for k, v in changes.items() if k in ("data", "expert")}
  moe = {k: v for k, v in changes.items() if k == "capacity_factor"}
  model = {k: v for k, v in changes.items() if k == "remat"}
  train = {k: v for k, v in changes.items() if k in ("batch_size", "accumulate_steps")}
  model["moe"] = dataclasses.replace(cfg.model.moe, **moe)
  cfg = dataclasses.replace(
    cfg,
    mesh=dataclasses.replace(cfg.mesh, **mesh),
    model=dataclasses.replace(cfg.model, **model),
    train=dataclasses.replace(cfg.train, **train),
  )
  tokens = cfg.train.batch_size * cfg.task.tokens_per_example
  try:
    compiled = compile_step(cfg, topology, slices, quick=True)
  except ValueError as error:  # such as a batch that the mesh does not divide
    return Candidate(changes, tokens, None, str(error))
  return Candidate(changes, tokens, compiled)


def _row(candidate: Candidate, training_flops: float) -> tuple[str, ...]:
  setting = " ".join(f"{key}={value}" for key, value in candidate.changes.items())
  found = candidate.compiled
  if found is None:
    return (setting, "cannot run", "", "", "", "", "")
  memory = table.size(found.needed)
  if not found.fits:
    return (setting, "no", memory, "", "", "", "")
  mfu = found.utilization(candidate.tokens * training_flops)[1]
  return (
    setting,
    "yes",
    memory,
    f"{found.compute_seconds * 1e3:.4g} ms",
    f"{found.collective_seconds * 1e3:.4g} ms",
    f"{candidate.tokens_per_second / 1e6:.3f}M",
    f"{mfu:.1%}",
  )
