"""The device mesh and what is laid out on it: the only file that knows mesh axes.

An array's name ends in one letter per dimension (`x_BLD`, the parameter `w_in_EMF`);
the key of letters is in `mhmoe_jax/__init__.py`. An `AxisRules` table says over which
mesh axes each letter is split, so that changing the strategy is changing one table and
every parameter's layout follows from its name.
"""

import collections
import dataclasses
import functools
import math
import numbers

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

# From the slowest network to the fastest: `replica` spans slices over the data-centre
# network, `model` wants neighbouring chips. All are always there, of size 1 if unused.
MESH_AXES = ("replica", "data", "expert", "model")
BATCH_AXES = ("replica", "data", "expert")

Axes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class AxisRules:
  """The mesh axes that split each dimension; None leaves the dimension whole.

  The parameters' tables below cover every combination, because an axis of size 1 does
  nothing: `REPLICATED` is data parallel, with experts over `expert` and tensors over
  `model` where the mesh has them; `FSDP` is the same with the rest over `data`.
  """

  A: Axes = None  # attention heads
  B: Axes = None  # examples
  C: Axes = None  # slots per expert and group
  D: Axes = None  # model width
  E: Axes = None  # experts
  F: Axes = None  # expert (or dense FFN) hidden width
  G: Axes = None  # routing groups, once their sub-tokens are with the experts
  H: Axes = None  # MoE heads
  J: Axes = None  # heads of keys and values; whole if the mesh does not divide them
  K: Axes = None  # experts per sub-token
  L: Axes = None  # tokens per example
  M: Axes = None  # sub-token width
  N: Axes = None  # layers
  P: Axes = None  # model width as the output of a projection, D = P
  Q: Axes = None  # width of an attention head
  R: Axes = None  # width of the router's projection
  S: Axes = None  # sub-tokens per group
  U: Axes = None  # numbers of a patch of a picture
  V: Axes = None  # vocabulary
  W: Axes = None  # visual codes

  def spec(self, letters: str, what: str = "array") -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions are `letters`; "_" is left whole.

    Raises:
      ValueError: for an unknown letter or mesh axis, or if two dimensions use one axis.
    """
    known = (*self.__dataclass_fields__, "_")
    unknown = [letter for letter in letters if letter not in known]
    if unknown:
      raise ValueError(
        f"dimension letters must be among {''.join(self.__dataclass_fields__)}, "
        f"got {unknown[0]!r} in {letters!r} of {what}."
      )
    axes = [getattr(self, letter, None) for letter in letters]
    used = [a for axis in axes for a in _tuple(axis)]
    unknown = [a for a in used if a not in MESH_AXES]
    if unknown:
      raise ValueError(
        f"mesh axes must be among {', '.join(MESH_AXES)}, "
        f"got {unknown[0]!r} in {tuple(axes)} for {letters!r} of {what}."
      )
    if len(set(used)) < len(used):
      raise ValueError(
        f"a mesh axis may split one dimension only, got {tuple(axes)} "
        f"for {letters!r} of {what}."
      )
    return PartitionSpec(*axes)


def _tuple(axis: Axes) -> tuple[str, ...]:
  if axis is None:
    return ()
  return axis if isinstance(axis, tuple) else (axis,)


# Grouped queries have few heads of keys and values, often fewer than there are devices
# on `model`: each then holds them all.
_WHOLE_IF_NEED_BE = "J"


# Activations follow their data; only parameters have a choice of strategy.
ACTIVATIONS = AxisRules(
  B=BATCH_AXES, G=("replica", "data"), E="expert", A="model", F="model", J="model"
)
# Experts over `expert`, hidden widths and attention heads over `model`; the rest whole.
REPLICATED = AxisRules(E="expert", A="model", F="model", J="model")
# The same, with every matrix's model width split over `data` too (ZeRO-3).
FSDP = dataclasses.replace(REPLICATED, D="data", M="data")


def make_mesh(
  replica: int = 1,
  data: int = -1,
  expert: int = 1,
  model: int = 1,
  devices: list[jax.Device] | None = None,
) -> Mesh:
  """A mesh over `devices` (all, if None); `data=-1` takes what the others leave.

  A mesh smaller than the machine uses its first devices. Where the devices are several
  slices, joined by the data-centre network, `replica` and nothing else spans them.

  Raises:
    ValueError: if a size is not positive, the mesh is larger than the devices, or its
      slices do not fit `replica`.
  """
  devices = jax.devices() if devices is None else devices
  check_sizes(replica, data, expert, model)
  others = replica * expert * model
  sizes = f"replica={replica}, data={data}, expert={expert}, model={model}"
  if data == -1:
    data = len(devices) // others
  count = others * data
  if not 1 <= count <= len(devices):
    raise ValueError(
      f"the mesh must not be larger than the number of devices, "
      f"got {sizes} with {len(devices)} devices."
    )
  devices, sizes = devices[:count], (replica, data, expert, model)
  axis_types = (AxisType.Auto,) * len(MESH_AXES)
  # Only devices that belong to a TPU pod or a GPU cluster know their slice.
  slices = collections.Counter(getattr(d, "slice_index", 0) for d in devices)
  if len(slices) == 1:
    # Not jax.make_mesh, which splits no axis of a torus: no 8 x 8 on 4 x 4 x 4.
    devices = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
    return Mesh(devices, MESH_AXES, axis_types=axis_types)
  if replica % len(slices) or len(set(slices.values())) > 1:
    raise ValueError(
      "replica must be a multiple of the number of slices, and the mesh must take as "
      f"many devices from each, got replica={replica}, slices={len(slices)}, "
      f"devices from each={tuple(slices.values())}."
    )
  devices = mesh_utils.create_hybrid_device_mesh(
    (replica // len(slices), data, expert, model),
    (len(slices), 1, 1, 1),
    devices,
    allow_split_physical_axes=True,
  )
  return Mesh(devices, MESH_AXES, axis_types=axis_types)


def check_sizes(replica: int, data: int, expert: int, model: int) -> None:
  """Raises ValueError unless a mesh on enough devices can have these sizes."""
  sizes = dict(zip(MESH_AXES, (replica, data, expert, model), strict=True))
  for name, size in sizes.items():
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
      raise ValueError(
        f"mesh sizes must be of type int, got {name}={size!r} "
        f"of type {type(size).__name__}."
      )
  if min(replica, expert, model) < 1 or (data < 1 and data != -1):
    got = ", ".join(f"{name}={size}" for name, size in sizes.items())
    raise ValueError(f"mesh sizes must be at least 1 (or data=-1), got {got}.")


def copies(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device, so that every process can read the value."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """How the leading (example) dimension of every batch array is split."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(batch_size: int, mesh: Mesh) -> None:
  """Raises ValueError unless the mesh's batch axes divide `batch_size`."""
  sizes = {axis: mesh.shape[axis] for axis in BATCH_AXES}
  if batch_size % math.prod(sizes.values()):
    raise ValueError(
      f"replica * data * expert of the mesh must divide batch_size, "
      f"got batch_size={batch_size}, "
      + ", ".join(f"{axis}={size}" for axis, size in sizes.items())
      + "."
    )


