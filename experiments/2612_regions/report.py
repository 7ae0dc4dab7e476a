"""Tables and figures of what study.py has measured."""

import pathlib

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

MEASURES = {
  "deviation": "deviation",
  "detrended": "deviation from a plane",
  "weakest": "weakest step",
  "known": "known",
}
WAYS = ("plain", "matched", "within")


def show(interval: list[float], digits: int = 2) -> str:
  """An estimate with its interval; bold where 0 is outside."""
  estimate, low, high = (f"{x:+.{digits}f}" for x in interval)
  text = f"{estimate} [{low}, {high}]"
  return f"**{text}**" if interval[1] > 0 or interval[2] < 0 else text


def table(head: list[str], lines: list[list[str]]) -> list[str]:
  """Markdown."""
  rows = [head, ["---"] * len(head), *lines]
  return ["| " + " | ".join(row) + " |" for row in rows] + [""]


def name_of(result: dict) -> str:
  """Of the model."""
  return f"{result['row']}, seed {result['seed']}"


def show_fresh(about: dict) -> list[str]:
  """What fresh routers do: the mean, the least and the most; how many it exceeds."""
  if "fresh" not in about:
    return ["", ""]
  draws = about["fresh"]
  mean = sum(draws) / len(draws)
  spread = f"{mean:+.2f} ({min(draws):+.2f} to {max(draws):+.2f})"
  return [spread, f"{about['above']} of {len(draws)}"]


def correlations(regions: list[dict], where: str) -> list[str]:
  """Rank correlation of texture and distinct experts at the last checkpoint."""
  lines = []
  for result in (r for r in regions if r["set"] == where):
    step = max(result["steps"], key=int)
    for measure, numbers in result["steps"][step]["correlation"].items():
      line = [name_of(result), MEASURES[measure]]
      line += [show(numbers[way]["trained"]) for way in WAYS]
      line += show_fresh(numbers["matched"])
      lines.append([*line, show(result["last less first"][measure]["matched"])])
  head = ["model", "texture", "plain", "matched", "within pictures"]
  head += ["matched, fresh routers", "exceeds", "last less first checkpoint"]
  return table(head, lines) if lines else []


def over_steps(regions: list[dict], where: str, measure: str) -> list[str]:
  """The matched correlation at every checkpoint, trained and fresh."""
  lines = []
  for result in (r for r in regions if r["set"] == where):
    for step, about in result["steps"].items():
      numbers = about["correlation"][measure]["matched"]
      line = [name_of(result), step, f"{about['distinct']['trained'][0]:.2f}"]
      line += [show(numbers["trained"]), *show_fresh(numbers)]
      gap = about["difference"].get("textured less flat, matched")
      line += [show(gap["trained"]), *show_fresh(gap)] if gap else [""] * 3
      lines.append(line)
  head = ["model", "step", "distinct experts", "correlation, matched", "fresh routers"]
  head += ["exceeds", "textured less flat, experts", "fresh routers", "exceeds"]
  return table(head, lines) if lines else []


def kinds(regions: list[dict]) -> list[str]:
  """Of generated pictures, whose textures are known: differences in experts."""
  lines = []
  names = ("textured less plain", "textured less ground", "plain less ground")
  for result in (r for r in regions if r["set"] == "shapes"):
    for step, about in result["steps"].items():
      line = [name_of(result), step]
      for name in names:
        made = about["difference"][name]
        line += [show(made["trained"]), show_fresh(made)[0]]
      lines.append(line)
  head = ["model", "step"]
  for name in names:
    head += [name, "fresh"]
  return table(head, lines) if lines else []


def sets_table(regions: list[dict]) -> list[str]:
  """Distinct experts of a patch in every set at the last checkpoint."""
  found: dict[str, dict] = {}
  for result in regions:
    step = max(result["steps"], key=int)
    about = result["steps"][step]["distinct"]["trained"]
    text = f"{about[0]:.2f} [{about[1]:.2f}, {about[2]:.2f}]"
    found.setdefault(name_of(result), {})[result["set"]] = text
  names = ["photographs", "shuffled photographs", "shapes", "noise"]
  lines = [[model, *(of.get(x, "") for x in names)] for model, of in found.items()]
  return table(["model", *names], lines) if lines else []


def modalities(results: list[dict]) -> list[str]:
  """Experts and heads by modality at the last checkpoint."""
  lines = []
  for result in results:
    about = result["steps"][max(result["steps"], key=int)]
    for modality in ("image", "text"):
      one = about[modality]
      lines.append(
        [
          name_of(result),
          modality,
          " ".join(f"{x:.2f}" for x in one["distinct"]),
          f"{one['effective_experts']:.0%}",
          f"{one['effective_of_a_head']:.0%}",
          f"{one['entropy']:.0%}",
        ]
      )
  head = ["model", "modality", "distinct experts by block", "effective experts"]
  head += ["of one head", "router's entropy, of its maximum"]
  return table(head, lines) if lines else []


