"""A routing trace on disk: what became of every sub-token of texts and pictures.

A directory with three files, written by `TraceWriter` and read by `load_trace`:

* meta.json, a `TraceMeta`; it is written last.
* documents.parquet, a row for each document: label and text, both strings. A picture
  is a document, whose text is what belongs to it or empty; its row has name, pixels
  uint8 as bytes, and texture float32 [patches], too.
* tokens.parquet, a row for each token, in order: document int32, position int32,
  start and stop int64, text string, loss float32, and for MoE layer n lists of fixed
  size, head by head: expert_n int16 [H * K], weight_n float16 [H * K], dropped_n bool
  [H * K], entropy_n float32 [H]. With pictures also row and column int16: the patches
  of a picture come before the words that belong to it, which have -1.

T tokens, N MoE layers, H heads, K experts per sub-token, E experts.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mhmoe_jax.data.documents import Document

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TraceMeta:
  """What was traced."""

  name: str  # of the model, for figures
  step: int  # of its checkpoint
  config: dict[str, Any]  # of its run, as it was traced
  layers: tuple[int, ...]  # number of the block that each of the N MoE layers is in
  num_heads: int  # H
  num_experts: int  # E
  top_k: int  # K
  vocabulary: str
  window: int  # tokens of a document that the model sees together
  data_files: tuple[str, ...]
  # Pools of experts, each with E of its own: one, or "image" and "text".
  pools: tuple[str, ...] = ("shared",)
  picture_size: int = 0  # height and width, pixels; 0: no pictures
  patch_size: int = 0
  num_tokens: int = 0
  num_documents: int = 0
  format_version: int = FORMAT_VERSION


class Pictures(NamedTuple):
  """Of U documents that are pictures, R rows of C patches each."""

  names: list[str]
  pixels_UYXC: np.ndarray  # uint8
  # float32, share of a patch that is known to have a texture; NaN: nobody knows.
  texture_URC: np.ndarray


class Tokens(NamedTuple):
  """Rows of a trace."""

  document_T: np.ndarray  # int32, place in `Trace.documents`
  position_T: np.ndarray  # int32, 0, 1, 2 ... in each document
  start_T: np.ndarray  # int64, bytes from the start of the document
  stop_T: np.ndarray  # int64
  # str objects; bytes that are no character by themselves: <0xE4>; patches: "code 17",
  # by their visual code. They have no bytes, and start and stop at 0.
  text_T: np.ndarray
  row_T: np.ndarray  # int16, of a patch; -1: a token of text
  column_T: np.ndarray  # int16, likewise
  # float32, nats, of this token given those before it; NaN where nothing was told.
  loss_T: np.ndarray
  expert_TNHK: np.ndarray  # int16, the likeliest first
  weight_TNHK: np.ndarray  # float32, what each expert's output was multiplied by
  dropped_TNHK: np.ndarray  # bool, True where the expert had no slot left
  entropy_TNH: np.ndarray  # float32, of the router's softmax, nats


@dataclasses.dataclass(frozen=True)
class Trace:
  """A trace, or the beginning of one; its arrays are those of `Tokens`."""

  meta: TraceMeta
  documents: list[Document]
  document_T: np.ndarray
  position_T: np.ndarray
  start_T: np.ndarray
  stop_T: np.ndarray
  text_T: np.ndarray
  row_T: np.ndarray
  column_T: np.ndarray
  loss_T: np.ndarray
  expert_TNHK: np.ndarray
  weight_TNHK: np.ndarray
  dropped_TNHK: np.ndarray
  entropy_TNH: np.ndarray
  pictures: Pictures | None = None

  @property
  def label_T(self) -> np.ndarray:
    """The label of each token's document, as objects."""
    labels = np.array([document.label for document in self.documents], object)
    return labels[self.document_T]

  @property
  def is_patch_T(self) -> np.ndarray:
    """Whether a token is a patch of a picture, and not of a text."""
    return self.row_T >= 0

  @property
  def modality_T(self) -> np.ndarray:
    """ "image" for a patch and "text" for a token of text."""
    return np.where(self.is_patch_T, "image", "text")

  def only_head(self, head: int) -> "Trace":
    """The same as if there were no other head."""
    fields = ("expert_TNHK", "weight_TNHK", "dropped_TNHK", "entropy_TNH")
    one = {name: getattr(self, name)[:, :, [head]] for name in fields}
    return dataclasses.replace(
      self, meta=dataclasses.replace(self.meta, num_heads=1), **one
    )

  def select(self, keep_T: np.ndarray) -> "Trace":
    """The tokens where `keep_T` is True, and the documents that have any of them."""
    kept_U, document_T = np.unique(self.document_T[keep_T], return_inverse=True)
    arrays = {name: getattr(self, name)[keep_T] for name in Tokens._fields}
    arrays["document_T"] = document_T.astype(np.int32)
    pictures = self.pictures
    if pictures is not None:
      names = [pictures.names[u] for u in kept_U]
      pictures = Pictures(names, *(x_U[kept_U] for x_U in pictures[1:]))
    documents = [self.documents[u] for u in kept_U]
    return Trace(self.meta, documents, **arrays, pictures=pictures)

  def split_pools(self) -> "dict[str, Trace]":
    """A trace for each pool of experts, by its name; expert e of one is not of another.

    Pictures alone have no tokens in the pool of texts.
    """
    if len(self.meta.pools) == 1:
      return {self.meta.pools[0]: self}
    parts = {"image": self.is_patch_T, "text": ~self.is_patch_T}
    return {
      pool: dataclasses.replace(
        self.select(parts[pool]), meta=dataclasses.replace(self.meta, pools=(pool,))
      )
      for pool in self.meta.pools
      if parts[pool].any()
    }


