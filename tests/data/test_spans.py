"""Spans: together exactly the file, whole lines but for long ones, UTF-8."""

import itertools
import json
import random

import pytest

from mhmoe_jax.data import gfile, spans
from mhmoe_jax.data.quiet import seqio


def _write(path, data: bytes) -> str:
  path.write_bytes(data)
  return str(path)


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_the_file(tmp_path, seed):
  rng = random.Random(seed)
  # Carriage returns, empty lines, lines longer than a span, no last line end.
  lines = [rng.choice(["", "a", "ä€😀", "\r", "x" * 50]) for _ in range(30)]
  files = [
    _write(tmp_path / f"{i}.txt", ("\n".join(lines[i:]) + "\n" * i).encode())
    for i in range(2)
  ]
  cut = spans.cut_spans(files, least=rng.randrange(1, 60))
  for path in files:
    pieces = [spans.read_span(span) for span in cut if span.path == path]
    with open(path, "rb") as file:
      data = file.read()
    assert b"".join(piece.text for piece in pieces) == data
    texts = [piece for piece in pieces if piece.text]
    assert all(piece.text.endswith(b"\n") for piece in texts[:-1])
    assert [piece.is_last for piece in texts] == [False] * (len(texts) - 1) + [True]
    assert all(data[piece.offset :].startswith(piece.text) for piece in texts)


def test_a_line_belongs_to_the_span_it_starts_in(tmp_path):
  path = _write(tmp_path / "a.txt", b"ab\ncd\nef")
  texts = [spans.read_span(spans.Span(path, start, start + 1)) for start in range(8)]
  assert [lines.text for lines in texts] == [
    *(b"ab\n", b"", b""),
    *(b"cd\n", b"", b""),
    *(b"ef", b""),
  ]
  assert [lines.is_last for lines in texts] == [False] * 6 + [True] * 2


def test_sizes_by_which_saved_runs_resume(tmp_path):
  path = _write(tmp_path / "a.txt", bytes(2**20))
  assert [span.end for span in spans.cut_spans([path], 1)] == [
    2**18 * i for i in (1, 2, 3, 4)
  ]
  assert (spans.span_records(10**6, 1), spans.span_records(100, 7)) == (256, 14)
  # Of less than is asked for, as many as there are.
  assert (spans.span_bytes(5, 7), spans.span_records(5, 7)) == (1, 1)
  assert spans.least_spans(None) == 1
  assert spans.least_spans(seqio.ShardInfo(0, 3)) == 48


def test_number_and_size_of_spans(tmp_path, monkeypatch):
  path = _write(tmp_path / "a.txt", b"12345678\n" * 100)
  assert len(spans.cut_spans([path], least=10)) == 10
  monkeypatch.setattr(spans, "_MAX_SPAN_BYTES", 45)
  assert len(spans.cut_spans([path], least=10)) == 20


def test_not_utf8_behind_the_door(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"abcd\n" * 20 + b"\xff\n")
  with refuses(
    f"A file of text must be UTF-8, got invalid start byte at byte 100, line 21, "
    f"of {path}."
  ):
    spans.read_span(spans.Span(path, 90, 102))


def _read(path, least=1, whole=False):
  cut = spans.cut_spans([path], least)
  return [spans.read_span(span, whole=whole) for span in cut]


@pytest.mark.parametrize("seed", range(20))
def test_long_lines_are_cut_between_characters(tmp_path, monkeypatch, seed):
  """By an oracle that goes through the file byte by byte."""
  monkeypatch.setattr(spans, "_LONG_BYTES", 40)
  monkeypatch.setattr(spans, "_MAX_SPAN_BYTES", 100)
  rng = random.Random(seed)
  lines = [rng.choice("aä€😀") * rng.choice([3, 30, 39, 41, 300]) for _ in range(12)]
  data = "\n".join(lines).encode()
  path = _write(tmp_path / "a.txt", data)

  def begins(offset):
    """Where the text of a span begins that was cut at an offset."""
    end = data.find(b"\n", max(offset - 1, 0))
    if offset == 0 or (0 <= end <= offset + 39):
      return 0 if offset == 0 else end + 1
    if end < 0 and len(data) <= offset + 40:
      return len(data)
    while data[offset] & 0b11000000 == 0b10000000:
      offset += 1
    return offset

  cuts = [*range(0, len(data), 100), len(data)]
  expected = [data[begins(a) : begins(b)] for a, b in itertools.pairwise(cuts)]
  assert [lines.text for lines in _read(path)] == expected
  assert max(map(len, expected)) <= 140 + 3
  assert b"".join(expected) == data


