"""Tables and figures of what run.py has finished: report.py --results results

Reads runs.jsonl in the folder, of one kind of machine; writes tables.md, main.png,
width.png and factors.png beside it. The tables and figures of what has not run are left
out.
A loss is a mean of the seeds that a row has, in nats of the validation text, a
difference one of the seeds that both rows have. Their 95 % intervals come from the
spread that the rows with every seed share, whatever their D and learning rate.
"""

import argparse
from collections.abc import Sequence
import pathlib
import statistics

import config as rows
from differences import MHMOE, SMOE, Found, changed, seeds_of, sub_token, told
import figures
import run

from experiments import work_queue


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
  figures.draw_main(found, args.results / "main.png")
  figures.draw_widths(found, args.results / "width.png")
  figures.draw_factors(found, args.results / "factors.png")


if __name__ == "__main__":
  main()
