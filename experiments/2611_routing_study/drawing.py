"""Figures of routing.jsonl: called by run.py."""

import pathlib

import matplotlib
import numpy as np
import tables

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from experiments import routing_measures as measures

COLOURS = {"trained": "C0", "initial": "C1", "fresh_router": "C2"}
OFFSETS = {"trained": -0.22, "initial": 0.0, "fresh_router": 0.22}
CURVES = (
  *("smoe_8", "xmoe_8", "mhmoe_8", "heads_8"),
  *("smoe_32", "xmoe_32", "mhmoe_32"),
)


def draw_activation(results: list[dict], language: str, path: pathlib.Path) -> None:
  """Share of active experts over thresholds, in both measures (Figs. 1a and 5)."""
  found = tables.group(results, language)
  rows = [row for row in CURVES if row in found]
  if not rows:
    return
  figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
  for row in rows:
    runs = found[row]
    label = _label(row, runs)
    for axis, measure in zip(axes, (1, 0), strict=True):
      top = max(tables.uses(r)[measure].max() for r in runs)
      at_X = np.linspace(0, 1.02 * top, 400)
      line = axis.plot(at_X, tables.shares(runs, at_X, measure), label=label)[0]
      for r in runs if len(runs) > 1 else ():
        curve = tables.shares([r], at_X, measure)
        axis.plot(at_X, curve, color=line.get_color(), alpha=0.25, linewidth=0.8)
  axes[0].axhline(tables.PAPER, color="grey", linestyle=":")
  axes[0].set(xlabel="threshold, choices per token (the papers' measure)")
  axes[0].set(ylabel="share of active experts", ylim=(0, 1.02))
  axes[1].set(xlabel="threshold, in even shares of the choices")
  axes[0].legend(fontsize="small")
  figure.suptitle(f"Active experts on XNLI, {language}; dotted: the paper's 8.33 %")
  _save(figure, path)


def draw_heads(results: list[dict], path: pathlib.Path) -> None:
  """Activation and distinct experts by the number of heads."""
  figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
  for variant in ("trained", "initial"):
    found = tables.group(results, "english", variant)
    runs = [found[row] for row in tables.BY_HEADS if row in found]
    if len(runs) < 2:
      continue
    at_X = [r[0]["heads"] for r in runs]

    def means(number, runs=runs):
      return [np.mean([number(r) for r in seeds]) for seeds in runs]

    colour, title = COLOURS[variant], tables.TITLES[variant]
    shares = [tables.shares(seeds, [0.5], 1)[0] for seeds in runs]
    axes[0].plot(at_X, shares, ".-", color=colour, label=title)
    effective = means(lambda r: measures.effective_experts(np.array(r["load"])))
    axes[1].plot(at_X, effective, ".-", color=colour, label=title)
    distinct = means(lambda r: r["distinct"]["mean"])
    axes[2].plot(at_X, distinct, ".-", color=colour, label=title)
    if variant == "trained":
      dealt = means(lambda r: r["distinct"]["dealt"])
      uniform = means(lambda r: r["distinct"]["uniform"])
      axes[2].plot(at_X, dealt, "--", color="grey", label="trained, dealt at random")
      axes[2].plot(at_X, uniform, ":", color="black", label="even, at random")
  axes[0].set(title="above 0.5 choices per token", ylabel="share of active experts")
  axes[1].set(title="effective share of experts", ylim=(0, 1.02))
  axes[2].set(title="distinct experts of a token")
  for axis in axes:
    axis.set(xlabel="heads")
  axes[2].legend(fontsize="small")
  _save(figure, path)


def draw_words(results: list[dict], path: pathlib.Path) -> None:
  """How much more diverse polysemous words are, at equal frequency and size."""
  panels = {
    "XNLI, matched words": lambda r: r["polysemy"]["xnli"]["matched"],
    "XNLI, per doubling of senses": lambda r: r["polysemy"]["xnli"]["per_doubling"],
    "novel, matched words": lambda r: r["polysemy"]["novel"]["matched"],
  }
  _forest(results, "english", panels, "polysemy", "distinct experts more", path)


