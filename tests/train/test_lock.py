"""Two starts of one run: the second is told who has it, and a kill bars nobody.

A bucket is played by a folder that tensorstore knows by its `file://` address.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorstore

from mhmoe_jax.train import lock

HOLDER = """
import signal, sys, time
from mhmoe_jax.train import lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell may have ignored it.
lock.BEAT, lock.EXPIRY = 0.1, 5.0
where = sys.argv[1]
with lock._leased(where) if "://" in where else lock.hold(where):
  print("held", flush=True)
  # Many naps: the one that a signal meets may be another thread's.
  for _ in range(600):
    time.sleep(0.1)
"""


@pytest.fixture
def start():
  """Starts a process that holds a folder, and returns it once it does."""
  children = []

  def start(where):
    argv = [sys.executable, "-c", HOLDER, str(where)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    children.append(child)
    assert child.stdout.readline() == "held\n"
    return child

  yield start
  for child in children:
    child.kill()
    child.wait()
    child.stdout.close()


def end(child, number):
  child.send_signal(number)
  child.wait()


# In a file system.


def test_the_second_start_is_told_who_has_it(tmp_path, start):
  run = tmp_path / "run"
  child = start(run)
  before = (run / "lock").read_bytes()
  with pytest.raises(ValueError, match=f"process {child.pid}, since 20") as error:
    lock.hold(run).__enter__()
  assert str(error.value).startswith(
    f"one process at a time may train a run, {run} is held by host "
  )
  assert [path.name for path in run.iterdir()] == ["lock"]
  assert (run / "lock").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_lock_ends_with_its_process(tmp_path, start, number):
  end(start(tmp_path), number)
  assert (tmp_path / "lock").exists() == (number != signal.SIGINT)
  with lock.hold(tmp_path):
    holder = json.loads((tmp_path / "lock").read_text())
    assert holder["pid"] == os.getpid()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "left", ["", "{", "[1]", '{"host": "a"}', '{"pid": 1, "host": 2}']
)
def test_what_a_power_loss_left_bars_nobody(tmp_path, left):
  (tmp_path / "lock").write_text(left)
  with lock.hold(tmp_path):
    (tmp_path / "lock").write_text(left)
    with pytest.raises(ValueError, match=r"is held by another process\."):
      lock.hold(tmp_path).__enter__()
  with lock.hold(tmp_path):
    pass


def test_a_lock_removed_between_opening_and_locking_is_no_lock(tmp_path, monkeypatch):
  flock = lock.fcntl.flock
  opened = []

  def late(file, how):
    if not opened:  # Its holder ends now, and a third start begins.
      (tmp_path / "lock").unlink()
      (tmp_path / "lock").write_text("of the third")
    opened.append(os.fstat(file.fileno()).st_ino)
    flock(file, how)

  monkeypatch.setattr(lock.fcntl, "flock", late)
  with lock.hold(tmp_path):
    assert len(opened) == 2
    assert opened[-1] == (tmp_path / "lock").stat().st_ino


@pytest.mark.parametrize("name", ["a*", "b?", "[c]/d"])
def test_names_that_are_patterns_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match=r"folder must have none of \*\?\[, got /"):
    lock.hold(tmp_path / name).__enter__()
  assert not list(tmp_path.iterdir())


def test_a_pattern_above_a_relative_folder_is_refused(tmp_path, monkeypatch):
  (tmp_path / "a*").mkdir()
  monkeypatch.chdir(tmp_path / "a*")
  with pytest.raises(ValueError, match=r"must have none of \*\?\[, got /.*/a\*/run"):
    lock.hold("run").__enter__()


@pytest.mark.parametrize("me", [0, 1])
def test_one_process_holds_the_folder_for_all_or_for_none(tmp_path, monkeypatch, me):
  fine = [True, True]
  gather = lambda mine: np.array(fine)  # noqa: E731
  monkeypatch.setattr(lock.jax, "process_index", lambda: me)
  monkeypatch.setattr(lock.processes.multihost_utils, "process_allgather", gather)
  with lock.hold(tmp_path / "run"):
    assert (tmp_path / "run" / "lock").exists() == (me == 0)
  fine[1 - me] = False
  with pytest.raises(ValueError, match=rf"got an error on \[{1 - me}\]"):
    lock.hold(tmp_path / "run").__enter__()
  assert not (tmp_path / "run" / "lock").exists()


def test_a_lock_that_somebody_removed_is_no_error(tmp_path):
  with lock.hold(tmp_path):
    (tmp_path / "lock").unlink()


def test_what_else_a_file_system_refuses_is_told(tmp_path, monkeypatch):
  def refuse(file, how):
    raise OSError(lock.errno.EIO, "Input/output error")

  monkeypatch.setattr(lock.fcntl, "flock", refuse)
  with pytest.raises(OSError, match="Input/output error"):
    lock.hold(tmp_path).__enter__()


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch, caplog):
  def refuse(file, how):
    raise OSError(lock.errno.ENOLCK, "No locks available")

  monkeypatch.setattr(lock.fcntl, "flock", refuse)
  with lock.hold(tmp_path):
    pass
  assert "cannot be locked" in caplog.text


# In a bucket.


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, "BEAT", 0.1)
  monkeypatch.setattr(lock, "EXPIRY", 1.0)
  return f"file://{tmp_path}/run/"


def test_a_bucket_is_refused_once_its_holder_beats(bucket, start):
  child = start(bucket)
  with pytest.raises(ValueError, match=f"is held by .* process {child.pid}, since 20"):
    lock._leased(bucket).__enter__()


def test_a_bucket_is_free_some_time_after_a_kill(bucket, tmp_path, start):
  end(start(bucket), signal.SIGKILL)
  began = time.monotonic()
  with lock._leased(bucket):
    assert time.monotonic() - began >= 1.0
    assert f'"pid": {os.getpid()}' in (tmp_path / "run" / "lock").read_text()
  assert not list((tmp_path / "run").iterdir())


def test_a_holder_that_ends_while_another_waits(bucket, start, monkeypatch):
  child = start(bucket)
  monkeypatch.setattr(lock, "EXPIRY", 600.0)
  sleep = time.sleep
  # Stopped, it does not beat; when it goes on, its last act is to remove the object.
  child.send_signal(signal.SIGSTOP)

  def interrupt(seconds):
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGCONT)
    child.wait()
    sleep(seconds)

  monkeypatch.setattr(lock.time, "sleep", interrupt)
  began = time.monotonic()
  with lock._leased(bucket):
    assert time.monotonic() - began < 600


def test_who_was_taken_for_dead_ends(bucket, start):
  child = start(bucket)
  child.send_signal(signal.SIGSTOP)
  with lock._leased(bucket):
    child.send_signal(signal.SIGCONT)
    assert child.wait(30) == 1


def test_a_renewal_whose_answer_was_lost(bucket):
  store = tensorstore.KvStore.open(bucket).result()
  first = lock._take(store, bucket, "me")
  second = store.write("lock", "me", if_equal=first).result().generation
  assert lock._renew(store, "me", first) == second
  store.write("lock", "other").result()
  assert lock._renew(store, "me", second) == b""


def test_a_network_that_comes_back(bucket, monkeypatch):
  """tensorstore's errors are ValueErrors; the hold goes on after one."""
  renew, calls = lock._renew, []

  def fail_once(*args):
    calls.append(args)
    if len(calls) == 1:
      raise ValueError("UNAVAILABLE: no route to host")
    return renew(*args)

  monkeypatch.setattr(lock, "_renew", fail_once)
  with lock._leased(bucket):
    end = time.monotonic() + 30
    while len(calls) < 3 and time.monotonic() < end:
      time.sleep(0.05)
  assert len(calls) >= 3


def test_two_starts_at_one_moment(bucket, monkeypatch):
  """The other writes after this one has looked."""
  store = tensorstore.KvStore.open(bucket).result()
  read = store.read

  class Late:
    write = store.write

    def read(self, key):
      found = read(key)
      if found.result().state == "missing":
        store.write(key, '{"host": "a", "pid": 3, "since": "noon"}').result()
      return found

  with pytest.raises(ValueError, match=r"is held by host a, process 3, since noon\."):
    lock._take(Late(), bucket, "me")
