"""Differences of two rows' losses, with intervals from the spread that rows share."""

from collections.abc import Mapping, Sequence
import statistics

import config as rows
import run

from experiments.intervals import Spread, common_spread

Found = Mapping[run.Job, Mapping]  # results by what identifies them
SMOE, MHMOE = run.BASE


def compare(
  found: Found, jobs: Sequence[run.Job], reference: Sequence[run.Job]
) -> list[float]:
  """Losses of jobs less those of the jobs beside them, where both have run."""
  return [
    found[job]["valid_loss"] - found[other]["valid_loss"]
    for job, other in zip(jobs, reference, strict=True)
    if job in found and other in found
  ]


def seeds_of(row: str, steps: int = run.STEPS, rate: float = run.RATE) -> list[run.Job]:
  """A row with every seed."""
  return [run.Job(row, seed, steps, rate) for seed in run.SEEDS]


def sub_token(row: str) -> float:
  """The width of a row's sub-tokens, that of its tokens without any."""
  layer = rows.ROWS[row].layer
  return rows.ROWS[row].width / (1 if layer is None else layer.num_heads)


def spread(found: Found, steps: int) -> Spread | None:
  """Of runs of so many steps; where too few rows have every seed, of `run.STEPS`."""
  kinds = dict.fromkeys((job.row, steps, job.rate) for job in found)
  whole = [jobs for kind in kinds if set(jobs := seeds_of(*kind)) <= found.keys()]
  losses = [[found[job]["valid_loss"] for job in jobs] for jobs in whole]
  own = common_spread(losses)
  return spread(found, run.STEPS) if own is None and steps != run.STEPS else own


def half_interval(found: Found, steps: int, pairs: int) -> float:
  """Half a 95 % interval of a mean of differences; 0 where nothing tells it."""
  of_rows = spread(found, steps)
  return 0.0 if of_rows is None else of_rows.half(pairs)


def told(found: Found, jobs: Sequence[run.Job], reference: Sequence[run.Job]) -> str:
  """The mean difference with its interval."""
  pairs = compare(found, jobs, reference)
  if not pairs:
    return ""
  half = half_interval(found, jobs[0].steps, len(pairs))
  return f"{statistics.fmean(pairs):+.3f}" + (f" ± {half:.3f}" if half else "")


def changed() -> dict[str, str]:
  """Rows in which a factor is changed, and the row without the change."""
  return {
    row: SMOE if row.startswith("smoe,") else MHMOE for row in rows.ROWS if "=" in row
  }
