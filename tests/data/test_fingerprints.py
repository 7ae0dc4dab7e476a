"""Fingerprints: a change anywhere shows, up to 4 MiB; size and ends of all files."""

import hashlib

import pytest

from mhmoe_jax.data import fingerprints
from mhmoe_jax.data.fingerprints import fingerprint, is_same


def test_by_hand(tmp_path, monkeypatch):
  monkeypatch.setattr(fingerprints, "_SAMPLE_BYTES", 3)

  def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]

  for data, samples, expected in (
    (b"ab", 1, f"2 bytes, {digest(b'abab')}"),
    (b"abcdef", 1, f"6 bytes, {digest(b'abcdef')}"),
    (b"abcdefgh", 1, f"8 bytes, {digest(b'abcfgh')}, {digest(b'cde')}"),
    (b"abcdefghijk", 9, f"11 bytes, {digest(b'abcijk')}, {digest(b'cdefgh')}"),
    (b"abcdefghijk", 0, f"11 bytes, {digest(b'abcijk')}"),
  ):
    monkeypatch.setattr(fingerprints, "_SAMPLES_OF_A_FILE", samples)
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert fingerprint([str(path)]) == {f"file {path}": expected}


@pytest.mark.parametrize("size", [100, 2**16, 2**17 + 1, 2**22])
def test_every_byte_counts(tmp_path, size):
  path = tmp_path / "a.txt"
  found = set()
  for at in (None, 0, size // 3, size // 2, size - 70 if size > 70 else 1, size - 1):
    data = bytearray(size)
    if at is not None:
      data[at] = 1
    path.write_bytes(data)
    found.add(fingerprint([str(path)])[f"file {path}"])
  assert len(found) == 6


def test_many_files_share_the_samples(tmp_path, monkeypatch):
  monkeypatch.setattr(fingerprints, "_SAMPLES", 1)
  paths = [str(tmp_path / name) for name in "ab"]
  for path in paths:
    with open(path, "wb") as file:
      file.write(bytes(2**20))
  one, two = fingerprint(paths[:1]), fingerprint(paths)
  assert two.keys() == {f"file {path}" for path in paths}
  key = f"file {paths[0]}"
  assert one[key].startswith(two[key] + ", ")
  assert is_same(two[key], one[key])  # What was made before there were samples.
  assert not is_same(one[key], two[key])
  assert not is_same(None, one[key])


def test_names_what_is_not_there(tmp_path, refuses):
  with refuses(f"cannot read {tmp_path}/a: No such file or directory."):
    fingerprint([f"{tmp_path}/a"])


def test_samples_by_which_saved_runs_know_their_text():
  sizes = fingerprints._SAMPLE_BYTES, fingerprints._SAMPLES_OF_A_FILE
  assert (*sizes, fingerprints._SAMPLES) == (2**16, 62, 2**12)
