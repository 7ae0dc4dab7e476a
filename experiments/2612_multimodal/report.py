"""Tables and figures of what run.py has finished: report.py --results results

Reads runs.jsonl and references.json in the folder; writes tables.md and PNGs there.
"""

import argparse
import json
import math
import pathlib
import statistics

import run

from experiments import work_queue
from experiments.intervals import interval

PARTS = ("image", "text", "pair/image", "pair/text")
TABLES = (
  ("8 experts (Table 1)", "xmoe_8", run.MAIN),
  ("Where experts stand", "mhmoe_8", ("mhmoe_8", *run.PLACES)),
  ("32 experts", "xmoe_32", run.LARGE),
)


def judge(mean: float, half: float) -> str:
  """What a difference from the reference says."""
  if math.isnan(half):
    return "one seed"
  if abs(mean) <= half:
    return "not told apart"
  return "better" if mean < 0 else "worse"


def group(results: list[dict]) -> dict[str, dict[int, dict]]:
  """Results by row and seed, of the longest training that there is."""
  longest = max((r["steps"] for r in results), default=0)
  found = {}
  for r in results:
    if r["steps"] == longest:
      found.setdefault(r["row"], {})[r["seed"]] = r
  return found


def difference(found: dict, name: str, reference: str, key: str) -> str:
  """A row's loss less the reference's with equal seeds, and what that says."""
  pairs = [
    r["valid"][key] - found[reference][seed]["valid"][key]
    for seed, r in found[name].items()
    if seed in found.get(reference, {})
  ]
  if name == reference or not pairs:
    return ""
  mean, half = interval(pairs)
  margin = "" if math.isnan(half) else f" ± {half:.4f}"
  return f"{mean:+.4f}{margin}, {judge(mean, half)}"


def table(title: str, found: dict, reference: str, names) -> list[str]:
  """Markdown lines; the rows that have a result, if there are two to compare."""
  names = [name for name in names if name in found]
  if len(names) < 2:
    return []
  lines = [f"### {title}", "", "Perplexity, means over seeds:", ""]
  lines += ["| model | parameters | MACs a token | seeds | pooled "]
  lines[-1] += "".join(f"| {part} " for part in PARTS) + "| s a step | experts |"
  lines += ["|---" * (7 + len(PARTS)) + "|"]
  for name in names:
    runs = list(found[name].values())
    cells = [
      math.exp(statistics.fmean(r["valid"][key] for r in runs))
      for key in ("loss", *(f"{part}/loss" for part in PARTS))
    ]
    seconds = statistics.median(r["seconds_per_step"] for r in runs)
    used = {
      modality: statistics.fmean(r["active_experts"][modality] for r in runs)
      for modality in runs[0]["active_experts"]
    }
    experts = ", ".join(f"{m} {share:.0%}" for m, share in used.items())
    lines.append(
      f"| {name} | {runs[0]['parameters']:,} | {runs[0]['macs_per_token']:,.0f} "
      f"| {len(runs)} | {' | '.join(f'{x:.2f}' for x in cells)} | {seconds:.2f} "
      f"| {experts} |"
    )
  lines += ["", f"Loss less {reference}'s, nats, paired by seed, 95 % t-interval:", ""]
  lines += ["| model | pooled " + "".join(f"| {part} " for part in PARTS) + "|"]
  lines += ["|---" * (2 + len(PARTS)) + "|"]
  keys = ("loss", *(f"{part}/loss" for part in PARTS))
  for name in names:
    if name != reference:
      cells = [difference(found, name, reference, key) for key in keys]
      lines.append(f"| {name} | {' | '.join(cells)} |")
  return [*lines, ""]


def describe_references(found: dict) -> list[str]:
  """What guessing costs, as perplexities."""
  lines = ["### References", "", "| codes of | by frequency | by the code to the left "]
  lines[-1] += "| equal to the one to the left |"
  lines += ["|---|---|---|---|"]
  for name in ("image", "pair/image"):
    about = found[name]
    lines.append(
      f"| {name} | {math.exp(about['unigram']):.1f} "
      f"| {math.exp(about['left neighbour']):.1f} | {about['same as left']:.1%} |"
    )
  return [*lines, ""]


def draw_curves(found: dict, path: pathlib.Path) -> None:
  """Validation loss over steps and over seconds, a line for each run."""
  import matplotlib

  matplotlib.use("agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
  for nth, name in enumerate(name for name in run.MAIN if name in found):
    for i, r in enumerate(found[name].values()):
      steps, losses = zip(*r["curve"], strict=True)
      style = {"color": f"C{nth}", "label": "" if i else name, "marker": "."}
      axes[0].plot(steps, losses, **style)
      axes[1].plot([s * r["seconds_per_step"] for s in steps], losses, **style)
  axes[0].set(xlabel="step", ylabel="validation loss, nats per masked place")
  axes[1].set(xlabel="seconds of training on one core")
  axes[0].legend(frameon=False)
  for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
  figure.tight_layout()
  figure.savefig(path, dpi=150)
  pyplot.close(figure)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, required=True)
  args = parser.parse_args()
  found = group(work_queue.read_results(args.results / "runs.jsonl"))
  lines = []
  for title, reference, names in TABLES:
    lines += table(title, found, reference, names)
  references = args.results / "references.json"
  if references.exists():
    lines += describe_references(json.loads(references.read_text()))
  (args.results / "tables.md").write_text("\n".join(lines))
  draw_curves(found, args.results / "curves.png")
  print("\n".join(lines))


if __name__ == "__main__":
  main()
