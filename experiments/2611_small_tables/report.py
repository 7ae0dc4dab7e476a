"""Tables and figures of what run.py has finished: python report.py --results results

Reads runs.jsonl in the folder, writes tables.md and PNGs beside it. other_rates.jsonl,
if it is there, has the results of run.py with other values of --rate.
"""

import argparse
import math
import pathlib
import statistics

import config as rows
import run

from experiments import work_queue
from experiments.intervals import interval

TABLES = (
  ("English, 8 experts", "english", "xmoe_8", run.make_jobs("1", 1)),
  ("Heads (Table 5)", "english", "xmoe_8", run.make_jobs("5", 1)),
  ("Components (Table 6)", "english", "xmoe_8", run.make_jobs("6", 1)),
  ("Linear layers (Table 7)", "english", "mhmoe_8", run.make_jobs("7", 1)),
  ("Balance loss", "english", "mhmoe_8", run.make_jobs("balance", 1)),
  ("English, 32 experts", "english", "xmoe_32", run.make_jobs("1_32", 1)),
  ("Scaling (Fig. 6)", "english", "xmoe_16", run.make_jobs("scaling", 1)),
  ("15 languages", "multilingual", "xmoe_8", run.make_jobs("1_multilingual", 1)),
)


def judge(mean: float, half: float) -> str:
  """What a difference from the reference says."""
  if math.isnan(half):
    return "one seed"
  if abs(mean) <= half:
    return "not told apart"
  return "better" if mean < 0 else "worse"


def group(results: list[dict], language: str) -> dict[str, dict[int, dict]]:
  """Final results by row and seed, of the longest training that there is."""
  final = [r for r in results if r["rate"] is None and r["language"] == language]
  longest = max((r["steps"] for r in final), default=0)
  found = {}
  for r in final:
    if r["steps"] == longest:
      found.setdefault(r["row"], {})[r["seed"]] = r
  return found


