"""The figures of report.py."""

import pathlib
import statistics

import config as rows
from differences import MHMOE, SMOE, Found, changed, compare, half_interval, seeds_of
import matplotlib.pyplot as plt
import run


def draw_main(found: Found, path: pathlib.Path) -> None:
  """Every model's loss less the SMoE's after ten million tokens; and at D = 512."""
  panels = {f"D = {rows.WIDTH}, {run.LONG * 1_024 / 1e6:.0f} M tokens": {}}
  (long,) = panels.values()
  for row in run.MAIN[1:]:
    long[row] = seeds_of(row, run.LONG), seeds_of(SMOE, run.LONG)
  for rate in run.WIDE_RATES[:2]:
    title = f"D = {rows.WIDE}, {run.STEPS * 1_024 / 1e6:.0f} M tokens, rate {rate:g}"
    panels[title] = {
      row: tuple(seeds_of(name, run.STEPS, rate) for name in (row, run.WIDE[0]))
      for row in run.WIDE[1:]
    }
  panels = {
    title: {row: jobs for row, jobs in of_title.items() if compare(found, *jobs)}
    for title, of_title in panels.items()
  }
  panels = {title: of_title for title, of_title in panels.items() if of_title}
  if not panels:
    return
  figure, axes = plt.subplots(
    *(len(panels), 1),
    figsize=(6.4, 1 + sum(0.6 + 0.3 * len(of_title) for of_title in panels.values())),
    height_ratios=[1.5 + len(of_title) for of_title in panels.values()],
    sharex=True,
    squeeze=False,
    layout="constrained",
  )
  for ax, (title, of_title) in zip(axes[:, 0], panels.items(), strict=True):
    for place, (jobs, reference) in enumerate(of_title.values()):
      pairs = compare(found, jobs, reference)
      half = half_interval(found, jobs[0].steps, len(pairs))
      mean = statistics.fmean(pairs)
      ax.errorbar(mean, place, xerr=half, fmt="o", capsize=3, color="C0")
      ax.plot(pairs, [place] * len(pairs), "|", color="C1", markersize=9)
    ax.set_yticks(range(len(of_title)), list(of_title))
    ax.set_ylim(len(of_title) - 0.5, -0.5)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.grid(alpha=0.3, axis="x")
    ax.set_title(title, fontsize=9)
  axes[-1, 0].set_xlabel(
    "loss less the SMoE's, nats: mean, its interval, each seed (|)"
  )
  figure.savefig(path, dpi=130)
  plt.close(figure)


def draw_widths(found: Found, path: pathlib.Path) -> None:
  """Loss less the SMoE's against the width of a sub-token, a line for each D."""
  figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
  for colour, (width, heads) in enumerate(rows.WIDTHS.items()):
    points = []
    for number in heads:
      pairs = compare(
        found, seeds_of(f"mhmoe_{width}_{number}"), seeds_of(f"smoe_{width}")
      )
      if pairs:
        half = half_interval(found, run.STEPS, len(pairs))
        points.append((width / number, statistics.fmean(pairs), half))
    if points:
      x, y, error = zip(*points, strict=True)
      axes.errorbar(
        x, y, error, marker="o", capsize=3, color=f"C{colour}", label=f"D = {width}"
      )
    dense = compare(found, seeds_of(f"dense_{width}"), seeds_of(f"smoe_{width}"))
    if dense:
      axes.axhline(
        statistics.fmean(dense), color=f"C{colour}", linestyle=":", linewidth=1
      )
  axes.axhline(0, color="black", linewidth=0.8)
  axes.set(
    xlabel="width of a sub-token",
    ylabel="MH-MoE's loss less SMoE's, nats (dotted: dense)",
  )
  axes.grid(alpha=0.3)
  if axes.get_legend_handles_labels()[0]:
    axes.legend()
  figure.savefig(path, dpi=130)
  plt.close(figure)


def draw_factors(found: Found, path: pathlib.Path) -> None:
  """What each change does to MH-MoE and to the SMoE, with its interval."""
  changes = {}
  for row, reference in changed().items():
    pairs = compare(found, seeds_of(row), seeds_of(reference))
    if pairs:
      half = half_interval(found, run.STEPS, len(pairs))
      change = changes.setdefault(row.removeprefix("smoe,"), {})
      change[reference] = statistics.fmean(pairs), half
  if not changes:
    return
  height = 1.4 + 0.34 * len(changes)
  figure, axes = plt.subplots(figsize=(6.4, height), layout="constrained")
  for shift, (row, mark) in enumerate(zip((MHMOE, SMOE), "os", strict=True)):
    points = [
      (place + 0.2 * shift, *found_by[row])
      for place, found_by in enumerate(changes.values())
      if row in found_by
    ]
    if points:
      y, mean, half = zip(*points, strict=True)
      axes.errorbar(
        mean, y, xerr=half, fmt=mark, capsize=3, color=f"C{shift}", label=row
      )
  axes.set_yticks(range(len(changes)), list(changes))
  axes.axvline(0, color="black", linewidth=0.8)
  axes.set(xlabel="loss less that of the model without the change, nats")
  axes.grid(alpha=0.3, axis="x")
  axes.invert_yaxis()
  axes.legend()
  figure.savefig(path, dpi=130)
  plt.close(figure)
