"""Snapshots: the same place again, and only in the same pipeline."""

import resource
import tempfile
import zipfile

import pytest

from mhmoe_jax.data.quiet import tf
from mhmoe_jax.data.snapshot import restore_iterator, save_iterator


def _iterate():
  return iter(tf.data.Dataset.range(100).shuffle(50, seed=3).batch(7).prefetch(2))


def test_goes_back_and_forth():
  iterator = _iterate()
  next(iterator)
  state = save_iterator(iterator, {"name": "a"})
  rest = [batch.numpy().tolist() for batch in iterator]
  for other in (iterator, _iterate()):
    restore_iterator(other, {"name": "a"}, state)
    assert [batch.numpy().tolist() for batch in other] == rest


def test_equal_places_are_equal_bytes(monkeypatch):
  first = save_iterator(_iterate(), {"name": "a"})
  # A file in a zip has the time of day, in steps of two seconds.
  monkeypatch.setattr(zipfile.time, "time", lambda: 1.7e9)
  monkeypatch.setattr(zipfile.time, "localtime", lambda _: (2023, 11, 14, 22, 13, 20))
  assert save_iterator(_iterate(), {"name": "a"}) == first


def test_names_what_differs(refuses):
  state = save_iterator(_iterate(), {"name": "a", "size": 3, "old": 1})
  with refuses(
    "A feed restores only the state of an equal feed, got new=None in the state but 2 "
    "here, old=1 in the state but None here, size=3 in the state but 4 here."
  ):
    restore_iterator(_iterate(), {"name": "a", "size": 4, "new": 2}, state)


def test_names_some_of_many_files_behind_all_else(refuses):
  old = {f"file {name}": "1 bytes" for name in "abcdefg"} | {"seed": 0}
  new = dict.fromkeys(old, "2 bytes") | {"seed": 0, "zone": 1}
  named = ", ".join(
    f"file {name}='1 bytes' in the state but '2 bytes' here" for name in "abcd"
  )
  state = save_iterator(_iterate(), old)
  with refuses(
    "A feed restores only the state of an equal feed, got zone=None in the state but 1 "
    f"here, {named}, and 3 more."
  ):
    restore_iterator(_iterate(), new, state)


def test_a_state_without_files(refuses):
  iterator = _iterate()
  state = save_iterator(iterator, {"name": "a"})
  note = restore_iterator(_iterate(), {"name": "a", "file x": "1 bytes"}, state)
  assert note.startswith("the checkpoint has no fingerprints of its text")
  with refuses(
    "A feed restores only the state of an equal feed, got name='a' in the state but 'b'"
    " here."
  ):
    restore_iterator(_iterate(), {"name": "b", "file x": "1 bytes"}, state)


def test_other_bytes(refuses):
  with refuses("The state of a feed must be what save returned, got 4 other bytes."):
    restore_iterator(_iterate(), {}, b"junk")


def test_a_full_temporary_folder_is_named():
  """A limit on the size of files stands in for a disk that has no place left."""
  iterator, before = _iterate(), resource.getrlimit(resource.RLIMIT_FSIZE)
  next(iterator)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
  try:
    with pytest.raises(ValueError, match=f"^cannot write {tempfile.gettempdir()}: "):
      save_iterator(iterator, {"name": "a"})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