def table(title: str, found: dict, reference: str, names: list[str]) -> list[str]:
  """Markdown lines; the rows that have a result."""
  names = [name for name in names if name in found]
  if not names:
    return []
  lines = [
    f"### {title}",
    "",
    f"| model | parameters | MACs a token | seeds | bits per byte | perplexity "
    f"| loss less {reference}'s, nats | verdict | active experts |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for name in names:
    runs = found[name]
    any_run = next(iter(runs.values()))
    bits = [r["bits_per_byte"] for r in runs.values()]
    spread = f" ± {statistics.stdev(bits):.4f}" if len(bits) > 1 else ""
    pairs = [
      r["valid_loss"] - found[reference][seed]["valid_loss"]
      for seed, r in runs.items()
      if seed in found.get(reference, {})
    ]
    difference, verdict = "", ""
    if name == reference:
      verdict = "reference"
    elif pairs:
      mean, half = interval(pairs)
      margin = "" if math.isnan(half) else f" ± {half:.4f}"
      difference, verdict = f"{mean:+.4f}{margin}", judge(mean, half)
    shares = [r["active_experts"] for r in runs.values() if r["active_experts"]]
    active = f"{statistics.fmean(shares):.0%}" if shares else ""
    perplexity = statistics.fmean(r["perplexity"] for r in runs.values())
    lines.append(
      f"| {name} | {any_run['parameters']:,} | {any_run['macs_per_token']:,.0f} "
      f"| {len(runs)} | {statistics.fmean(bits):.4f}{spread} | {perplexity:.1f} "
      f"| {difference} | {verdict} | {active} |"
    )
  return [*lines, ""]


def search_table(results: list[dict]) -> list[str]:
  """Loss of each kind at each learning rate."""
  lines = [
    "### Learning-rate search",
    "",
    f"| validation loss, nats | {' | '.join(map(str, run.RATES))} | taken |",
    f"|---{'|---' * len(run.RATES)}|---|",
  ]
  searched = [r for r in results if r["rate"] is not None]
  steps = max((r["steps"] for r in searched), default=0)
  for kind in rows.KINDS:
    loss = {
      r["rate"]: r["valid_loss"]
      for r in searched
      if rows.kind_of(r["row"]) == kind and r["steps"] == steps
    }
    if loss:
      cells = [f"{loss[x]:.4f}" if x in loss else "" for x in run.RATES]
      best = min(loss, key=loss.get) if len(loss) == len(run.RATES) else ""
      lines.append(f"| {kind} | {' | '.join(cells)} | {best} |")
  return [*lines, ""]


def rates_table(final: list[dict]) -> list[str]:
  """Loss of each model at each learning rate after a whole training."""
  loss = {}
  for r in final:
    at = loss.setdefault(r["row"], {}).setdefault(r["learning_rate"], {})
    at[r["seed"]] = r["valid_loss"]
  rates = sorted({rate for by_rate in loss.values() for rate in by_rate})
  if len(rates) < 2:
    return []
  lines = [
    "### Learning rates, whole trainings",
    "",
    f"| validation loss, nats (seeds) | {' | '.join(map(str, rates))} |",
    f"|---{'|---' * len(rates)}|",
  ]
  for row, by_rate in loss.items():
    if len(by_rate) > 1:
      seeds = [by_rate.get(rate, {}).values() for rate in rates]
      cells = [f"{statistics.fmean(x):.4f} ({len(x)})" if x else "" for x in seeds]
      lines.append(f"| {row} | {' | '.join(cells)} |")
  return [*lines, ""]


def draw_curves(found: dict, names: list[str], path: pathlib.Path) -> None:
  """Validation curves, mean and range over seeds; and where they end."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  names = [name for name in names if name in found]
  if not names:
    return
  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
  for i, name in enumerate(names):
    runs = list(found[name].values())
    steps = [step for step, _ in runs[0]["curve"]]
    losses = list(zip(*([x for _, x in r["curve"]] for r in runs), strict=True))
    color, label = f"C{i}", f"{name} ({len(runs)})"
    means = [statistics.fmean(x) for x in losses]
    left.plot(steps, means, color=color, label=label, marker=".")
    left.fill_between(
      steps, [min(x) for x in losses], [max(x) for x in losses], color=color, alpha=0.15
    )
    bits = [r["bits_per_byte"] for r in runs]
    spread = statistics.stdev(bits) if len(bits) > 1 else 0.0
    right.errorbar(
      statistics.fmean(bits), i, xerr=spread, color=color, fmt="o", capsize=4
    )
    right.plot(bits, [i] * len(bits), "|", color=color, markersize=10)
  left.set(xlabel="step of 1,024 tokens", ylabel="validation loss, nats per token")
  left.legend(title="model (seeds)")
  left.grid(alpha=0.3)
  right.set(xlabel="bits per byte at the end, mean and standard deviation")
  right.set_yticks(range(len(names)), names)
  right.invert_yaxis()
  right.grid(alpha=0.3, axis="x")
  figure.savefig(path, dpi=110)
  plt.close(figure)


def draw_scaling(found: dict, path: pathlib.Path) -> None:
  """Bits per byte against the number of experts, Fig. 6 of the first paper."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
  for kind in ("xmoe", "mhmoe", "mhmoe_flops"):
    points = [
      (count, found[f"{kind}_{count}"][0]["bits_per_byte"])
      for count in rows.COUNTS
      if 0 in found.get(f"{kind}_{count}", {})
    ]
    if points:
      axes.plot(*zip(*points, strict=True), marker="o", label=kind)
  axes.set(xlabel="experts", ylabel="bits per byte, seed 0", xscale="log")
  axes.set_xticks(rows.COUNTS, rows.COUNTS, minor=False)
  axes.minorticks_off()
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=110)
  plt.close(figure)


def write(folder: pathlib.Path) -> str:
  """Writes tables.md and the figures; returns the former."""
  results = work_queue.read_results(folder / "runs.jsonl")
  final = group(results, "english")
  longest = [r for seeds in final.values() for r in seeds.values()]
  others = work_queue.read_results(folder / "other_rates.jsonl")
  lines = search_table(results) + rates_table(longest + others)
  for title, language, reference, jobs in TABLES:
    found = group(results, language)
    names = list(dict.fromkeys([reference, *(j.row for j in jobs if not j.rate)]))
    lines_of = table(title, found, reference, names)
    if len(lines_of) > 6:  # not the reference alone
      lines += lines_of
      name = title.split(" (")[0].lower().replace(",", "").replace(" ", "_")
      if name == "scaling":
        draw_scaling(found, folder / f"{name}.png")
      else:
        draw_curves(found, names, folder / f"{name}.png")
  text = "\n".join(lines)
  (folder / "tables.md").write_text(text)
  return text


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, required=True)
  print(write(parser.parse_args().results))


if __name__ == "__main__":
  main()
