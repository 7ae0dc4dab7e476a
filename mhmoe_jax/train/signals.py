"""Being asked to stop: SIGTERM (a preemption) and Ctrl-C become a flag."""

from collections.abc import Iterator
import contextlib
import logging
import signal
import threading

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
  """An event that SIGTERM or SIGINT sets; a second signal ends the program."""
  stop = threading.Event()

  def ask(number, _):
    stop.set()
    signal.signal(number, before[number])
    _log.warning("%s: saving a checkpoint, then stopping", signal.Signals(number).name)

  before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
