"""Being asked to stop, by SIGTERM, Ctrl-C or a closed terminal; doing so together.

Of several processes often only one is asked. jax's coordination service, which catches
SIGTERM by itself from `jax.distributed.initialize` on, tells the others, looks how far
each is, and names a step that none has trained yet: there all save, and stop.
"""

from collections.abc import Callable, Iterator
import contextlib
import logging
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
  """Yields whether to stop after a step, to be asked once after each step in turn.

  Every process gets the same answer. A second Ctrl-C ends the program; so does a second
  SIGTERM if there is one process only. A signal that is ignored, as SIGHUP is under
  nohup, stays ignored.
  """
  if jax.process_count() == 1:
    stop = threading.Event()
    ask, answer = stop.set, lambda step: stop.is_set()
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  else:
    # To the service, which listens to SIGTERM alone.
    ask, answer = (lambda: os.kill(os.getpid(), signal.SIGTERM)), _agree_to_stop
    signals = (signal.SIGINT, signal.SIGHUP)
  with contextlib.ExitStack() as handlers:
    for number in signals:
      if signal.getsignal(number) != signal.SIG_IGN:
        handlers.enter_context(_on(number, ask))
    yield answer


def _agree_to_stop(step: int) -> bool:
  stop = multihost_utils.reached_preemption_sync_point(step)
  if stop and jax.process_index() == 0:
    _log.warning("a process was asked to stop: all stop after step %d", step)
  return stop


@contextlib.contextmanager
def _on(number: signal.Signals, ask: Callable[[], object]) -> Iterator[None]:
  def handle(*_):
    signal.signal(number, signal.SIG_DFL)  # A second one ends it at once, and quietly.
    _log.warning("%s: saving a checkpoint, then stopping", number.name)
    ask()

  before = signal.signal(number, handle)
  try:
    yield
  finally:
    signal.signal(number, before)
