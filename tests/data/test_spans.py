"""Spans: together exactly the file, whole lines, UTF-8."""

import random

import pytest

from mhmoe_jax.data import spans


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


def test_number_and_size_of_spans(tmp_path, monkeypatch):
  path = _write(tmp_path / "a.txt", b"12345678\n" * 100)
  assert len(spans.cut_spans([path], least=10)) == 10
  monkeypatch.setattr(spans, "_MAX_SPAN_BYTES", 45)
  assert len(spans.cut_spans([path], least=10)) == 20


def test_finds_files_by_path_glob_and_list(tmp_path):
  paths = [_write(tmp_path / f"{name}.txt", b"x") for name in "cab"]
  (tmp_path / "d.txt").mkdir()
  assert spans.find_files(f"{tmp_path}/*.txt") == sorted(paths)
  assert spans.find_files(f"{paths[0]},{paths[1]}") == paths[:2]


def test_pattern_without_match(tmp_path, refuses):
  with refuses(f"Every pattern must match a file, got none for '{tmp_path}/*.md'."):
    spans.find_files(f"{_write(tmp_path / 'a.txt', b'x')},{tmp_path}/*.md")


def test_empty_file(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"")
  with refuses(f"A file of text must not be empty, got 0 bytes in {path}."):
    spans.find_files(path)


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
@pytest.mark.parametrize(
  ("bad", "reason"),
  [(b"\xff\n", "invalid start byte"), (b"\xe2\x82\n", "invalid continuation byte")],
)
def test_not_utf8_at_the_door(tmp_path, monkeypatch, chunk, bad, reason, refuses):
  monkeypatch.setattr(spans, "_CHUNK_BYTES", chunk)
  path = _write(tmp_path / "a.txt", "ä€😀".encode() + b"ab" + bad)
  with refuses(f"A file of text must be UTF-8, got {reason} at byte 11 of {path}."):
    spans.find_files(path)
  spans.check_utf8(_write(tmp_path / "b.txt", "ä€😀".encode() * 9), length=10**9)


def test_character_cut_off_by_the_end_of_the_file(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"a\n" + "€".encode()[:2])
  with refuses(
    f"A file of text must be UTF-8, got unexpected end of data at byte 2 of {path}."
  ):
    spans.find_files(path)


def test_not_utf8_behind_the_door(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"abcd\n" * 20 + b"\xff\n")
  with refuses(
    f"A file of text must be UTF-8, got invalid start byte at byte 100 of {path}."
  ):
    spans.read_span(spans.Span(path, 90, 102))
