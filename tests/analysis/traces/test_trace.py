"""Traces on disk: whole or not there, read back as written."""

import dataclasses
import json

import numpy as np
import pytest

from mhmoe_jax.analysis.traces import trace, trace_writer
from mhmoe_jax.analysis.traces.trace import Tokens, TraceMeta, load_trace
from mhmoe_jax.analysis.traces.trace_writer import TraceWriter
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_pictures

META = TraceMeta(
  name="m",
  step=3,
  config={"a": {"b": 1}},
  layers=(1, 3),
  num_heads=3,
  num_experts=8,
  top_k=2,
  vocabulary="bytes",
  window=15,
  data_files=("x.txt",),
)


def some_tokens(first, count):
  rng = np.random.default_rng(first)
  order_T = np.arange(first, first + count)
  return Tokens(
    document_T=(order_T // 10).astype(np.int32),
    position_T=(order_T % 10).astype(np.int32),
    start_T=order_T % 10,
    stop_T=order_T % 10 + 1,
    text_T=np.array([chr(97 + t % 26) for t in order_T], object),
    row_T=np.full(count, -1, np.int16),
    column_T=np.full(count, -1, np.int16),
    loss_T=rng.random(count, np.float32),
    expert_TNHK=rng.integers(0, 8, (count, 2, 3, 2)).astype(np.int16),
    weight_TNHK=rng.integers(0, 9, (count, 2, 3, 2)).astype(np.float32) / 8,
    dropped_TNHK=rng.random((count, 2, 3, 2)) < 0.3,
    entropy_TNH=rng.random((count, 2, 3), np.float32),
  )


def write(path, parts):
  with TraceWriter(path, META) as writer:
    writer.write_documents([Document("en", "abcdefghij"), Document("de", "klmno")])
    for part in parts:
      writer.write_tokens(part)


def test_what_is_read_was_written(tmp_path, monkeypatch):
  monkeypatch.setattr(trace_writer, "GROUP_TOKENS", 6)
  parts = [some_tokens(0, 4), some_tokens(4, 4), some_tokens(8, 7)]
  write(tmp_path / "t", parts)
  made = load_trace(tmp_path / "t")
  for name in Tokens._fields:
    whole = np.concatenate([getattr(part, name) for part in parts])
    np.testing.assert_array_equal(getattr(made, name), whole)
    assert getattr(made, name).dtype == whole.dtype
  assert made.meta == dataclasses.replace(META, num_tokens=15, num_documents=2)
  assert list(made.label_T) == ["en"] * 10 + ["de"] * 5

  begun = load_trace(tmp_path / "t", max_tokens=9)
  np.testing.assert_array_equal(begun.loss_T, made.loss_T[:9])
  assert begun.documents == made.documents[:1]


def test_groups_are_written_as_they_fill(tmp_path, monkeypatch):
  monkeypatch.setattr(trace_writer, "GROUP_TOKENS", 6)
  held = []
  with TraceWriter(tmp_path / "t", META) as writer:
    writer.write_documents([Document("en", "abcdefghij")])
    for first in range(0, 40, 4):
      writer.write_tokens(some_tokens(first, 4))
      held.append(sum(len(part.loss_T) for part in writer._pending))
  assert max(held) < 6
  file = trace.parquet.ParquetFile(tmp_path / "t" / "tokens.parquet")
  sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
  file.close()
  assert sizes == [8] * 5


def test_half_a_trace_is_none(tmp_path):
  with pytest.raises(AttributeError):
    write(tmp_path / "t", [some_tokens(0, 4), None])
  with pytest.raises(ValueError, match=r"^no trace at "):
    load_trace(tmp_path / "t")
  write(tmp_path / "t", [some_tokens(0, 4)])  # what is left over is in nobody's way
  assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_nothing_is_overwritten(tmp_path):
  (tmp_path / "t").mkdir()
  with pytest.raises(ValueError, match=r"^a trace is written to a new directory, got "):
    TraceWriter(tmp_path / "t", META)


def test_another_format_is_refused(tmp_path):
  write(tmp_path / "t", [some_tokens(0, 4)])
  meta = tmp_path / "t" / "meta.json"
  meta.write_text(
    meta.read_text().replace('"format_version": 1', '"format_version": 9')
  )
  with pytest.raises(ValueError, match=r"^a trace must be of format 1, got format 9"):
    load_trace(tmp_path / "t")


def test_a_trace_from_before_pictures_is_read(tmp_path):
  write(tmp_path / "t", [some_tokens(0, 15)])
  expected = load_trace(tmp_path / "t")
  path = tmp_path / "t" / "meta.json"
  meta = json.loads(path.read_text())
  for name in ("pools", "picture_size", "patch_size"):
    del meta[name]
  path.write_text(json.dumps(meta))
  made = load_trace(tmp_path / "t")
  assert made.meta == expected.meta
  assert made.pictures is None
  assert not made.is_patch_T.any()
  assert (made.column_T == -1).all()


def test_pools_are_apart_and_keep_their_documents():
  # Two pictures of four patches, the first one read without its word.
  expert_TNHK = np.arange(10)[:, None, None, None] % 4
  whole = make_pictures(expert_TNHK, 4, 2, "a", ("image", "text"))
  trace = whole.select(np.arange(10) != 4)
  image, text = trace.split_pools().values()
  assert image.expert_TNHK.ravel().tolist() == [0, 1, 2, 3, 1, 2, 3, 0]
  assert image.document_T.tolist() == [0] * 4 + [1] * 4
  assert image.meta.pools == ("image",)
  assert text.expert_TNHK.ravel().tolist() == [1]
  assert text.document_T.tolist() == [0]
  assert text.pictures.names == ["x/1.png"]
  np.testing.assert_array_equal(
    text.pictures.pixels_UYXC, whole.pictures.pixels_UYXC[1:]
  )
  one = make_pictures(expert_TNHK, 4, 2, "a")
  assert one.split_pools() == {"shared": one}
  alone = whole.select(whole.is_patch_T)
  assert list(alone.split_pools()) == ["image"]
