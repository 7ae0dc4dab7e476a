"""MaxText's training step for v5p:2x2x1: its settings, its program, and what that does.

MaxText has an environment of its own (requirements.txt), and compiles there by its own
command, `train_compile`.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import tempfile

from mhmoe_jax.plan.hlo import Op, Program, dims, nbytes

CAPACITY = 1.25
WAYS = {
  "megablox": {},  # over an expert axis a ragged all-to-all
  "megablox ring": {"use_ring_of_experts": True},
  "dropping": {"sparse_matmul": False, "megablox": False, "capacity_factor": CAPACITY},
}
_EXPERTS = ("context", "moe_mlpwi_0", "moe_mlpwi_1", "moe_mlpwo")
_PROJECTIONS = ("query_proj", "key_proj", "value_proj", "out_proj")


def _keep(*names: str) -> dict:
  return {"remat_policy": "custom"} | dict.fromkeys(names, "device")


REMATS = {  # MaxText 0.2.5 also has "none", but recomputes as under "full"
  "products kept": _keep(*_PROJECTIONS, *_EXPERTS),
  "attention and experts kept": _keep(*_EXPERTS),
  "attention and outputs kept": _keep("context", "moe_mlpwo"),
  "full": {"remat_policy": "full"},
}


def compile_step(python: str, settings: dict) -> tuple[str, int]:
  """The optimised program of a step, and bytes of its temporaries.

  Args:
    python: an interpreter that has MaxText.
    settings: those of the model, the mesh and the batch.
  """
  find = "import maxtext; print(*maxtext.__path__)"
  home = subprocess.check_output([python, "-c", find], text=True).strip()
  with tempfile.TemporaryDirectory(prefix="maxtext_step_") as folder:
    settings = settings | {
      "run_name": "step",
      "base_output_directory": folder,
      "enable_checkpointing": False,
      "dataset_type": "synthetic",
      "jax_cache_dir": "",
      "compile_topology": "v5p-8",  # its eight cores are four chips, v5p:2x2x1
      "compile_topology_num_slices": 1,
      "compile_xla_flags": f"--xla_dump_to={folder} --xla_dump_hlo_as_text=True",
    }
    command = [python, "-m", "maxtext.trainers.pre_train.train_compile"]
    command.append(f"{home}/configs/base.yml")
    command += [f"{name}={value}" for name, value in settings.items()]
    # The effort of `mhmoe plan` with `quick`, no Google Cloud, no TPU to look for.
    env = os.environ | {"JAX_OPTIMIZATION_LEVEL": "O1"}
    env |= {"DECOUPLE_GCLOUD": "TRUE", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    told = subprocess.run(command, env=env, cwd=folder, text=True, **pipes).stdout
    memory = re.search(r"\btemp_size_in_bytes=(\d+)", told)
    if memory is None:
      raise RuntimeError(f"MaxText did not compile its step:\n{told}")
    (path,) = pathlib.Path(folder).glob("*train_step*.after_optimizations.txt")
    return path.read_text(), int(memory[1])


def state_kernels(text: str, rows: int) -> str:
  """The program, in which its grouped products state what they do with an even load.

  Args:
    text: of the program.
    rows: that a chip's experts have then; buffers may have more.
  """
  program = Program(text)

  def restate(found):
    op = program.computations[program.home[found[2]]][found[2]]
    return found[1] + json.dumps(kernel_cost(program, op, rows))

  kernels = len(_KERNEL.findall(text))
  text, stated = _STATED.subn(restate, text)
  assert stated == kernels, (stated, kernels)
  return text


_KERNEL = re.compile(r"^ +(?:ROOT )?%t?gmm[\w.]* = .* custom-call\(", re.MULTILINE)
# An operation's further lines are not indented.
_STATED = re.compile(
  r"^( +(?:ROOT )?%(t?gmm[\w.]*) = .* custom-call\((?:.|\n(?! ))*?\"cost_estimate\":)"
  r"\{[^}]*\}",
  re.MULTILINE,
)


def kernel_cost(program: Program, op: Op, rows: int) -> dict[str, float]:
  """Of a grouped product: two operations a multiply-add, each array moved once."""
  home = program.computations[program.home[op.name]]
  types = [*(home[name].result for name in op.operands), op.result]
  arrays = [kind for kind in types if kind.startswith("bf16")]
  tall_1, tall_2 = (kind for kind in arrays if len(dims(kind)) == 2)
  (weights,) = (kind for kind in arrays if len(dims(kind)) == 3)  # or their gradient
  used = rows / dims(tall_1)[0]
  assert used <= 1, op
  return {
    "flops": 2 * rows * math.prod(dims(weights)[1:]),
    "bytes_accessed": used * (nbytes(tall_1) + nbytes(tall_2)) + nbytes(weights),
  }