@pytest.mark.parametrize("rest", [2**16, 2**16 + 1])
def test_a_line_is_cut_where_64_KiB_are_not_its_rest(tmp_path, rest):
  path = _write(tmp_path / "a.txt", b"x" * (8 + rest - 1) + b"\n" + b"y")
  first, second = spans.Span(path, 0, 8), spans.Span(path, 8, rest + 9)
  sizes = [len(spans.read_span(span).text) for span in (first, second)]
  assert sizes == ([8 + rest, 1] if rest == 2**16 else [8, rest + 1])


@pytest.mark.parametrize("rest", [2**16, 2**16 + 1])
def test_a_last_line_without_an_end_is_cut_alike(tmp_path, rest):
  path = _write(tmp_path / "a.txt", b"x" * (8 + rest))
  first, second = spans.Span(path, 0, 8), spans.Span(path, 8, 8 + rest)
  sizes = [len(spans.read_span(span).text) for span in (first, second)]
  assert sizes == ([8 + rest, 0] if rest == 2**16 else [8, rest])


def test_a_giant_line_feeds_many_streams_and_is_read_once(tmp_path, monkeypatch):
  path = _write(tmp_path / "a.txt", b"x" * (4 * 2**20))
  texts = [lines.text for lines in _read(path, least=32)]
  assert [len(text) for text in texts] == [2**17] * 32
  # Of records, every byte is looked at twice at most, however many spans they cover.
  looked = []

  class File(gfile.GFile):
    def read(self, count=-1):
      looked.append(count)
      return super().read(count)

  record = json.dumps({"text": "x" * (8 * 2**20)}).encode() + b"\n"
  path = _write(tmp_path / "a.jsonl", record * 2)
  monkeypatch.setattr(gfile, "GFile", File)
  pieces = _read(path, whole=True)
  assert [piece.text for piece in pieces if piece.text] == [record] * 2
  # A span looks into at most 64 KiB and the rest of a block, all together into blocks.
  assert sum(looked) <= len(pieces) * (2**16 + 2**20) + 4 * len(record)


@pytest.mark.parametrize("seed", range(20))
def test_records_are_whole(tmp_path, monkeypatch, seed):
  monkeypatch.setattr(spans, "_LONG_BYTES", 5)
  monkeypatch.setattr(spans, "_BLOCK_BYTES", 16)
  rng = random.Random(seed)
  lines = [b"x" * rng.choice([0, 3, 9, 20, 60]) + b"\n" for _ in range(30)]
  path = _write(tmp_path / "a.jsonl", b"".join(lines))
  starts = [0, *itertools.accumulate(map(len, lines))]
  for span in spans.cut_spans([path], least=40):
    expected = [
      x for x, at in zip(lines, starts, strict=False) if at in range(*span[1:])
    ]
    assert spans.read_span(span, whole=True).text == b"".join(expected)


def test_a_record_has_a_limit(tmp_path, monkeypatch, refuses):
  monkeypatch.setattr(spans, "_MAX_RECORD_BYTES", 300)
  path = _write(tmp_path / "a.jsonl", b"1\n" + b"x" * 300 + b"\n")
  with refuses(
    f"A line of JSONL must have at most 300 bytes, got more behind byte 0 of {path}."
  ):
    _read(path, whole=True)


def test_a_byte_order_mark_is_left_out_at_the_start_alone(tmp_path):
  mark = "\ufeff".encode()
  path = _write(tmp_path / "a.txt", mark + b"a\n" + mark + b"b\r\nc\rd\0")
  assert spans.read_span(spans.Span(path, 4, 9)).text.startswith(mark)
  assert _read(path) == [spans.Lines(b"a\n" + mark + b"b\r\nc\rd\0", 3, True)]


def test_a_file_that_changes_while_it_is_read(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"abc\n")
  (span,) = spans.cut_spans([path], 1)
  _write(tmp_path / "a.txt", b"abc\nd")
  with refuses(
    "A file of text must stay as it is while it is read, got 4 bytes at first and 5 "
    f"now in {path}."
  ):
    spans.read_span(span, size=4)
  (tmp_path / "a.txt").unlink()
  with refuses(f"cannot read {path}: No such file or directory."):
    spans.read_span(span, size=4)
