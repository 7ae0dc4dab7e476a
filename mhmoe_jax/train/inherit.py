"""Starting a run from the parameters of another: `config.init`.

Parameters are matched by name, module by module: "encoder", "text_head". A module that
both runs have is taken whole, and must fit: what it learned means nothing in another
width, of other patches or of other tokens. Positions alone are adapted, to another size
of pictures or another length of texts. Other modules of this run are new, those of the
other run are left out. A run that resumes reads none of this.
"""

from collections.abc import Callable
import dataclasses
import json
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.checkpoints import saved
from mhmoe_jax.checkpoints.restore import load_run, restore_on
from mhmoe_jax.data.vocabularies import identify_vocabulary
from mhmoe_jax.models.embedding import resize_positions
from mhmoe_jax.tasks.task import Params
from mhmoe_jax.train.config import RunConfig, describe_changes
from mhmoe_jax.train.state import State

RECORD = "init.json"  # in the folder of a run: what it took from where
_OF_PICTURE, _OF_TEXT = "encoder/picture/position_LD", "encoder/text/position_LD"
# Fields of a model that tell better than shapes what does not fit.
_SAME = ("patch_size", "embed_dim", "vocab_size", "num_layers", "num_attention_heads")
_SAME += ("ffn", "backbone", "pools")


@dataclasses.dataclass(frozen=True)
class Inheritance:
  """What a run takes of another.

  Attributes:
    workdir: of the other run.
    step: of its checkpoint.
    taken: modules, with their numbers of parameters.
    adapted: parameters of them that change their shape, and how.
    new: modules that the other run has not, with their numbers of parameters.
    left_out: modules and parameters of the other run.
    changed: settings of the model that differ, a line each.
  """

  workdir: str
  step: int
  taken: dict[str, int]
  adapted: dict[str, str]
  new: dict[str, int]
  left_out: list[str]
  changed: list[str]

  def in_words(self) -> list[str]:
    """Lines for the user."""

    def tell(modules: dict[str, int]) -> str:
      return ", ".join(f"{name} ({n:,} parameters)" for name, n in modules.items())

    lines = [f"starting from step {self.step} of {self.workdir}: {tell(self.taken)}"]
    lines += [f"adapted: {name}, {how}" for name, how in self.adapted.items()]
    lines += [f"new: {tell(self.new)}"] if self.new else []
    lines += [f"left out: {', '.join(self.left_out)}"] if self.left_out else []
    return lines + [f"other than there: model.{change}" for change in self.changed]

  def tell(self, workdir: str, say: Callable[[str], None]) -> None:
    """Tells the user, and leaves a record in the folder of the run."""
    for line in self.in_words():
      say(line)
    if jax.process_index() == 0:
      text = json.dumps(dataclasses.asdict(self), indent=2)
      (epath.Path(workdir) / RECORD).write_text(f"{text}\n")


@dataclasses.dataclass(frozen=True)
class Inherited:
  """What a run takes, and its arrays: those of the other run, on the mesh."""

  about: Inheritance
  params: Params
  fixed: Params

  def put(self, state: State) -> State:
    """The state of a run that begins, with what is taken.

    Raises:
      ValueError: what no step changes, a visual vocabulary, is not the same in both.
    """
    for name in self.fixed.keys() & state.get("fixed", {}).keys():
      if not np.array_equal(self.fixed[name], state["fixed"][name]):
        raise ValueError(
          "the visual vocabulary must be that of config.init, as data.codes.path may "
          f"say, got another {name} than that of {self.about.workdir}."
        )

    def take(path, fresh):
      names = [key.key for key in path]
      found = self.params
      for key in names:
        found = found[key]
      name = "/".join(names)
      if name not in self.about.adapted:
        return found
      adapt = {_OF_PICTURE: _resize, _OF_TEXT: _lengthen}[name]
      return jax.jit(adapt, out_shardings=fresh.sharding)(found, fresh)

    taken = {name: state["params"][name] for name in self.about.taken}
    taken = jax.tree_util.tree_map_with_path(take, taken)
    return state | {"params": state["params"] | taken}


