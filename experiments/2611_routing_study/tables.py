"""Tables of routing.jsonl: called by run.py. The figures are in drawing.py."""

import pathlib
import statistics

import numpy as np

from experiments import routing_measures as measures
from mhmoe_jax.analysis.statistics.activation import active_curve

NAMES = {
  "smoe_8": "SMoE",
  "xmoe_8": "X-MoE",
  "fine_8": "fine-grained",
  "mhmoe_8": "MH-MoE",
  "mhmoe_flops_8": "MH-MoE, same work",
}
FREQUENCIES = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
LOADS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BY_HEADS = ("xmoe_8", "heads_2", "mhmoe_8", "heads_6", "heads_8", "heads_12")
PAPER = 0.0833  # 2404.15045's share of active experts of an SMoE; MH-MoE: 0.9071
TITLES = {"trained": "trained", "initial": "untrained", "fresh_router": "fresh router"}


def group(results: list[dict], language: str, variant: str = "trained") -> dict:
  """Results by row, in the order they were measured, sorted by seed."""
  found: dict[str, list[dict]] = {}
  for r in sorted(results, key=lambda r: r["seed"]):
    if r["language"] == language and r["variant"] == variant:
      found.setdefault(r["row"], []).append(r)
  known = [row for row in (*NAMES, *BY_HEADS) if row in found]
  rest = sorted(found.keys() - set(known))
  return {row: found[row] for row in dict.fromkeys([*known, *rest])}


def uses(r: dict) -> tuple[np.ndarray, np.ndarray]:
  """Load in even shares and choices per token, (N, E)."""
  load_NE = np.array(r["load"])
  return load_NE, load_NE * r["heads"] * r["top_k"] / r["experts"]


def shares(runs: list[dict], thresholds, measure: int) -> np.ndarray:
  """Share of active experts at thresholds, mean over seeds; measure 0 is the load."""
  curves = [active_curve(uses(r)[measure], np.array(thresholds)) for r in runs]
  return np.mean(curves, axis=0)


def spread(values: list[float], digits: int = 2) -> str:
  """Mean and standard deviation over seeds."""
  text = f"{statistics.fmean(values):.{digits}f}"
  return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def intervals(triples: list, digits: int = 3) -> str:
  """One interval per seed."""
  return "; ".join(
    f"{a:+.{digits}f} [{b:+.{digits}f}, {c:+.{digits}f}]" for a, b, c, *_ in triples
  )


def table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
  """A table in Markdown; nothing without rows."""
  if not rows:
    return []
  lines = [f"### {title}", "", "| " + " | ".join(head) + " |"]
  lines.append("|" + "---|" * len(head))
  return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def name(row: str) -> str:
  """Of a row, for people."""
  return f"{NAMES[row]} (`{row}`)" if row in NAMES else f"`{row}`"


def activation_tables(results: list[dict], language: str) -> list[str]:
  """Share of active experts on XNLI, in both measures."""
  made = []
  for variant in ("trained", "initial"):
    found = group(results, language, variant)
    for measure, thresholds, unit in (
      (1, FREQUENCIES, "choices per token, the paper's measure"),
      (0, LOADS, "even shares of the choices"),
    ):
      rows = [
        [
          name(row),
          str(runs[0]["heads"]),
          str(runs[0]["experts"]),
          str(len(runs)),
          *(f"{x:.0%}" for x in shares(runs, thresholds, measure)),
          spread([measures.effective_experts(np.array(r["load"])) for r in runs]),
        ]
        for row, runs in found.items()
      ]
      made += table(
        f"Active experts on XNLI, {language}, {TITLES[variant]}: above so many {unit}",
        ["model", "h", "experts", "seeds", *map(str, thresholds), "effective"],
        rows,
      )
  return made


def paper_threshold(results: list[dict], language: str) -> list[str]:
  """What the thresholds that give an SMoE 8.33 % give the others."""
  found = group(results, language)
  grid_X = np.linspace(0, 4, 4001)
  rows = []
  for reference in ("smoe_8", "xmoe_8", "smoe_32", "xmoe_32"):
    if reference not in found:
      continue
    at = []
    for measure in (1, 0):
      share_X = shares(found[reference], grid_X, measure)
      at.append(grid_X[np.flatnonzero(share_X <= PAPER)[0]])
    for row, runs in found.items():
      if runs[0]["heads"] == 1 or not row.endswith(reference.rpartition("_")[2]):
        continue
      by_frequency = shares(runs, at[:1], 1)[0]
      arithmetic = shares(found[reference], [at[0] / runs[0]["heads"]], 1)[0]
      by_load = shares(runs, at[1:], 0)[0]
      rows.append(
        [
          name(reference),
          name(row),
          f"{at[0]:.3f}",
          f"{by_frequency:.0%}",
          f"{arithmetic:.0%}",
          f"{at[1]:.2f}",
          f"{by_load:.0%}",
        ]
      )
  return table(
    f"Where {PAPER:.2%} of the reference's experts are active, {language}",
    [
      "reference",
      "model",
      "threshold, choices per token",
      "active of the model",
      "of the reference, if it made as many choices",
      "threshold, even shares",
      "active of the model",
    ],
    rows,
  )


