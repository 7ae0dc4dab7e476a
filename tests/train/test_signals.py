"""One process that is asked to stop; several: `test_distributed.py`."""

import os
import signal
import subprocess
import sys

import pytest

from mhmoe_jax.train.signals import stop_signals

ASKS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _not_ignored():
  """As in a terminal: nohup has SIGHUP ignored, a background shell SIGINT."""
  handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
  before = {number: signal.signal(number, new) for number, new in handlers.items()}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKS)
def test_asked_once_it_stops_after_the_step(number, caplog):
  before = signal.getsignal(number)
  with stop_signals() as stop:
    assert not stop(1)
    os.kill(os.getpid(), number)
    assert stop(2)
    assert stop(3)
  assert signal.getsignal(number) == before
  assert caplog.messages == [f"{number.name}: saving a checkpoint, then stopping"]


@pytest.mark.parametrize("number", ASKS)
def test_asked_twice_it_ends_in_one_line(number):
  program = (
    "import os; from mhmoe_jax.train.signals import stop_signals\n"
    "with stop_signals() as stop:\n"
    f"  for _ in range(2): os.kill(os.getpid(), {int(number)})"
  )
  argv = [sys.executable, "-c", program]
  child = subprocess.run(argv, capture_output=True, text=True, timeout=120)
  assert child.returncode == -number
  assert child.stderr == f"{number.name}: saving a checkpoint, then stopping\n"


def test_under_nohup_a_closed_terminal_is_nothing():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with stop_signals() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop(1)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)
