"""The house has floors: who may import whom, and who may know which library."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "mhmoe_jax"

# The first pattern that fits says which floor a module is on.
FLOORS = (
  ("cli", 7),
  ("train.loop", 6),
  ("train.summary", 6),
  ("evals.captions", 1),  # numpy alone, for what tasks tell of captions
  ("evals", 6),
  ("analysis", 6),
  ("train", 5),
  ("checkpoints", 5),
  ("data", 5),
  ("plan", 5),
  ("interop", 5),
  ("tasks", 4),
  ("models", 3),
  ("codes", 3),
  ("moe.experts", 2),
  ("moe.layer", 2),
  ("moe", 1),
  ("sharding", 0),
  ("allocator", 0),
)
# Library: who may import it.
ONLY = {
  "tensorflow": ("data",),
  "seqio": ("data",),
  # The one writes, the other reads.
  "orbax": ("checkpoints.checkpoint", "checkpoints.saved"),
  "optax": ("train", "codes.training"),
  "tensorstore": ("train.lock", "checkpoints.saved"),
  "safetensors": ("interop",),
  "tokenizers": ("data.huggingface",),
  "ml_collections": (
    "cli",
    "train.config",
    "train.loop",
    "checkpoints.restore",
    "interop.importing",
    "interop.runs",
    "interop.upcycling",
  ),
  "clu": ("train.metrics",),
  "matplotlib": ("analysis",),
  "PIL": (
    "train.images",
    "data.images",
    "codes.sheet",
    "analysis.report.picture_packing",
  ),
  "pyarrow": ("analysis",),
  "vl_convert": ("analysis.report",),
  "nltk": ("evals.meteor",),
  "lm_eval": ("evals.harness", "evals.lm", "evals.task_index"),
  "datasets": ("evals.harness", "evals.local_data"),
  "flax": ("moe.experts", "moe.layer", "models", "codes.vqvae"),
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def is_in(module, names):
  return any(module == name or module.startswith(name + ".") for name in names)


def name_of(path):
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
  return next(floor for name, floor in FLOORS if is_in(module, (name,)))


def imports_of(path):
  """Full names of the modules (or names in modules) that a file imports."""
  tree = ast.parse(path.read_text())
  # Tasks may read data when they are asked for batches, and not before.
  late = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in f.body}
  may_be_late = name_of(path).startswith("tasks.")
  for node in ast.walk(tree):
    if may_be_late and node in late and _of_data(node):
      continue
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _of_data(node):
  is_from = isinstance(node, ast.ImportFrom)
  return is_from and is_in(node.module, ("mhmoe_jax.data",))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path):
  module = name_of(path)
  for imported in imports_of(path):
    library = imported.split(".")[0]
    if library in ONLY:
      assert is_in(module, ONLY[library]), f"{module} must not import {library}"
    assert library not in ("configs", "experiments", "tests"), f"{module}: {imported}"
    if library != "mhmoe_jax" or not module:
      continue
    inner = imported.removeprefix("mhmoe_jax.")
    if inner in {name_of(p) for p in SOURCES if p.name == "__init__.py"}:
      continue  # `from mhmoe_jax import sharding` names a module, seen below
    assert floor_of(inner) <= floor_of(module), (
      f"{module} imports {inner}, a floor above"
    )
    rooms = {module.split(".")[0], inner.split(".")[0]}
    assert rooms != {"data", "models"}, "data and models never see each other"
    assert rooms != {"data", "codes"}, "data and codes never see each other"


def test_the_checks_see_something():
  assert len(SOURCES) > 30
  assert "tensorflow" in set(imports_of(PACKAGE / "data" / "quiet.py"))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_the_command_line_knows_how_it_was_called(path):
  """A command in a message must run as it stands: `mhmoe` may not be on the path."""
  if is_in(name_of(path), ("cli",)):
    return
  tree = ast.parse(path.read_text())
  docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
  for node in ast.walk(tree):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      bare = re.search(r"`mhmoe |(?<!-m )\bpip install", node.value)
      assert not bare or id(node) in docs, node.value


def test_the_public_door_is_complete():
  """What editors see, what is promised and what can be imported are the same."""
  import mhmoe_jax

  tree = ast.parse((PACKAGE / "__init__.py").read_text())
  (block,) = (node for node in tree.body if isinstance(node, ast.If))
  seen = {
    (node.module.removeprefix("mhmoe_jax."), alias.name)
    for node in block.body
    for alias in node.names
  }
  homes = {(home, x) for home, names in mhmoe_jax._HOMES.items() for x in names}
  assert seen == homes
  assert sorted(name for _, name in homes) == sorted(mhmoe_jax.__all__)
  for name in mhmoe_jax.__all__:
    assert getattr(mhmoe_jax, name).__name__ == name
  assert set(mhmoe_jax.__all__) <= set(dir(mhmoe_jax))
  with pytest.raises(ImportError, match="cannot import name 'MultiHeadMoE'"):
    from mhmoe_jax import MultiHeadMoE  # noqa: F401


def loaded_by(statement):
  """Top-level modules that a statement loads in a fresh interpreter."""
  program = f"{statement}\nimport sys; print(*{{m.split('.')[0] for m in sys.modules}})"
  run = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  return set(run.stdout.split())


HEAVY = {"tensorflow", "seqio", "orbax", "optax", "clu", "ml_collections"}
HEAVY |= {"matplotlib", "pyarrow", "PIL", "vl_convert"}
HEAVY |= {"lm_eval", "datasets", "safetensors"}


def test_the_layer_needs_jax_and_flax_only():
  # flax itself loads optax and orbax where they are installed; what counts is that
  # nothing of ours does, so they are hidden from it.
  hide = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
  use = (
    "import jax, jax.numpy as jnp\n"
    "from mhmoe_jax import MoeConfig, MultiHeadMoe\n"
    "layer = MultiHeadMoe(MoeConfig(num_heads=2, num_experts=4, expert_dim=8))\n"
    "x_BLD = jnp.ones((1, 2, 8))\n"
    "layer.apply(layer.init(jax.random.key(0), x_BLD), x_BLD)\n"
  )
  loaded_by(hide + use)


@pytest.mark.parametrize(
  "module",
  [
    "mhmoe_jax",
    "mhmoe_jax.models.decoding",
    "mhmoe_jax.train.step",
    "mhmoe_jax.plan.report",
    "mhmoe_jax.evals.sampling",
    "mhmoe_jax.evals.perplexity",
    "mhmoe_jax.analysis.traces.tracing",
    "mhmoe_jax.analysis.report.report",
  ],
)
def test_no_tensorflow_on_an_accelerator_box(module):
  assert not {"tensorflow", "seqio"} & loaded_by(f"import {module}")


def test_help_waits_for_nothing():
  loaded = loaded_by("from mhmoe_jax import cli\nassert cli.main(['help']) == 0")
  assert not {"jax", "flax", "numpy", "absl", *HEAVY} & loaded


def test_a_verb_without_its_packages_is_one_line():
  program = (
    "import sys; sys.modules['ml_collections'] = None\n"
    "from mhmoe_jax import cli; sys.exit(cli.main(['sample', '--workdir=x']))"
  )
  run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert run.returncode == 1
  assert run.stderr.splitlines() == [
    f"mhmoe sample: error: it needs ml_collections: {sys.executable} "
    "-m pip install 'mhmoe_jax[train]'"
  ]
