"""Writes a routing trace; its files are described in trace.py."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mhmoe_jax.analysis.traces.trace import Pictures, Tokens, TraceMeta
from mhmoe_jax.data.documents import Document

# Rows of a group: what is held in memory when writing, and the least that is read.
GROUP_TOKENS = 2**15
_CHOICES = {"expert": pa.int16(), "weight": pa.float16(), "dropped": pa.bool_()}


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
    self._documents = self._open("documents", _document_schema(meta))
    self._pending, self._num_tokens, self._num_documents = [], 0, 0

  def _open(self, name: str, schema: pa.Schema) -> parquet.ParquetWriter:
    path = os.path.join(self._partial, f"{name}.parquet")
    return parquet.ParquetWriter(path, schema, compression="zstd")

  def write_documents(
    self, documents: list[Document], pictures: Pictures | None = None
  ) -> None:
    """Appends documents, which are pictures if the trace is of some."""
    arrays = [[d.label for d in documents], [d.text for d in documents]]
    if pictures is not None:
      arrays += [
        pictures.names,
        [pixels_YXC.tobytes() for pixels_YXC in pictures.pixels_UYXC],
        list(pictures.texture_URC.reshape(len(documents), -1)),
      ]
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


def _document_schema(meta: TraceMeta) -> pa.Schema:
  label = pa.dictionary(pa.int32(), pa.string())
  fields = [("label", label), ("text", pa.large_string())]
  if meta.picture_size:
    texture = pa.list_(pa.float32(), (meta.picture_size // meta.patch_size) ** 2)
    fields += [("name", pa.string()), ("pixels", pa.binary()), ("texture", texture)]
  return pa.schema(fields)


def _token_schema(meta: TraceMeta) -> pa.Schema:
  H, K = meta.num_heads, meta.top_k
  fields = [("document", pa.int32()), ("position", pa.int32()), ("start", pa.int64())]
  fields += [("stop", pa.int64()), ("text", pa.string())]
  if meta.picture_size:
    fields += [("row", pa.int16()), ("column", pa.int16())]
  fields.append(("loss", pa.float32()))
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
