"""The real training step, compiled ahead of time for TPUs that are not there.

libtpu holds the compiler, and it needs no TPU: given the shape of a slice and abstract
arguments laid out as in training, it tells whether the step fits and what it does.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import os
import pathlib
import re
import shlex
import sys
import tempfile
import time

import jax
from jax.experimental.compilation_cache import compilation_cache

from mhmoe_jax import sharding
from mhmoe_jax.plan.chips import Chip, chip_of
from mhmoe_jax.plan.costs import Collective, read_costs
from mhmoe_jax.train.config import RunConfig
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import abstract_state
from mhmoe_jax.train.step import make_train_step

# Before libtpu is loaded: do not ask the network which machine this is, do not guard
# the TPU that is not there against a second process, and do not log.
_QUIET = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
  "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What one device does in a step; bytes, seconds, FLOPs.

  If the step does not fit, `needed` says what the compiler asked for, and everything
  that only a finished program tells is None or empty.
  """

  chip: Chip
  num_devices: int
  mesh: dict[str, int]
  fits: bool
  needed: float  # memory at the peak, or what was asked for
  arguments: int | None = None  # state and batch
  temporaries: int | None = None
  flops: float | None = None
  bytes: float | None = None
  compute_seconds: float | None = None  # operations at the chip's peak rates
  collective_seconds: float | None = None
  collectives: Sequence[Collective] = ()
  unknown_loops: int = 0
  rounds: int = 1  # that those loops were counted as
  compile_seconds: float = 0.0

  def step_seconds(self) -> tuple[float, float]:
    """Lower bounds of a step: with all communication hidden, and with none."""
    compute, talk = self.compute_seconds, self.collective_seconds
    return max(compute, talk), compute + talk

  def utilization(self, model_flops: float) -> tuple[float, float]:
    """MFU of `model_flops` per step over all devices, for those two times."""
    peak = self.num_devices * self.chip.flops / self.chip.devices
    hidden, serial = (model_flops / peak / s for s in self.step_seconds())
    return hidden, serial


def devices_of(topology: str, slices: int = 1) -> list:
  """The devices of `slices` slices of a topology such as "v5p:4x4x4".

  Raises:
    ValueError: for a topology that does not exist, or without libtpu.
  """
  chip = chip_of(topology)
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "compiling for a TPU needs libtpu: "
      f"{shlex.quote(sys.executable)} -m pip install libtpu"
    )
  for name, value in _QUIET.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  options = dict(chip.options) | ({"num_slices": slices} if slices > 1 else {})
  try:
    found = topologies.get_topology_desc(topology, "tpu", **options)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f"{topology} is not a slice of {chip.name}: {error}") from error
  return list(found.devices)


def compile_step(
  cfg: RunConfig, topology: str, slices: int = 1, quick: bool = False, rounds: int = 1
) -> Compiled:
  """Compiles the training step of `cfg` for a topology.

  Args:
    cfg: of the run.
    topology: such as "v5p:4x4x4".
    slices: how many of them.
    quick: spend less effort on optimising. About half the time, with the same FLOPs,
      temporaries a tenth larger, and more traffic to HBM.
    rounds: to count of dispatch "rounds", whose number depends on the data.

  Raises:
    ValueError: if the mesh or the batch does not fit the devices, in number, or the
      compiler refuses; a step that does not fit their memory is a result.
  """
  chip = chip_of(topology)
  devices = devices_of(topology, slices)
  mesh = sharding.make_mesh(
    cfg.mesh.replica, cfg.mesh.data, cfg.mesh.expert, cfg.mesh.model, devices=devices
  )
  if mesh.size < len(devices):
    raise ValueError(
      f"a mesh must use every device of the topology, got {dict(mesh.shape)} "
      f"for the {len(devices)} devices of {slices} x {topology}."
    )
  accumulate = cfg.train.accumulate_steps
  sharding.check_batch(cfg.train.batch_size // accumulate, mesh)
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = abstract_state(cfg.task, optimizer, mesh, rules)
  layout = sharding.batch_sharding(mesh)
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
    cfg.task.batch_shapes(cfg.train.batch_size),
  )
  step = make_train_step(cfg.task, optimizer, accumulate)

  about = {"chip": chip, "num_devices": len(devices), "mesh": dict(mesh.shape)}
  with jax.set_mesh(mesh):
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
  start = time.perf_counter()
  try:
    program, text = _compile(lowered, quick)
  except jax.errors.JaxRuntimeError as error:
    needed = memory_asked_for(str(error))
    if needed is None:
      raise ValueError(f"the compiler refuses the step: {error}") from error
    seconds = time.perf_counter() - start
    return Compiled(**about, fits=False, needed=needed, compile_seconds=seconds)
  seconds = time.perf_counter() - start

  memory = program.memory_analysis()
  arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
  costs = read_costs(
    text, chip.flops / chip.devices, chip.bandwidth / chip.devices, rounds
  )
  return Compiled(
    **about,
    fits=True,
    needed=arguments + temporaries + fresh + memory.generated_code_size_in_bytes,
    arguments=arguments,
    temporaries=temporaries,
    flops=costs.flops,
    bytes=costs.bytes,
    compute_seconds=costs.seconds,
    collective_seconds=sum(collective_seconds(c, chip) for c in costs.collectives),
    collectives=costs.collectives,
    unknown_loops=costs.unknown_loops,
    rounds=rounds,
    compile_seconds=seconds,
  )


def _compile(lowered, quick: bool):
  """The program, and its optimised HLO as text.

  jaxlib 0.10.2 cannot read some asynchronous operations that libtpu 0.0.52 puts into
  large programs, so libtpu writes the text itself.
  """
  level, cached = (
    jax.config.jax_optimization_level,
    jax.config.jax_enable_compilation_cache,
  )
  with tempfile.TemporaryDirectory(prefix="mhmoe_plan_") as folder:
    try:
      jax.config.update("jax_optimization_level", "O1" if quick else level)
      # What comes from a cache is not written, and libtpu without a TPU reads none. jax
      # asks for this switch once a process, and again after a reset.
      jax.config.update("jax_enable_compilation_cache", False)
      compilation_cache.reset_cache()
      program = lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
    finally:
      jax.config.update("jax_optimization_level", level)
      jax.config.update("jax_enable_compilation_cache", cached)
      compilation_cache.reset_cache()
    (path,) = pathlib.Path(folder).glob("*train_step*.after_optimizations.txt")
    return program, path.read_text()


def collective_seconds(collective: Collective, chip: Chip) -> float:
  """A lower bound of the time of all its runs: what leaves a device, over all links.

  Of the larger of input and output all but a device's own part moves, in an all-reduce
  twice; in a permutation all of it. How far apart the devices are is not counted.
  """
  parts = max(collective.group, 1)
  kind = collective.kind.removeprefix("slices ")
  rate = chip.ici if kind == collective.kind else chip.dcn
  passes = 2 if kind == "all-reduce" else 1
  share = 1 if kind == "collective-permute" else (parts - 1) / parts
  moved = collective.bytes * passes * share
  return moved / (rate / chip.devices)


def memory_asked_for(message: str) -> float | None:
  """Bytes of HBM from the compiler's words for a program that does not fit; else None.

  Other memories may run out too, such as a kernel's VMEM. That is no size of the model.
  """
  if not re.match(r"RESOURCE_EXHAUSTED.*\bhbm\b", message, re.IGNORECASE | re.DOTALL):
    return None
  found = re.search(r"(?:Used|\()\s*([\d.]+)([KMGT])", message)
  if found is None:
    return None
  return float(found[1]) * 1024 ** (" KMGT".index(found[2]))