def distinct_table(results: list[dict], language: str) -> list[str]:
  """Distinct experts of a token against chance, and what heads do."""
  rows = []
  for variant in ("trained", "initial", "fresh_router"):
    for row, runs in group(results, language, variant).items():
      d, h = [r["distinct"] for r in runs], [r["head"] for r in runs]
      p = [r["predictability"] for r in runs]
      many = runs[0]["heads"] > 1
      rows.append(
        [
          name(row),
          TITLES[variant],
          str(runs[0]["heads"]),
          str(len(runs)),
          spread([x["mean"] for x in d]),
          spread([x["dealt"] for x in d]),
          f"{d[0]['uniform']:.2f}",
          str(d[0]["most"]),
          spread([x["information"] for x in h]) if many else "",
          f"{h[0]['most_information']:.2f}" if many else "",
          spread([x["agreement"] for x in h]) if many else "",
          spread([x["agreement_by_chance"] for x in h]) if many else "",
          spread([x["by_text"] for x in p]),
          spread([x["blind"] for x in p]),
        ]
      )
  head = [
    *("model", "", "h", "seeds", "distinct experts", "dealt", "uniform", "most"),
    *("head-expert bits", "at most", "agreement", "by chance"),
    *("first expert by text", "blind"),
  ]
  return table(f"Distinct experts of a token, and heads, XNLI, {language}", head, rows)


def word_table(results: list[dict], language: str, key: str, part=None) -> list[str]:
  """How much more diverse a group of words is."""
  rows = []
  for variant in ("trained", "initial", "fresh_router"):
    for row, runs in group(results, language, variant).items():
      if key not in runs[0]:
        continue
      e = [r[key][part] if part else r[key] for r in runs]
      rows.append(
        [
          name(row),
          TITLES[variant],
          str(runs[0]["heads"]),
          f"{e[0]['words'][0]:,} / {e[0]['words'][1]:,}",
          f"{e[0]['occurrences']:,}",
          intervals([(x["difference"], x["low"], x["high"]) for x in e]),
          spread([x["standardised"] for x in e]),
          intervals(
            [(x["adjusted"], x["adjusted_low"], x["adjusted_high"]) for x in e]
          ),
          intervals([x["matched"] for x in e]),
          intervals([x["per_doubling"] for x in e]) if "per_doubling" in e[0] else "",
        ]
      )
  return table(
    {"polysemy": "Polysemous words against others", "friends": "False friends"}[key]
    + f", {part or 'Spanish text'}: difference in distinct experts, an interval a seed",
    [
      *("model", "", "h", "words in / out", "occurrences", "difference", "d"),
      *("at equal frequency, pieces, bytes", "matched words", "per doubling of senses"),
    ],
    rows,
  )


def sense_table(results: list[dict]) -> list[str]:
  """Whether senses of a word part."""
  rows = []
  for variant in ("trained", "initial", "fresh_router"):
    for row, runs in group(results, "english", variant).items():
      s = [r["senses"] for r in runs]
      rows.append(
        [
          name(row),
          TITLES[variant],
          str(runs[0]["heads"]),
          f"{s[0]['words']} / {s[0]['occurrences']:,}",
          ", ".join(str(x["beat_chance"]) for x in s),
          ", ".join(str(x["nominal"]) for x in s),
          spread([x["divergence"] for x in s], 3),
          spread([x["chance"] for x in s], 3),
          intervals([x["excess"] for x in s], 4),
          ", ".join(s[0]["most"][:6]),
        ]
      )
  return table(
    "Senses of homographs of the same pieces",
    [
      *("model", "", "h", "words / occurrences", "beat chance, FDR 5 %, by seed"),
      *("p < 0.05", "divergence, bits", "shuffled", "excess, by seed", "most, seed 0"),
    ],
    rows,
  )


def language_table(results: list[dict]) -> list[str]:
  """How much an expert tells about the language."""
  rows = [
    [
      name(row),
      TITLES[variant],
      str(runs[0]["heads"]),
      str(runs[0]["experts"]),
      " / ".join(f"{x:.3f}" for x in runs[0]["languages"]["information"]),
      f"{runs[0]['languages']['of_head']:.3f}",
    ]
    for variant in ("trained", "initial", "fresh_router")
    for row, runs in group(results, "multilingual", variant).items()
  ]
  head = [
    "model",
    "",
    "h",
    "experts",
    "bits of a choice, by layer",
    "of a head's choice",
  ]
  title = (
    f"What an expert tells about the language, XNLI, at most {np.log2(15):.2f} bits"
  )
  return table(title, head, rows)


def write(results: list[dict], directory: pathlib.Path) -> None:
  """tables.md and the figures, of what there is."""
  lines = ["# Where the sub-tokens go: all tables", "", "Written by run.py.", ""]
  for language in ("english", "multilingual"):
    lines += paper_threshold(results, language)
    lines += activation_tables(results, language)
    lines += distinct_table(results, language)
  lines += word_table(results, "english", "polysemy", "xnli")
  lines += word_table(results, "english", "polysemy", "novel")
  lines += word_table(results, "multilingual", "friends")
  lines += sense_table(results)
  lines += language_table(results)
  lines.append("### Runs\n")
  for r in results:
    if r["variant"] == "trained":
      tokens = ", ".join(f"{n:,} tokens {part}" for part, n in r["tokens"].items())
      lines.append(f"* {r['run']}: validation loss {r['valid_loss']:.4f}; {tokens}")
  (directory / "tables.md").write_text("\n".join(lines) + "\n")
