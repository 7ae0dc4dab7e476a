"""Files: found as they are named, and refused in one line that names them."""

import gzip
import lzma
import os

import pytest

from mhmoe_jax.data import files
from mhmoe_jax.data.quiet import tf


def _write(path, data: bytes) -> str:
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(data)
  return str(path)


def test_finds_files_by_path_glob_and_list(tmp_path):
  paths = [_write(tmp_path / f"{name}.txt", b"x") for name in "cab"]
  (tmp_path / "d.txt").mkdir()
  assert files.find_files(f"{tmp_path}/*.txt") == sorted(paths)
  assert files.find_files(f"{paths[0]},{paths[1]}") == paths[:2]


def test_pattern_without_match(tmp_path, refuses):
  with refuses(f"Every pattern must match a file, got none for '{tmp_path}/*.md'."):
    files.find_files(f"{_write(tmp_path / 'a.txt', b'x')},{tmp_path}/*.md")


def test_empty_file(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"")
  with refuses(f"A file of text must not be empty, got 0 bytes in {path}."):
    files.find_files(path)


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
@pytest.mark.parametrize(
  ("bad", "reason"),
  [(b"\xff\n", "invalid start byte"), (b"\xe2\x82\n", "invalid continuation byte")],
)
def test_not_utf8_at_the_door(tmp_path, monkeypatch, chunk, bad, reason, refuses):
  monkeypatch.setattr(files, "_CHUNK_BYTES", chunk)
  path = _write(tmp_path / "a.txt", "ä€😀".encode() + b"ab" + bad)
  with refuses(
    f"A file of text must be UTF-8, got {reason} at byte 11, line 1, of {path}."
  ):
    files.find_files(path)
  files.check_utf8(_write(tmp_path / "b.txt", "ä€😀".encode() * 9), length=10**9)


def test_character_cut_off_by_the_end_of_the_file(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", b"a\n" + "€".encode()[:2])
  with refuses(
    f"A file of text must be UTF-8, got unexpected end of data at byte 2, line 2, "
    f"of {path}."
  ):
    files.find_files(path)


@pytest.mark.parametrize(
  "name",
  ["a[1].txt", "b c.txt", "a,b.txt", "q?.txt", "~x.txt", "$HOME.txt", "-d.txt", " .t"],
)
def test_a_name_that_is_there_is_meant_as_it_is(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  _write(tmp_path / name, b"x")
  for decoy in ("a1.txt", "qq.txt"):
    _write(tmp_path / decoy, b"x")
  assert files.find_files(name) == [name]
  assert files.find_files(f"{tmp_path}/{name}") == [f"{tmp_path}/{name}"]


def test_patterns_as_the_shell_reads_them(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  for name in ("a.txt", "b.txt", ".hidden.txt", "sub/c.txt"):
    _write(tmp_path / name, b"x")
  _write(tmp_path / "empty.txt", b"")
  os.symlink("a.txt", tmp_path / "link.txt")
  names = [f"{tmp_path}/{name}.txt" for name in ("a", "b", "link")]
  assert files.find_files("~/*.txt") == names
  assert files.find_files(f"{names[1]}, ~/a.*") == [names[1], names[0]]
  assert files.find_files(f"{tmp_path}/.*.txt") == [f"{tmp_path}/.hidden.txt"]
  assert files.match_files(f"{tmp_path}/none*") == []


def test_names_what_the_file_system_refuses(tmp_path, refuses):
  os.symlink("nowhere", tmp_path / "dangling.txt")
  os.symlink("loop.txt", tmp_path / "loop.txt")
  os.mkfifo(tmp_path / "pipe.txt")
  (tmp_path / "folder.txt").mkdir()
  at = f"cannot read {tmp_path}"
  for pattern, message in {
    "dang*": f"{at}/dangling.txt: No such file or directory.",
    "dangling.txt": f"{at}/dangling.txt: No such file or directory.",
    "lo*": f"{at}/loop.txt: Too many levels of symbolic links.",
    "pipe*": f"{at}/pipe.txt: text is read in parts and again, so it must be a regular "
    "file.",
    "folder.txt": f"{at}/folder.txt: a folder; {tmp_path}/folder.txt/* is files.",
  }.items():
    with refuses(message):
      files.find_files(f"{tmp_path}/{pattern}")
  with pytest.raises(ValueError, match=r"^cannot read xyz://a: File system scheme"):
    files.find_files("xyz://a")
  with pytest.raises(ValueError, match=r"^Every pattern must match a file, got none"):
    files.find_files(f"{tmp_path}/{'x' * 300}")


def test_a_long_answer_of_a_server_is_one_line(refuses):
  with (
    refuses("cannot read gs://a/b: 401 not you " + "x" * 288 + "."),
    files.reading("gs://a/b"),
  ):
    raise tf.errors.PermissionDeniedError(None, None, "401\n\tnot you " + "x" * 999)


@pytest.mark.parametrize(
  ("data", "kind", "command"),
  [
    (gzip.compress(b"text"), "gzip", "gzip -dk"),
    (lzma.compress(b"text"), "xz", "xz -dk"),
    ("text".encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (
      b"version https://git-lfs.github.com/spec/v1\n",
      "a pointer of Git LFS",
      "git lfs pull",
    ),
  ],
  ids=["gzip", "xz", "utf-16", "lfs"],  # gzip writes the time
)
def test_other_kinds_of_files(tmp_path, data, kind, command, refuses):
  path = _write(tmp_path / "a.txt", data)
  with refuses(
    f"A file of text must be plain UTF-8, got {kind} in {path}: convert it first, with "
    f"`{command}`."
  ):
    files.find_files(path)


def test_utf16_without_a_mark(tmp_path, refuses):
  path = _write(tmp_path / "a.txt", "text".encode("utf-16-le"))
  with refuses(
    "A file of text must be plain UTF-8, got 4 zero bytes among the first 8 of "
    f"{path}: UTF-16, perhaps."
  ):
    files.find_files(path)


def test_checks_that_a_file_can_be_written(tmp_path, refuses):
  files.check_writable(f"{tmp_path}/new/folder/a.model")
  assert os.listdir(tmp_path / "new" / "folder") == []
  with refuses(f"cannot write {tmp_path}: a folder."):
    files.check_writable(str(tmp_path))
  path = _write(tmp_path / "a", b"")
  with pytest.raises(ValueError, match=rf"^cannot write {path}/b: .*ot a directory"):
    files.check_writable(f"{path}/b")


def test_an_ending_in_capitals():
  kinds = [files.kind_of(path) for path in ("a.JSONL", "gs://a/*.Jsonl", "jsonl.TXT")]
  assert kinds == ["jsonl", "jsonl", "text"]
