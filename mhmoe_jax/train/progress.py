"""One line for a human while a run trains, and lines that stay."""

from collections.abc import Callable, Iterator
import contextlib
import math
import sys
import time
from typing import TextIO


class ProgressLine:
  """One line for a human: how far, how good, how fast, how long still.

      step  150/1000  loss 2.313  ppl 10.1  15.2k tok/s  2m10s gone  12m17s left

  On a terminal a line overwrites the one before; in a log file they follow each other.

  Args:
    total_steps: of the whole run, resumed or not.
    tokens_per_step: of all processes together.
    process_index: only process 0 prints.
    stream: where to; standard error by default.
    clock: returns seconds, since any moment.
  """

  def __init__(
    self,
    total_steps: int,
    tokens_per_step: int,
    *,
    process_index: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total_steps = total_steps
    self._tokens_per_step = tokens_per_step
    self._silent = process_index != 0  # or nobody is there to read
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._began = clock()
    self._paused_for = 0.0
    self._first = self._last = None  # (step, seconds of training), of tick and show
    self._width = 0  # of the line on the terminal that the next one overwrites

  def tick(self, step: int) -> None:
    """Says that a step is over.  The first one, which compiles, starts the clock."""
    if self._first is None:
      self._first = self._last = (step, self._training_time())

  def show(
    self, step: int, loss: float, rounds: float = 1.0, accuracy: float = math.nan
  ) -> float:
    """Prints the line.

    Args:
      step: that is over.
      loss: of it.
      rounds: in which choices were sent to their experts, mean over layers.
      accuracy: shown in place of a perplexity, where the task has one.

    Returns:
      Tokens per second since the line before, or since the first `tick`; NaN if no
      step was timed yet.
    """
    self.tick(step)
    now = (step, self._training_time())
    speed, self._last = self._speed(self._last, now), now
    steps_left = self._total_steps - step
    text = progress_text(
      step,
      self._total_steps,
      loss,
      accuracy=accuracy,
      rounds=rounds,
      tokens_per_second=speed,
      gone=self._clock() - self._began,
      left=steps_left * self._tokens_per_step / self.tokens_per_second,
    )
    self._print(text, overwritable=steps_left > 0)
    return speed

  def note(self, text: str) -> None:
    """Prints a line that stays."""
    self._print(text, overwritable=False)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time spent inside, as in an evaluation, does not count as training."""
    start = self._clock()
    try:
      yield
    finally:
      self._paused_for += self._clock() - start

  @property
  def tokens_per_second(self) -> float:
    """From the first tick to the last line; NaN before there is one."""
    return math.nan if self._first is None else self._speed(self._first, self._last)

  def _training_time(self) -> float:
    return self._clock() - self._paused_for

  def _speed(self, start: tuple[int, float], end: tuple[int, float]) -> float:
    steps, seconds = end[0] - start[0], end[1] - start[1]
    return steps * self._tokens_per_step / seconds if steps and seconds else math.nan

  def _print(self, text: str, overwritable: bool) -> None:
    if self._silent:
      return
    try:
      if self._stream.isatty():
        end = "" if overwritable else "\n"
        self._stream.write(f"\r{text:<{self._width}}{end}")
        self._width = len(text) if overwritable else 0
      else:
        self._stream.write(text + "\n")
      self._stream.flush()
    except OSError:  # The terminal was closed, or `head` has seen enough.
      self._silent = True


def progress_text(
  step: int,
  total_steps: int,
  loss: float,
  *,
  accuracy: float = math.nan,
  rounds: float = 1.0,
  tokens_per_second: float,
  gone: float,
  left: float,
) -> str:
  """The line that `ProgressLine` prints; times in seconds, NaN for not yet known."""
  perplexity = math.inf if loss > 700 else math.exp(loss)  # exp overflows from 710 on.
  is_right = f"right {accuracy:.1%}"
  parts = [
    f"step {step:>{len(str(total_steps))}}/{total_steps}",
    f"loss {loss:.3f}",
    f"ppl {_short(perplexity)}" if math.isnan(accuracy) else is_right,
  ]
  if rounds > 2:
    parts.append(f"uneven load: {rounds:.1f} rounds")
  if math.isfinite(tokens_per_second):
    parts.append(f"{_short(tokens_per_second)} tok/s")
  parts.append(f"{format_duration(gone)} gone")
  if math.isfinite(left):
    parts.append(f"{format_duration(left)} left")
  return "  ".join(parts)


def _short(number: float) -> str:
  for unit in ("", "k", "M", "G"):
    if not 999.5 <= number < math.inf:
      return f"{number:.3g}{unit}"
    number /= 1000
  return f"{number:.3g}T"


def format_duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}h{minutes:02}m"
  return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