def draw_friends(results: list[dict], path: pathlib.Path) -> None:
  """How much more diverse false friends are than cognates."""
  panels = {
    "all occurrences": lambda r: [
      r["friends"][x] for x in ("difference", "low", "high")
    ],
    "matched words": lambda r: r["friends"]["matched"],
  }
  _forest(results, "multilingual", panels, "friends", "distinct experts more", path)


def draw_senses(results: list[dict], path: pathlib.Path) -> None:
  """How far the senses of a word part, beyond chance."""
  panels = {
    "excess divergence": lambda r: r["senses"]["excess"],
    "words that beat chance (FDR 5 %), share": lambda r: (
      [r["senses"]["beat_chance"] / r["senses"]["words"]] * 3
    ),
  }
  _forest(results, "english", panels, "senses", "bits; share of the words", path)


def draw_languages(results: list[dict], path: pathlib.Path) -> None:
  """Load of the experts of MH-MoE by language, trained and not."""
  panels = [
    (variant, r[0])
    for variant in ("trained", "initial")
    for row, r in tables.group(results, "multilingual", variant).items()
    if row == "mhmoe_8"
  ]
  if not panels:
    return
  figure, axes = plt.subplots(
    1, 2 * len(panels), figsize=(6.4 * len(panels), 4.5), layout="constrained"
  )
  places = iter(np.atleast_1d(axes))
  for variant, r in panels:
    load_YNE, labels = np.array(r["languages"]["load"]), r["languages"]["labels"]
    for n in range(load_YNE.shape[1]):
      axis = next(places)
      share_YE = load_YNE[:, n] * r["experts"]
      image = axis.imshow(share_YE, vmin=0, vmax=3, aspect="auto")
      bits = r["languages"]["information"][n]
      axis.set_title(f"{tables.TITLES[variant]}, MoE layer {n}: {bits:.3f} bits")
      axis.title.set_size("small")
      axis.set_yticks(range(len(labels)), labels)
      axis.set_xlabel("expert")
  figure.colorbar(image, ax=axes, label="load, in even shares")
  _save(figure, path)


def _forest(results, language, panels, key, xlabel, path) -> None:
  found = {v: tables.group(results, language, v) for v in tables.TITLES}
  rows = [row for row, runs in found["trained"].items() if key in runs[0]]
  if not rows:
    return
  size = (4.6 * len(panels) + 1.5, 1.3 + 0.55 * len(rows))
  figure, axes = plt.subplots(
    1, len(panels), figsize=size, sharey=True, layout="constrained"
  )
  for axis, (title, number) in zip(axes, panels.items(), strict=True):
    axis.axvline(0, color="grey", linewidth=0.8)
    for variant, models in found.items():
      label = tables.TITLES[variant]
      for i, row in enumerate(rows):
        for s, r in enumerate(models.get(row, ())):
          middle, low, high = number(r)[:3]
          axis.errorbar(
            middle,
            i + OFFSETS[variant] + 0.06 * s,
            xerr=[[middle - low], [high - middle]],
            fmt="o",
            markersize=3,
            color=COLOURS[variant],
            label=label,
          )
          label = None
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel(xlabel)
  names = [_label(row, found["trained"][row]) for row in rows]
  axes[0].set_yticks(range(len(rows)), names)
  axes[0].invert_yaxis()
  handles = axes[-1].get_legend_handles_labels()
  figure.legend(*handles, loc="outside right center", fontsize="small")
  _save(figure, path)


def _label(row: str, runs: list[dict]) -> str:
  return f"{tables.NAMES.get(row, row)}, h = {runs[0]['heads']}"


def _save(figure, path: pathlib.Path) -> None:
  figure.savefig(path, dpi=110)
  plt.close(figure)


def draw_all(results: list[dict], directory: pathlib.Path) -> None:
  """Every figure that the results allow."""
  for language in ("english", "multilingual"):
    draw_activation(results, language, directory / f"activation_{language}.png")
  draw_heads(results, directory / "heads.png")
  draw_words(results, directory / "polysemy.png")
  draw_friends(results, directory / "false_friends.png")
  draw_senses(results, directory / "senses.png")
  draw_languages(results, directory / "languages.png")