def sharing(results: list[dict]) -> list[str]:
  """What a shared pool shares, by block."""
  lines = []
  for result in results:
    for step, about in result["steps"].items():
      if "sharing" not in about:
        continue
      made = about["sharing"]
      for n in range(len(made["overlap_N"])):
        heads = made["head_information_NH"][n]
        line = [name_of(result), step, f"{n + 1}", f"{made['overlap_N'][n]:.0%}"]
        line += [f"{made['both_N'][n]:.0%}", f"{made['information_N'][n]:.2f}"]
        lines.append([*line, " ".join(f"{x:.2f}" for x in heads)])
  head = ["model", "step", "MoE layer", "load in common", "experts of both"]
  head += ["bits an expert tells", "bits by head"]
  return table(head, lines) if lines else []


def draw_steps(regions: list[dict], path: pathlib.Path) -> None:
  """Matched correlation over training, trained and fresh, a panel a set and model."""
  drawn = [r for r in regions if r["set"] in ("photographs", "shapes")]
  models = list(dict.fromkeys(map(name_of, drawn)))
  if not drawn:
    return
  size = (max(5.0, 3.2 * len(models)), 6.6)
  figure, axes = pyplot.subplots(
    2, len(models), figsize=size, squeeze=False, sharey=True
  )
  for result in drawn:
    row = ("photographs", "shapes").index(result["set"])
    axis = axes[row, models.index(name_of(result))]
    steps = sorted(map(int, result["steps"]))
    for nth, measure in enumerate(result["steps"]["0"]["correlation"]):
      numbers = {s: result["steps"][f"{s}"]["correlation"][measure] for s in steps}
      trained = [numbers[s]["matched"]["trained"] for s in steps]
      middle, low, high = zip(*trained, strict=True)
      style = {"color": f"C{nth}", "markersize": 4}
      axis.plot(steps, middle, "-o", label=MEASURES[measure], **style)
      axis.fill_between(steps, low, high, color=f"C{nth}", alpha=0.15)
      for s in (s for s in steps if "fresh" in numbers[s]["matched"]):
        draws = numbers[s]["matched"]["fresh"]
        axis.plot([s] * len(draws), draws, "_", **style)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_title(f"{name_of(result)}: {result['set']}", fontsize="medium")
    axis.set_xlabel("step")
  axes[0, 0].set_ylabel("rank correlation, matched")
  axes[1, 0].set_ylabel("rank correlation, matched")
  figure.suptitle(
    "Texture and distinct experts of a patch\n(dashes: each a fresh router)"
  )
  named = [axis.get_legend_handles_labels() for axis in axes.ravel()]
  handles = {x: line for found in named for line, x in zip(*found, strict=True)}
  figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=2)
  figure.tight_layout(rect=(0, 0.07, 1, 1))
  figure.savefig(path, dpi=120)
  pyplot.close(figure)


def write(
  regions: list[dict], modality: list[dict], trained: list[dict], folder: pathlib.Path
) -> None:
  """Writes tables.md and regions.png."""
  lines = ["### Models", ""]
  parts = ("image", "text", "pair/image", "pair/text")
  lines += table(
    ["model", "steps", *(f"perplexity, {part}" for part in parts)],
    [
      [name_of(r), f"{r['steps']}"]
      + [f"{r['valid'][f'{part}/perplexity']:.1f}" for part in parts]
      for r in trained
    ],
  )
  for title, made in (
    ("Photographs, last checkpoint", correlations(regions, "photographs")),
    ("Generated pictures, last checkpoint", correlations(regions, "shapes")),
    (
      "Shuffled photographs, last checkpoint",
      correlations(regions, "shuffled photographs"),
    ),
    (
      "Photographs over training, deviation from a plane",
      over_steps(regions, "photographs", "detrended"),
    ),
    (
      "Generated pictures over training, known texture",
      over_steps(regions, "shapes", "known"),
    ),
    (
      "Generated pictures: patches of a kind, difference in distinct experts",
      kinds(regions),
    ),
    ("Distinct experts of a patch", sets_table(regions)),
    ("Experts and heads by modality", modalities(modality)),
    ("What a shared pool shares", sharing(modality)),
  ):
    lines += [f"### {title}", "", *made]
  (folder / "tables.md").write_text("\n".join(lines).rstrip() + "\n")
  draw_steps(regions, folder / "regions.png")