@functools.cache
def process_rows(mesh: Mesh, batch_size: int) -> dict[int, np.ndarray]:
  """The rows of a batch that each process's devices hold, ascending, by process.

  Neither need they be neighbours, nor be another process's rows others: both depend on
  how the mesh lies over the machine.
  """
  rows = {}
  layout = batch_sharding(mesh).devices_indices_map((batch_size,))
  for device, (part,) in layout.items():
    held = rows.setdefault(device.process_index, set())
    held.update(range(*part.indices(batch_size)))
  return {process: np.array(sorted(held)) for process, held in rows.items()}


def place_batch(batch, mesh: Mesh, batch_size: int):
  """A batch of `batch_size` rows on the mesh.

  Args:
    batch: host arrays of all its rows, or of this process's `process_rows`.
    mesh: to lay it out on.
    batch_size: of all processes together.
  """
  layout = batch_sharding(mesh)
  mine = process_rows(mesh, batch_size)[jax.process_index()]

  def place(x):
    rows = mine if len(x) < batch_size else np.arange(batch_size)

    def read(index):
      # The rows of one device are neighbours, in the batch and so in `x`.
      start, stop, _ = index[0].indices(batch_size)
      first = np.searchsorted(rows, start)
      return x[first : first + stop - start]

    return jax.make_array_from_callback((batch_size, *x.shape[1:]), layout, read)

  return jax.tree.map(place, batch)


