"""A routing trace on disk: what became of every sub-token of a text.

A directory with three files, written by `TraceWriter` and read by `load_trace`:

* meta.json, a `TraceMeta`; it is written last.
* documents.parquet, a row for each document: label and text, both strings.
* tokens.parquet, a row for each token, in order: document int32, position int32,
  start and stop int64, text string, loss float32, and for MoE layer n lists of fixed
  size, head by head: expert_n int16 [H * K], weight_n float16 [H * K], dropped_n bool
  [H * K], entropy_n float32 [H].

T tokens, N MoE layers, H heads, K experts per sub-token, E experts.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import shutil
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mhmoe_jax.data.documents import Document

FORMAT_VERSION = 1
# Rows of a group: what is held in memory when writing, and the least that is read.
GROUP_TOKENS = 2**15
_CHOICES = {"expert": pa.int16(), "weight": pa.float16(), "dropped": pa.bool_()}


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
  num_tokens: int = 0
  num_documents: int = 0
  format_version: int = FORMAT_VERSION


class Tokens(NamedTuple):
  """Rows of a trace."""

  document_T: np.ndarray  # int32, place in `Trace.documents`
  position_T: np.ndarray  # int32, 0, 1, 2 ... in each document
  start_T: np.ndarray  # int64, bytes from the start of the document
  stop_T: np.ndarray  # int64
  text_T: np.ndarray  # str objects; bytes that are no character by themselves: <0xE4>
  loss_T: np.ndarray  # float32, nats, of this token given those before it
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
  loss_T: np.ndarray
  expert_TNHK: np.ndarray
  weight_TNHK: np.ndarray
  dropped_TNHK: np.ndarray
  entropy_TNH: np.ndarray

  @property
  def label_T(self) -> np.ndarray:
    """The label of each token's document, as objects."""
    labels = np.array([document.label for document in self.documents], object)
    return labels[self.document_T]


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
  return Trace(meta, list(documents), **tokens._asdict())


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
  for name in ("layers", "data_files"):
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


class TraceWriter:
  """Writes a trace group by group; what is not finished is not there.

  Until the `with` ends without an exception, all is in a directory of another name.

  Args:
    path: of the directory to make.
    meta: what is traced; the numbers of tokens and documents are counted here.

  Raises:
    ValueError: something is there already.
  """

  def __init__(self, path: str | os.PathLike, meta: TraceMeta):
    if os.path.lexists(path):
      raise ValueError(f"a trace is written to a new directory, got {path}.")
    self._path, self._meta = os.path.normpath(path), meta
    self._partial = f"{self._path}.partial"
    shutil.rmtree(self._partial, ignore_errors=True)
    os.makedirs(self._partial)
    self._tokens = self._open("tokens", _token_schema(meta))
    names = pa.schema(
      [("label", pa.dictionary(pa.int32(), pa.string())), ("text", pa.large_string())]
    )
    self._documents = self._open("documents", names)
    self._pending, self._num_tokens, self._num_documents = [], 0, 0

  def _open(self, name: str, schema: pa.Schema) -> parquet.ParquetWriter:
    path = os.path.join(self._partial, f"{name}.parquet")
    return parquet.ParquetWriter(path, schema, compression="zstd")

  def write_documents(self, documents: list[Document]) -> None:
    """Appends documents."""
    arrays = [[d.label for d in documents], [d.text for d in documents]]
    schema = self._documents.schema
    self._documents.write_table(pa.table(arrays, schema=schema))
    self._num_documents += len(documents)

  def write_tokens(self, tokens: Tokens) -> None:
    """Appends tokens; some are held until a group of them is full."""
    self._pending.append(tokens)
    if sum(len(part.loss_T) for part in self._pending) >= GROUP_TOKENS:
      self._flush()

  def _flush(self) -> None:
    if not self._pending:
      return
    tokens = Tokens(*(np.concatenate(x) for x in zip(*self._pending, strict=True)))
    table = _to_table(tokens, self._tokens.schema)
    self._tokens.write_table(table, row_group_size=len(table))
    self._num_tokens += len(table)
    self._pending = []

  def __enter__(self) -> "TraceWriter":
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if kind is None:
      self._flush()
    self._tokens.close()
    self._documents.close()
    if kind is not None:
      return
    meta = dataclasses.replace(
      self._meta, num_tokens=self._num_tokens, num_documents=self._num_documents
    )
    with open(os.path.join(self._partial, "meta.json"), "w", encoding="utf-8") as file:
      json.dump(dataclasses.asdict(meta), file, indent=2)
    os.rename(self._partial, self._path)


def _token_schema(meta: TraceMeta) -> pa.Schema:
  H, K = meta.num_heads, meta.top_k
  fields = [("document", pa.int32()), ("position", pa.int32()), ("start", pa.int64())]
  fields += [("stop", pa.int64()), ("text", pa.string()), ("loss", pa.float32())]
  for n in range(len(meta.layers)):
    fields += [(f"{x}_{n}", pa.list_(kind, H * K)) for x, kind in _CHOICES.items()]
    fields.append((f"entropy_{n}", pa.list_(pa.float32(), H)))
  return pa.schema(fields)


def _to_table(tokens: Tokens, schema: pa.Schema) -> pa.Table:
  arrays = []
  for field in schema:
    name, _, n = field.name.partition("_")
    if not n:
      arrays.append(pa.array(getattr(tokens, f"{name}_T"), field.type))
      continue
    x = tokens.entropy_TNH if name == "entropy" else getattr(tokens, f"{name}_TNHK")
    flat = np.ascontiguousarray(x[:, int(n)]).reshape(-1)
    flat = flat.astype(field.type.value_type.to_pandas_dtype())
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=field.type))
  return pa.table(arrays, schema=schema)


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

  plain = ("document", "position", "start", "stop", "text", "loss")
  return Tokens(
    *(column(name).to_numpy(zero_copy_only=False) for name in plain),
    expert_TNHK=stack("expert", np.int16, H, K),
    weight_TNHK=stack("weight", np.float32, H, K),
    dropped_TNHK=stack("dropped", bool, H, K),
    entropy_TNH=stack("entropy", np.float32, H),
  )
