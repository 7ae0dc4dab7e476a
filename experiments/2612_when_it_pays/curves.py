"""Loss against tokens and seconds: curves.py --results results [--cost cost.jsonl]

Of whole trainings only, each with its own schedule to rate 0, as points of one training
on the way have not come down yet. Two fits say what ten times as many tokens would
bring, each with a 95 % interval: of the paired difference, a line over the logarithm
of the tokens; of the losses, E + A tokens^-a with an E and an a for both models.
Writes curves.md and curves.png beside the results; seconds need what cost.py found.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib

import differences
import matplotlib.pyplot as plt
import numpy as np
import run
from scipy import optimize, stats

from experiments import work_queue

TOKENS = 1_024  # of a step
STEPS = (600, run.STEPS, 6_000, run.LONG)
AHEAD = 10 * run.LONG * TOKENS
SMOE, MHMOE = run.BASE


def pairs(found: differences.Found) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and MH-MoE's loss less the SMoE's, of every pair of runs."""
  made = [
    (steps * TOKENS, difference)
    for steps in STEPS
    for difference in differences.compare(
      found, differences.seeds_of(MHMOE, steps), differences.seeds_of(SMOE, steps)
    )
  ]
  tokens, difference = np.array(made, float).reshape(-1, 2).T
  return tokens, difference


def extend(
  tokens: Sequence[float], difference: Sequence[float], ahead: float
) -> tuple[float, float, float]:
  """Slope over ten times the tokens, the line at `ahead`, half a 95 % interval of that.

  Least squares; the interval is of the line, not of another run.
  """
  x, y = np.log10(np.asarray(tokens) / ahead), np.asarray(difference)
  design = np.stack([np.ones_like(x), x], axis=1)
  (at, slope), *_ = np.linalg.lstsq(design, y, rcond=None)
  free = len(y) - 2
  variance = np.sum((y - design @ (at, slope)) ** 2) / free
  covariance = variance * np.linalg.inv(design.T @ design)
  return slope, at, stats.t.ppf(0.975, free) * covariance[0, 0] ** 0.5


def power_law(
  losses: Mapping[str, Sequence[tuple[float, float]]], ahead: float
) -> tuple[np.ndarray, float, float]:
  """E, a, and a factor A for each model; the difference at `ahead`, half its interval.

  Args:
    losses: of two models, (tokens, loss) of their runs; the second less the first.
    ahead: tokens.
  """
  at = [(i, t) for i, points in enumerate(losses.values()) for t, _ in points]
  model, tokens = np.array(at).T
  loss = np.array([y for points in losses.values() for _, y in points])
  unit = tokens.min()

  def curve(x, least, power, first, second):
    which, t = x
    return least + np.where(which == 0, first, second) * (t / unit) ** -power

  guess = loss.min() / 2, 0.2, loss.max() / 2, loss.max() / 2
  fit, covariance = optimize.curve_fit(curve, (model, tokens), loss, p0=guess)
  _, power, first, second = fit
  scale = (ahead / unit) ** -power
  # By each parameter, for the difference's error.
  slope = np.array([0, -np.log(ahead / unit) * (second - first) * scale, -scale, scale])
  half = stats.t.ppf(0.975, len(loss) - 4) * (slope @ covariance @ slope) ** 0.5
  return fit, (second - first) * scale, half


def describe(found: differences.Found) -> str:
  """Markdown: the differences by tokens, and both fits."""
  tokens, difference = pairs(found)
  lines = ["| tokens | pairs | MH-MoE less SMoE, nats |", "|---|---|---|"]
  for steps in STEPS:
    mhmoe, smoe = (differences.seeds_of(row, steps) for row in (MHMOE, SMOE))
    told = differences.told(found, mhmoe, smoe)
    if told:
      number = len(differences.compare(found, mhmoe, smoe))
      lines.append(f"| {steps * TOKENS / 1e6:.1f} M | {number} | {told} |")
  lines.append("")
  if len(np.unique(tokens)) > 2:
    slope, at, half = extend(tokens, difference, AHEAD)
    lines.append(
      f"A line over the logarithm of the tokens: {slope:+.3f} nats for ten times as "
      f"many, {at:+.3f} ± {half:.3f} at {AHEAD / 1e6:.0f} M."
    )
    losses = {
      row: [
        (job.steps * TOKENS, found[job]["valid_loss"])
        for steps in STEPS
        for job in differences.seeds_of(row, steps)
        if job in found
      ]
      for row in run.BASE
    }
    (least, power, *_), at, half = power_law(losses, AHEAD)
    lines.append(
      f"A power law, {least:.2f} + A tokens^-{power:.2f}, with an A for each model: "
      f"{at:+.3f} ± {half:.3f} at {AHEAD / 1e6:.0f} M."
    )
  return "\n".join(lines) + "\n"


def draw(
  found: differences.Found, seconds: Mapping[str, float], path: pathlib.Path
) -> None:
  """Losses less the SMoE's over tokens; the longest runs' over hours of a core."""
  columns = 2 if seconds else 1
  size = 6.4 * columns, 4.4
  figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained")
  left, *right = np.atleast_1d(axes)
  for colour, row in enumerate(run.MAIN):
    points = []
    for steps in STEPS:
      less = differences.compare(
        found, differences.seeds_of(row, steps), differences.seeds_of(SMOE, steps)
      )
      if less and row != SMOE:
        half = differences.half_interval(found, steps, len(less))
        # Side by side, as many have the same number of tokens.
        points.append((steps * TOKENS * 1.03 ** (colour - 5), np.mean(less), half))
    if points:
      x, y, error = zip(*points, strict=True)
      left.errorbar(x, y, error, fmt="o-", capsize=2, color=f"C{colour}", label=row)
    long = [found[job] for job in differences.seeds_of(row, run.LONG) if job in found]
    if long and row in seconds:
      loss = np.mean([r["valid_loss"] for r in long])
      hours = seconds[row] * run.LONG / 3600
      right[0].plot(hours, loss, "o", color=f"C{colour}")
      right[0].annotate(row, (hours, loss), fontsize=7)
  left.axhline(0, color="black", linewidth=0.8)
  left.set(xscale="log", xlabel="tokens", ylabel="loss less the SMoE's, nats")
  for axes in right:
    axes.set(xlabel=f"hours of one core for {run.LONG:,} steps", ylabel="loss, nats")
  for axes in (left, *right):
    axes.grid(alpha=0.3)
  shown = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
  figure.legend(shown.values(), shown, fontsize=7, loc="outside right upper")
  figure.savefig(path, dpi=120)
  plt.close(figure)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, required=True)
  parser.add_argument("--cost", type=pathlib.Path)
  args = parser.parse_args()
  results = work_queue.read_results(args.results / "runs.jsonl")
  found = {run.job_of(result): result for result in results}
  cost = work_queue.read_results(args.cost) if args.cost else []
  text = describe(found)
  (args.results / "curves.md").write_text(text)
  print(text)
  seconds = {result["row"]: min(result["cpu"]) for result in cost}
  draw(found, seconds, args.results / "curves.png")


if __name__ == "__main__":
  main()
