"""What a task is: the questions that training asks, which differ by what is learned.

Which parameters; which shapes has a batch; what is the loss; what does an evaluation
count, and what does that mean; where do batches come from; what is there to look at. A
task answers them with pure functions of its tables of the config. The step, the loop,
checkpoints, meshes, the plan and the reports know no more of it than this file.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

Batch = dict[str, Any]  # arrays, or tables of arrays, whose leading dimension is B
Params = dict[str, Any]
Sums = dict[str, Any]  # what batches of one kind add up to


class Loss(NamedTuple):
  """The loss of a part of a batch, and float32 metrics.

  Auxiliary metrics of MoE layers, "balance_loss", "router_z_loss" and "router/...", are
  stacked over the layers, (N, ...), and may have a prefix that ends with a slash.
  """

  share: jax.Array  # the losses of the parts of a batch add up to the batch's
  mean: jax.Array  # of the auxiliary losses: that of a batch is the mean of the parts
  shares: dict[str, jax.Array]  # metrics that add up; "loss" is among them
  means: dict[str, jax.Array]  # metrics of which the parts have the mean


class Evaluation(Protocol):
  """What an evaluation found."""

  @property
  def loss(self) -> float:
    """By which the best checkpoint is known."""

  @property
  def loads(self) -> Mapping[str, np.ndarray]:
    """Load of each MoE layer, `RouterStats.load_HE`, (N, H, E), by what was routed."""

  def scalars(self) -> dict[str, float]:
    """For the record, by name."""

  def in_short(self) -> str:
    """For the line of progress."""

  def in_words(self) -> list[str]:
    """For the summary of a run: lines of a name of 16 columns and what it is."""


class Feed(Protocol):
  """An endless iterator over rows of batches, whose place can be saved.

  Attributes:
    pipeline: all that decides what comes, as JSON values.
  """

  pipeline: Mapping[str, Any]

  def __next__(self) -> Batch: ...

  def save(self, streams: Sequence[int]) -> dict[int, bytes]:
    """The places of these streams."""

  def restore(self, states: Mapping[int, bytes], accept_changes: bool = False) -> str:
    """Moves to places that `save` returned; returns what a user should know, or ""."""


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """What a model learns.

  Attributes:
    model: the table `config.model`, frozen; it has at least `ffn`, `moe`, `layer`,
      `moe_blocks`, `num_pools`, `embed_dim`, `dtype` and `remat`.
    data: the table `config.data`, frozen; it has at least `streams`.
    objective: the table `config.objective`, frozen.
  """

  model: Any
  data: Any
  objective: Any

  def __hash__(self):
    # Tables of data may have dicts.
    return hash((type(self), self.model, self.objective, repr(self.data)))

  @property
  def text_vocabulary(self) -> str:
    """The name of the vocabulary of its text, or "" where there is none."""
    return ""

  @property
  @abc.abstractmethod
  def tokens_per_example(self) -> int:
    """Tokens, patches included, that an example of every kind has together."""

  @abc.abstractmethod
  def init(self, key: jax.Array) -> Params:
    """Freshly initialised parameters; to be called outside `jax.set_mesh`."""

  def fixed_shapes(self) -> Params:
    """Shapes of what the loss needs and no step changes; saved with the parameters."""
    return {}

  def make_fixed(self, workdir: str) -> Params:
    """Reads it, as arrays of the host, when a run begins."""
    return {}

  def prepare(self, workdir: str, say: Callable[[str], None]) -> None:
    """Makes what `make_fixed` reads, on one process, when a run begins.

    Args:
      workdir: of the run.
      say: tells the user a line.
    """
    return

  @abc.abstractmethod
  def batch_shapes(self, batch_size: int) -> Batch:
    """A training batch as jax.ShapeDtypeStruct."""

  @abc.abstractmethod
  def totals(self, batch: Batch) -> Any:
    """What the losses of the parts of this batch divide by."""

  @abc.abstractmethod
  def loss(
    self, params: Params, fixed: Params, batch: Batch, key: jax.Array, totals: Any
  ) -> Loss:
    """The training loss of (a part of) a batch.

    Args:
      params: as of `init`.
      fixed: as of `make_fixed`.
      batch: the part.
      key: of dropout.
      totals: of the whole batch.
    """

  @abc.abstractmethod
  def count(self, params: Params, fixed: Params, batch: Batch) -> Sums:
    """What an evaluation adds up of a batch."""

  @abc.abstractmethod
  def summarize(self, sums: Mapping[str, Sums]) -> Evaluation:
    """What the sums over the batches of every kind mean.

    Raises:
      ValueError: there was nothing to evaluate.
    """

  @abc.abstractmethod
  def check(self) -> None:
    """Raises ValueError for what a look at the data's files shows to be wrong."""

  @abc.abstractmethod
  def train_feed(self, batch_size: int, streams: Sequence[int]) -> Feed:
    """Training batches: the rows of these streams, `data.streams` in all.

    Raises:
      ValueError: the data cannot be read.
    """

  @abc.abstractmethod
  def eval_batches(
    self, batch_size: int
  ) -> Mapping[str, Iterator[tuple[Batch, dict[str, float]]]]:
    """Validation batches by kind, each with what of it only the host can count.

    Raises:
      ValueError: the data cannot be read.
    """

  # What `draw` needs, computed on the mesh from the parameters, what is fixed and the
  # first validation batch of every kind, by kind; None where there is nothing to see.
  show: ClassVar[Callable[..., dict[str, jax.Array]] | None] = None

  def draw(self, shown: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures of what the model does, by name, uint8 (height, width, 3)."""
    return {}