def load_trace(path: str | os.PathLike, max_tokens: int | None = None) -> Trace:
  """Reads a trace.

  Args:
    path: its directory.
    max_tokens: the first so many; None for all.

  Raises:
    ValueError: no trace is there, or one of another format.
  """
  meta = load_meta(path)
  with parquet.ParquetFile(os.path.join(path, "tokens.parquet")) as file:
    groups, rows = [], 0
    while rows < meta.num_tokens and (max_tokens is None or rows < max_tokens):
      groups.append(_from_table(file.read_row_group(len(groups)), meta))
      rows += len(groups[-1].loss_T)
  if not groups:
    raise ValueError(f"a trace must have at least one token, got none in {path}.")
  tokens = Tokens(*(np.concatenate(x)[:max_tokens] for x in zip(*groups, strict=True)))
  table = parquet.read_table(os.path.join(path, "documents.parquet"))
  columns = table.slice(0, int(tokens.document_T[-1]) + 1).to_pydict()
  documents = map(Document, columns["label"], columns["text"])
  pictures = _to_pictures(columns, meta) if meta.picture_size else None
  return Trace(meta, list(documents), **tokens._asdict(), pictures=pictures)


def load_meta(path: str | os.PathLike) -> TraceMeta:
  """Reads what was traced; raises as `load_trace` does."""
  try:
    with open(os.path.join(path, "meta.json"), encoding="utf-8") as file:
      fields = json.load(file)
  except (FileNotFoundError, NotADirectoryError):
    raise ValueError(
      f"no trace at {path}; the verb routing trace writes one."
    ) from None
  if fields["format_version"] != FORMAT_VERSION:
    raise ValueError(
      f"a trace must be of format {FORMAT_VERSION}, got format "
      f"{fields['format_version']} at {path}."
    )
  for name in {"layers", "data_files", "pools"} & fields.keys():
    fields[name] = tuple(fields[name])
  return TraceMeta(**fields)


def make_titles(traces: Sequence[Trace]) -> list[str]:
  """Names, with what tells apart those of one name."""
  titles = [trace.meta.name for trace in traces]
  if len(set(titles)) < len(titles):
    titles = [f"{trace.meta.name} step {trace.meta.step}" for trace in traces]
  if len(set(titles)) < len(titles):
    titles = [f"{title} ({i})" for i, title in enumerate(titles)]
  return titles


def _to_pictures(columns: dict[str, list], meta: TraceMeta) -> Pictures:
  size, side = meta.picture_size, meta.picture_size // meta.patch_size
  pixels = np.frombuffer(b"".join(columns["pixels"]), np.uint8)
  texture = np.array(columns["texture"], np.float32)
  return Pictures(
    columns["name"],
    pixels.reshape(-1, size, size, 3),
    texture.reshape(-1, side, side),
  )


def _from_table(table: pa.Table, meta: TraceMeta) -> Tokens:
  N, H, K = len(meta.layers), meta.num_heads, meta.top_k

  def column(name):
    return table[name].combine_chunks()

  def stack(name, dtype, *shape):
    x_TNX = np.empty((len(table), N, int(np.prod(shape))), dtype)
    for n in range(N):
      flat = column(f"{name}_{n}").flatten().to_numpy(zero_copy_only=False)
      x_TNX[:, n] = flat.reshape(len(table), -1)
    return x_TNX.reshape(len(table), N, *shape)

  def plain(name):
    if name in ("row", "column") and not meta.picture_size:
      return np.full(len(table), -1, np.int16)
    return column(name).to_numpy(zero_copy_only=False)

  names = [name.removesuffix("_T") for name in Tokens._fields if name.endswith("_T")]
  return Tokens(
    *map(plain, names),
    expert_TNHK=stack("expert", np.int16, H, K),
    weight_TNHK=stack("weight", np.float32, H, K),
    dropped_TNHK=stack("dropped", bool, H, K),
    entropy_TNH=stack("entropy", np.float32, H),
  )
