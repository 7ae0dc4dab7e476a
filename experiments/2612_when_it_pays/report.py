"""Tables and figures of what run.py has finished: report.py --results results

Reads runs.jsonl in the folder, of one kind of machine; writes tables.md, main.png,
width.png and factors.png beside it. The tables and figures of what has not run are left
out.
A loss is a mean of the seeds that a row has, in nats of the validation text, a
difference one of the seeds that both rows have. Their 95 % intervals come from the
spread that the rows with every seed share, whatever their D and learning rate.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import statistics

import config as rows
import matplotlib.pyplot as plt
import run

from experiments import work_queue
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


def line(found: Found, jobs: Sequence[run.Job], *references: Sequence[run.Job]):
  """Cells of a table's row: seeds, mean loss, differences; None if nothing has run."""
  done = [found[job] for job in jobs if job in found]
  if not done:
    return None
  loss = statistics.fmean(r["valid_loss"] for r in done)
  active = [r["active_experts"] for r in done if r["active_experts"] is not None]
  cells = [str(len(done)), f"{loss:.3f}"]
  cells += ["" if other == jobs else told(found, jobs, other) for other in references]
  cells.append(f"{done[0]['parameters'] / 1e6:.2f} M")
  cells.append(f"{statistics.fmean(active):.0%}" if active else "")
  return cells


def table(title: str, head: Sequence[str], lines: Sequence[tuple]) -> list[str]:
  """Markdown of the lines, (name, cells), that have cells, if anything compares."""
  lines = [(name, cells) for name, cells in lines if cells is not None]
  if not any(any(cells[2 : 2 + len(head)]) for _, cells in lines):
    return []
  head = ["", "seeds", "loss, nats", *head, "parameters", "experts in use"]
  text = [f"### {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
  text += [f"| {' | '.join([name, *cells])} |" for name, cells in lines]
  return [*text, ""]


def widths(found: Found) -> list[str]:
  """Every model of every width beside the SMoE of that width."""
  lines = []
  for row in dict.fromkeys(job.row for job in run.TABLES["width"]):
    smoe = seeds_of(f"smoe_{rows.ROWS[row].width}")
    cells = line(found, seeds_of(row), smoe)
    name = f"{row}, sub-tokens of {sub_token(row):g}" if "mhmoe" in row else row
    lines.append((name, cells))
  return table("Width of a sub-token", ["less the SMoE of its D"], lines)


def parts(found: Found) -> list[str]:
  """The pieces of the layer, beside the SMoE and the whole MH-MoE."""
  names = dict.fromkeys(job.row for job in run.TABLES["parts"])
  lines = [
    (row, line(found, seeds_of(row), seeds_of(SMOE), seeds_of(MHMOE))) for row in names
  ]
  return table("Pieces", [f"less {SMOE}", f"less {MHMOE}"], lines)


def factors(found: Found) -> list[str]:
  """What is changed, beside the same model without the change."""
  lines = [
    (row, line(found, seeds_of(row), seeds_of(reference)))
    for row, reference in changed().items()
  ]
  return table("Factors", ["less the model without the change"], lines)


def changed() -> dict[str, str]:
  """Rows in which a factor is changed, and the row without the change."""
  return {
    row: SMOE if row.startswith("smoe,") else MHMOE for row in rows.ROWS if "=" in row
  }


def rates(found: Found) -> list[str]:
  """The models at every learning rate, beside themselves at the usual one; one seed."""
  lines = []
  for row in run.MAIN:
    for rate in run.RATES:
      jobs, usual = seeds_of(row, run.STEPS, rate)[:1], seeds_of(row)[:1]
      name = f"{row}, {rate:g}"
      lines.append((name, line(found, jobs, usual)))
  return table("Learning rate", [f"less itself at {run.RATE:g}"], lines)


def tokens(found: Found) -> list[str]:
  """MH-MoE beside the SMoE after other numbers of tokens."""
  lines = []
  for steps in (600, run.STEPS, 6_000, run.LONG):
    for row in run.BASE:
      name = f"{row}, {steps * 1_024 / 1e6:.1f} M tokens"
      cells = line(found, seeds_of(row, steps), seeds_of(SMOE, steps))
      lines.append((name, cells))
  return table("Number of tokens", [f"less {SMOE}"], lines)


def main_table(found: Found) -> list[str]:
  """Models and pieces after ten million tokens."""
  smoe, mhmoe = (seeds_of(row, run.LONG) for row in run.BASE)
  lines = [(row, line(found, seeds_of(row, run.LONG), smoe, mhmoe)) for row in run.MAIN]
  return table("Ten million tokens", [f"less {SMOE}", f"less {MHMOE}"], lines)


def wide(found: Found) -> list[str]:
  """Models of D = 512 at every learning rate."""
  lines = []
  for rate in run.WIDE_RATES:
    smoe = seeds_of(run.WIDE[0], run.STEPS, rate)
    for row in run.WIDE:
      cells = line(found, seeds_of(row, run.STEPS, rate), smoe)
      lines.append((f"{row}, {rate:g}", cells))
  return table(f"D = {rows.WIDE}", ["less the SMoE at that rate"], lines)


def languages(found: Found) -> list[str]:
  """Models of 15 languages; the loss is a mean over them."""
  jobs = {row: seeds_of(f"languages,{row}") for row in rows.IN_LANGUAGES}
  lines = [(row, line(found, of_row, jobs[SMOE])) for row, of_row in jobs.items()]
  return table("15 languages", [f"less {SMOE}"], lines)


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


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, required=True)
  args = parser.parse_args()
  results = work_queue.read_results(args.results / "runs.jsonl")
  found = {run.job_of(result): result for result in results}
  parts_of_report = (main_table, wide, widths, parts, factors, rates, tokens, languages)
  lines = [text for part in parts_of_report for text in part(found)]
  text = "\n".join(lines)
  (args.results / "tables.md").write_text(text)
  print(text)
  draw_main(found, args.results / "main.png")
  draw_widths(found, args.results / "width.png")
  draw_factors(found, args.results / "factors.png")


if __name__ == "__main__":
  main()