def inherit(cfg: RunConfig, params: Params, mesh: Mesh) -> Inherited:
  """Reads what a run takes of `cfg.init`.

  Args:
    cfg: of the run that begins.
    params: its parameters, as jax.ShapeDtypeStruct.
    mesh: of the run.

  Raises:
    ValueError: there is no such run, or it does not fit.
  """
  step = saved.newest_step(cfg.init)
  other = load_run(cfg.init, step)
  _check_models(cfg, other, params)
  shapes = jax.eval_shape(lambda: other.task.init(jax.random.key(0)))
  taken = [name for name in params if name in shapes]
  if not taken:
    raise ValueError(
      f"config.init must be a run with some of {', '.join(params)}, got one with "
      f"{', '.join(shapes)}, {cfg.init}."
    )
  ours, theirs = _shapes_by_name(params), _shapes_by_name(shapes)
  rest = theirs.keys() - ours.keys()
  about = Inheritance(
    workdir=cfg.init,
    step=step,
    taken={name: _count(params[name]) for name in taken},
    adapted={
      name: _adapt(name, theirs.get(name), shape, cfg.init)
      for name, shape in ours.items()
      if _module(name) in taken and theirs.get(name) != shape
    },
    new={name: _count(params[name]) for name in params if name not in taken},
    left_out=sorted({x if _module(x) in taken else _module(x) for x in rest}),
    changed=_compare(other.model, cfg.model),
  )
  rules = sharding.FSDP if cfg.mesh.fsdp else sharding.REPLICATED
  found, fixed = restore_on(mesh, rules, cfg.init, shapes, step), {}
  if cfg.task.fixed_shapes() and other.task.fixed_shapes():
    fixed = saved.restore_params(cfg.init, sharding.copies(mesh), step, "fixed")
  return Inherited(about, found, fixed)


def _check_models(cfg: RunConfig, other: RunConfig, params: Params) -> None:
  """Raises ValueError where settings tell that nothing can be taken."""
  if "encoder" in params and not hasattr(other.model, "patch_size"):
    raise ValueError(
      "config.init must be a run with a picture encoder, got a run of task "
      f"{other.task_name}, {cfg.init}."
    )
  for name in _SAME:
    if not (hasattr(cfg.model, name) and hasattr(other.model, name)):
      continue
    ours, theirs = getattr(cfg.model, name), getattr(other.model, name)
    if ours != theirs:
      raise ValueError(
        f"config.init must be a run of the same model.{name}, got {name}={ours!r}, "
        f"and {theirs!r} of {cfg.init}."
      )
  names = cfg.task.text_vocabulary, other.task.text_vocabulary
  ours, theirs = map(identify_vocabulary, names)
  if ours != theirs:
    raise ValueError(
      f"config.init must be a run of the same vocabulary, got {names[0]!r} ({ours}), "
      f"and {names[1]!r} ({theirs}) of {cfg.init}."
    )


def _adapt(name: str, old: tuple | None, new: tuple, workdir: str) -> str:
  """How a parameter is adapted, in words; ValueError if it cannot be."""
  if name == _OF_PICTURE and old:
    old, new = (round((shape[0] - 1) ** 0.5) for shape in (old, new))
    return f"from {old} x {old} patches to {new} x {new}"
  if name == _OF_TEXT and old:
    return f"from {old[0]} places to {new[0]}"
  raise ValueError(
    f"config.init must be a run whose parameters fit, got {name} of shape {new}, and "
    f"{old or 'none'} of {workdir}."
  )


def _compare(old: Any, new: Any) -> list[str]:
  """Lines for the settings that both models have, and that differ."""
  old, new = dataclasses.asdict(old), dataclasses.asdict(new)
  both = old.keys() & new.keys()
  return describe_changes(*({name: x[name] for name in both} for x in (old, new)))


def _resize(old_LD: jax.Array, fresh_LD: jax.Array) -> jax.Array:
  return resize_positions(old_LD, len(fresh_LD) - 1)


def _lengthen(old_LD: jax.Array, fresh_LD: jax.Array) -> jax.Array:
  """The first places are those of the other run; those behind its last one are new."""
  length = min(len(old_LD), len(fresh_LD))
  return fresh_LD.at[:length].set(old_LD[:length])


def _module(name: str) -> str:
  return name.split("/")[0]


def _count(tree: Params) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def _shapes_by_name(tree: Params) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree.leaves_with_path(tree)
  return {"/".join(key.key for key in path): x.shape for path, x in leaves}
