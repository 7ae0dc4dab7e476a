"""A list of training runs that several processes share, and that survives kills.

Start a study's `run.py` as often as there are cores: a file lock says who has which
run, a killed process loses its locks, and a run goes on at its checkpoint. What is
finished is a line of JSON, and is skipped.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
import contextlib
import fcntl
import json
import pathlib
import subprocess
import time
from typing import Any

HERE = pathlib.Path(__file__).parent


def read_results(path: pathlib.Path) -> list[dict]:
  """The results so far."""
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def add_result(path: pathlib.Path, result: dict) -> None:
  """Writes a line behind the results so far, one process at a time."""
  with claim(path.parent / "lock", wait=True), path.open("a") as file:
    file.write(json.dumps(result) + "\n")


@contextlib.contextmanager
def claim(path: pathlib.Path, wait: bool = False) -> Iterator[bool]:
  """Whether this process has the file for itself; a killed one loses it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      yield False
      return
    yield True


def commit() -> str:
  """The version of the code."""
  command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
  return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def work(
  jobs: Sequence[Hashable],
  out: pathlib.Path,
  name_of: Callable[[Any], str],
  job_of: Callable[[Mapping[str, Any]], Hashable],
  run: Callable[[Any, pathlib.Path], dict | None],
) -> None:
  """Does what no other process is doing until all is done, or a signal says stop.

  Args:
    jobs: the most wanted first.
    out: folder of the runs and, in `results/runs.jsonl`, of what came of them.
    name_of: a job as the name of a folder.
    job_of: the job that a result is of.
    run: trains a job in a folder and tells the result; None if a signal stopped it.
  """
  path, version = out / "results" / "runs.jsonl", commit()
  while True:
    done = set(map(job_of, read_results(path)))
    left = [job for job in jobs if job not in done]
    if not left:
      return
    for job in left:
      with claim(out / "locks" / name_of(job)) as mine:
        if not mine or job in set(map(job_of, read_results(path))):
          continue
        result = run(job, out / name_of(job))
        if result is None:
          return
        add_result(path, result | {"commit": version})
      break
    else:
      time.sleep(1)  # Others do the rest.
