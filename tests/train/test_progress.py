import io
import math

import pytest

from mhmoe_jax.train.progress import ProgressLine, progress_text


@pytest.mark.parametrize(
  ("step", "loss", "speed", "gone", "left", "text"),
  [
    (1, 11.0, math.nan, 59.4, math.nan, "loss 11.000  ppl 59.9k  59s gone"),
    (9, 2.0, 999.4, 59.6, 5.0, "loss 2.000  ppl 7.39  999 tok/s  1m00s gone  5s left"),
    (9, 2.0, 999.6, 3.0, 3600, "loss 2.000  ppl 7.39  1k tok/s  3s gone  1h00m left"),
    (
      9,
      0.0,
      1.234e6,
      0.0,
      90061,
      "loss 0.000  ppl 1  1.23M tok/s  0s gone  25h01m left",
    ),
    (1000, math.nan, 1.0, 5.0, 0.0, "loss nan  ppl nan  1 tok/s  5s gone  0s left"),
    (1000, 800.0, 1.0, 5.0, 0.0, "loss 800.000  ppl inf  1 tok/s  5s gone  0s left"),
  ],
)
def test_progress_text(step, loss, speed, gone, left, text):
  found = progress_text(step, 1000, loss, tokens_per_second=speed, gone=gone, left=left)
  assert found == f"step {step:4}/1000  {text}"


def test_uneven_load_is_told():
  how = {"tokens_per_second": math.nan, "gone": 1, "left": math.nan}
  assert "rounds" not in progress_text(1, 10, 0.0, rounds=2.0, **how)
  assert "  uneven load: 2.1 rounds  " in progress_text(1, 10, 0.0, rounds=2.1, **how)


class Clock:
  now = 1000.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_speed_leaves_out_compilation_and_pauses():
  clock, stream = Clock(), io.StringIO()
  progress = ProgressLine(100, 50, stream=stream, clock=clock)
  assert math.isnan(progress.tokens_per_second)
  clock.now += 60  # Step 1 compiles.
  for step in range(1, 11):
    progress.tick(step)
    clock.now += 2 if step < 10 else 0
  assert progress.show(10, 2.0) == 25.0
  with progress.paused():
    clock.now += 1000
  clock.now += 10
  assert progress.show(20, 2.0) == 50.0
  assert progress.tokens_per_second == pytest.approx(50 * 19 / 28)
  assert stream.getvalue().splitlines() == [
    "step  10/100  loss 2.000  ppl 7.39  25 tok/s  1m18s gone  3m00s left",
    "step  20/100  loss 2.000  ppl 7.39  50 tok/s  18m08s gone  1m58s left",
  ]


def test_pauses_add_up():
  clock = Clock()
  progress = ProgressLine(100, 50, stream=io.StringIO(), clock=clock)
  progress.tick(1)
  for _ in range(2):
    with progress.paused():
      clock.now += 10
  clock.now += 2
  assert progress.show(2, 1.0) == 25.0


def test_without_ticks_the_first_line_starts_the_clock():
  clock, stream = Clock(), io.StringIO()
  progress = ProgressLine(100, 50, stream=stream, clock=clock)
  clock.now += 60
  assert math.isnan(progress.show(40, 2.0))
  clock.now += 5
  assert progress.show(50, 2.0) == 100.0
  assert stream.getvalue().splitlines() == [
    "step  40/100  loss 2.000  ppl 7.39  1m00s gone",
    "step  50/100  loss 2.000  ppl 7.39  100 tok/s  1m05s gone  25s left",
  ]


def test_terminal_line_is_overwritten_and_notes_stay():
  stream = Terminal()
  progress = ProgressLine(3, 50, stream=stream, clock=Clock())
  progress.show(1, 10.0)
  progress.note("saved")
  progress.show(2, 10.0)
  progress.show(3, 9.0)
  line = "step 1/3  loss 10.000  ppl 22k  0s gone"
  assert stream.getvalue() == (
    f"\r{line}"
    f"\r{'saved':<{len(line)}}\n"
    f"\r{line.replace('1/3', '2/3')}"
    f"\r{'step 3/3  loss 9.000  ppl 8.1k  0s gone':<{len(line)}}\n"
  )


def test_other_processes_are_silent():
  stream = io.StringIO()
  progress = ProgressLine(3, 50, process_index=1, stream=stream)
  progress.show(1, 1.0)
  progress.note("saved")
  assert stream.getvalue() == ""


def test_nobody_reads_any_more():
  """The terminal was closed, or `head` has seen enough: the run goes on."""

  class Closed(io.StringIO):
    calls = 0

    def flush(self):
      self.calls += 1
      raise BrokenPipeError(32, "Broken pipe")

  stream = Closed()
  progress = ProgressLine(3, 50, stream=stream)
  for step in (1, 2, 3):
    progress.show(step, 1.0)
  assert stream.calls == 1