def constrain(x: jax.Array, letters: str) -> jax.Array:
  """Asks GSPMD to lay out the activation `x` by `ACTIVATIONS`.

  Without a mesh (`jax.set_mesh`) this is the identity. In a mesh that others made, the
  axes that it has of ours split what they divide, and the rest is left as it is.
  """
  mesh = jax.sharding.get_abstract_mesh()
  ours = set(MESH_AXES) & set(mesh.auto_axes)
  if not ours:
    return x
  foreign = not set(mesh.axis_names) <= ours
  spec = []
  for size, letter, axis in zip(
    x.shape, letters, ACTIVATIONS.spec(letters), strict=True
  ):
    axes = tuple(a for a in _tuple(axis) if a in ours)
    may_be_whole = foreign or letter in _WHOLE_IF_NEED_BE
    if may_be_whole and size % math.prod(mesh.shape[a] for a in axes):
      axes = ()
    spec.append(axes or (PartitionSpec.UNCONSTRAINED if foreign else None))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def is_ours(mesh) -> bool:
  """Whether a mesh has all of `MESH_AXES`, and every axis is GSPMD's to use."""
  return set(MESH_AXES) <= set(mesh.axis_names) == set(mesh.auto_axes)


def explicit_mesh(x: jax.Array):
  """The mesh in force, or else that of `x`, if it has explicit axes; or None."""
  mesh = jax.sharding.get_abstract_mesh()
  mesh = jax.typeof(x).sharding.mesh if mesh.empty else mesh
  return mesh if mesh.explicit_axes else None


def varying_axes(x: jax.Array) -> frozenset[str]:
  """The axes of somebody's `jax.shard_map`, with its check, that `x` varies over."""
  return jax.typeof(x).manual_axis_type.varying


def vary_alike(tree):
  """Arrays that vary over the same axes, so that gradients are summed on the way in."""
  axes = frozenset().union(*map(varying_axes, jax.tree.leaves(tree)))

  def vary(x):
    missing = tuple(axes - varying_axes(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(vary, tree)


def tree_shardings(tree, mesh: Mesh, rules: AxisRules):
  """NamedShardings of a tree of arrays, from the letters that end each leaf's key.

  One dimension more than letters means stacked layers (N leads). Scalars, and leaves
  under no named key, are copied to every device; vectors are not split over `data`,
  whatever the rules say. Works on parameters, optimizer states
  (whose leaves keep their parameter's key) and `jax.eval_shape` results.

  Raises:
    ValueError: naming the parameter, for letters that do not fit its rank, an unknown
      or colliding axis, or a dimension that its mesh axes do not divide.
  """

  def sharding(path, leaf):
    keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    if leaf.ndim == 0 or not keys or keys[0] == "rng":
      return NamedSharding(mesh, PartitionSpec())
    name = "/".join(keys)
    letters = keys[-1].rsplit("_", 1)[-1]
    if letters.islower():  # a scalar, such as log_temperature
      letters = ""
    if leaf.ndim == len(letters) + 1:
      letters = "N" + letters
    if leaf.ndim != len(letters):
      raise ValueError(
        f"a parameter's name must end in one letter per dimension, "
        f"got {name} with shape {leaf.shape}."
      )
    spec = list(rules.spec(letters, name))
    if len(letters.lstrip("NE")) == 1:
      # A vector, of each layer and expert: small, and gathering it takes a collective.
      spec = [None if axes == "data" else axes for axes in spec]
    for i, (size, letter) in enumerate(zip(leaf.shape, letters, strict=True)):
      axes = _tuple(spec[i])
      if size % math.prod(mesh.shape[a] for a in axes):
        if letter in _WHOLE_IF_NEED_BE:
          spec[i] = None
          continue
        sizes = ", ".join(f"{a}={mesh.shape[a]}" for a in axes)
        raise ValueError(
          f"{' * '.join(axes)} of the mesh must divide dimension {letter} of {name}, "
          f"got {letter}={size}, {sizes}."
        )
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree_util.tree_map_with_path(sharding, tree)
