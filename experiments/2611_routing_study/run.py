"""Traces trained models and measures where their sub-tokens go.

run.py --runs runs/small_tables --data DATA --out runs/routing_study

RUNS is what `experiments/2611_small_tables/run.py` made. Start it again after a kill
or when more models are finished; what is measured is skipped. OUT/results gets
routing.jsonl, tables.md and the figures; OUT/traces the traces, which may be deleted.

Every model is read three times: as trained, as it was initialised, and trained with the
router it was initialised with. What is there without training is no finding.
"""

import argparse
from collections.abc import Mapping
import fnmatch
import functools
import json
import pathlib
import time
from typing import NamedTuple

import drawing
import jax
from ml_collections import ConfigDict
import numpy as np
import tables
import texts

from experiments import routing_measures as measures
from mhmoe_jax.analysis.statistics import activation, diversity, heads, words
from mhmoe_jax.analysis.traces import tracing
from mhmoe_jax.analysis.traces.trace import Trace, load_trace
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.tasks.language import init_params

VARIANTS = ("trained", "initial", "fresh_router")
SAMPLES = 500  # of a bootstrap
PERMUTATIONS = 1_000
HALVES = np.arange(1, 17, 0.5)  # bins of distinct experts
# The most wanted first; others follow as they were trained.
ORDER = (
  *("mhmoe_8", "xmoe_8", "smoe_8", "fine_8", "mhmoe_flops_8"),
  *("heads_8", "heads_2", "heads_6", "heads_12"),
)


class Model(NamedTuple):
  """A finished run; what identifies its results, with the variant."""

  row: str
  language: str
  seed: int
  steps: int


class Texts(NamedTuple):
  """What models of one language read, and what is known about its words."""

  documents: list
  contexts: list
  frequency: Mapping[str, int]
  senses: Mapping[str, int]
  friends: Mapping[str, str]  # Spanish words: false friends and cognates


def find_models(
  runs: pathlib.Path, steps: int, pattern: str = "*"
) -> dict[Model, tuple[str, float]]:
  """Directory and validation loss of every finished model that has a router.

  Of a search the best learning rate stands for the model. `pattern` is of directories.
  """
  path = runs / "results" / "runs.jsonl"
  results = [json.loads(line) for line in path.read_text().splitlines()]
  found: dict[Model, tuple[str, float]] = {}
  for r in sorted(results, key=lambda r: -r["valid_loss"]):
    if r["steps"] != steps or r["row"].startswith("dense"):
      continue
    model = Model(r["row"], r["language"], r["seed"], steps)
    name = f"{model.row}-{model.language}-{steps}-{model.seed}"
    name += f"-{r['rate']}" if r["rate"] else ""
    if fnmatch.fnmatch(name, pattern) and (runs / name / "checkpoints").exists():
      found[model] = name, r["valid_loss"]
  return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _rank(model: Model):
  place = ORDER.index(model.row) if model.row in ORDER else len(ORDER)
  return model.language != "english", model.seed, place, model.row


@functools.cache
def read_texts(data: pathlib.Path, language: str) -> Texts:
  """The texts and lists for models of a language."""
  senses = words.load_sense_counts(str(data / "words" / "oewn_polysemy.tsv.xz"))
  if language == "english":
    frequency = texts.count_words(data / "english" / "train.txt")
    return Texts(*texts.english(data), frequency, senses, {})
  false, cognates = words.load_false_friends(
    str(data / "words" / "false_friends_es_pt.tsv")
  )
  friends = {es.lower(): "cognate" for es, _ in cognates}
  friends |= {es.lower(): "false_friend" for es, _ in false}
  frequency = texts.count_words(data / "multilingual" / "es.train.txt")
  return Texts(texts.multilingual(data), [], frequency, senses, friends)


def make_trace(
  directory: pathlib.Path, runs: pathlib.Path, name: str, variant: str, documents
) -> Trace:
  """Traces a model unless it is traced; reads the trace."""
  if not directory.exists():
    workdir = str(runs / name)
    config = saved.load_config(workdir)
    vocabulary = runs / pathlib.Path(config["data"]["vocabulary"]).name
    config["data"]["vocabulary"] = str(vocabulary)
    cfg, params = restore.load_model(workdir, ConfigDict(config))
    if variant != "trained":
      # As `train.state.make_state` does it.
      key = jax.random.split(jax.random.key(cfg.train.seed))[0]
      initial = jax.jit(init_params, static_argnums=0)(cfg.model, key)
      params = initial if variant == "initial" else with_routers(params, initial)
    step = saved.newest_step(workdir)
    meta = tracing.describe_model(cfg, config, name, step, ())
    tracing.write_trace(str(directory), meta, cfg, params, documents)
  return load_trace(directory)


def with_routers(params, other):
  """`params` with the routers of `other`."""

  def choose(path, mine, its):
    return its if any(getattr(p, "key", "") == "router" for p in path) else mine

  return jax.tree_util.tree_map_with_path(choose, params, other)


def measure_words(
  trace: Trace, groups: Mapping[str, str], group: str, t: Texts
) -> dict:
  """Whether the words of a group are more diverse than the others, in three ways."""
  occurrences = diversity.find_words(trace.documents, groups)
  measured = diversity.measure_words(trace, occurrences)
  frequency_W = np.array([1 + t.frequency[one.word] for one in occurrences])
  measured = measured._replace(count_W=frequency_W)
  effect = diversity.compare_groups(measured, occurrences, group, samples=SAMPLES)
  by_word = measures.mean_by_word(measured, occurrences)
  names = by_word["names"]
  inside_U = np.array([groups[name] == group for name in names])
  log_U = np.log2([1 + t.frequency[name] for name in names])
  y_U, tokens_U, bytes_U = (by_word[x + "_U"] for x in ("diversity", "tokens", "bytes"))
  # Words alike in tokens, in bytes to the pair, and in frequency to the doubling.
  strata_U = (tokens_U.round() * 100 + bytes_U // 2) * 100 + log_U.astype(int)
  result = effect._asdict() | {
    "occurrences": len(occurrences),
    "words": [int(inside_U.sum()), int((~inside_U).sum())],
    "matched": measures.matched(y_U, inside_U, strata_U, SAMPLES),
    "histograms": [
      np.histogram(y_U[inside_U == side], HALVES)[0].tolist() for side in (True, False)
    ],
  }
  if group == "polysemous":
    others_UX = np.column_stack([log_U, tokens_U, bytes_U])
    doubling_U = np.log2([t.senses[name] for name in names])
    result["per_doubling"] = measures.slope(y_U, doubling_U, others_UX, SAMPLES)
  return result


def measure_senses(trace: Trace, contexts) -> dict:
  """Whether the senses of homographs of the same pieces part."""
  occurrences = diversity.find_contexts(trace.documents, contexts)
  occurrences = measures.same_pieces(trace, occurrences)
  occurrences = measures.common_senses(occurrences)
  measured = diversity.measure_words(trace, occurrences)
  senses = diversity.compare_senses(measured, occurrences, permutations=PERMUTATIONS)
  return {"occurrences": len(occurrences)} | measures.sense_numbers(senses, SAMPLES)


def measure(trace: Trace, language: str, t: Texts) -> dict:
  """All numbers about one trace."""
  meta = trace.meta
  result = {"heads": meta.num_heads, "experts": meta.num_experts, "top_k": meta.top_k}
  english = language == "english"
  xnli = texts.take(trace, ("xnli",) if english else texts.LANGUAGES)
  result |= {
    "tokens": {"xnli": len(xnli.loss_T), "all": len(trace.loss_T)},
    "dropped": float(trace.dropped_TNHK.mean()),
    "load": activation.measure(xnli).load_NE.round(4).tolist(),
    "distinct": measures.diversity_numbers(xnli),
    "head": measures.head_numbers(xnli),
    "predictability": measures.predictability(xnli),
  }
  if english:
    novel = texts.take(trace, ("novel",))
    groups = {
      word: "polysemous" if n >= measures.POLYSEMOUS_SENSES else "other"
      for word, n in t.senses.items()
    }
    result["tokens"]["novel"] = len(novel.loss_T)
    result["novel_load"] = activation.measure(novel).load_NE.round(4).tolist()
    if meta.num_heads > 1:  # With one head every token has K experts.
      result["polysemy"] = {
        "xnli": measure_words(xnli, groups, "polysemous", t),
        "novel": measure_words(novel, groups, "polysemous", t),
      }
    result["senses"] = measure_senses(texts.take(trace, ("homographs",)), t.contexts)
    return result
  labels = heads.label_load(xnli)
  result["languages"] = {
    "information": labels.information_N.round(4).tolist(),
    "of_head": measures.label_information(xnli),
    "labels": labels.labels,
  }
  if meta.num_experts <= 16:
    result["languages"]["load"] = labels.load_YNE.round(4).tolist()
  if meta.num_heads > 1:
    spanish = texts.take(trace, ("es", "es_valid"))
    result["friends"] = measure_words(spanish, t.friends, "false_friend", t)
    result["tokens"]["spanish"] = len(spanish.loss_T)
  return result


def find_left(models: Mapping[Model, tuple], results: list[dict]) -> list:
  """Models and variants to be measured, the most wanted first."""
  done = {(Model(*(r[x] for x in Model._fields)), r["variant"]) for r in results}
  return [
    (model, variant)
    for variant in VARIANTS
    for model in models
    # One seed of what only explains the others.
    if (variant != "fresh_router" or model.seed == 0) and (model, variant) not in done
  ]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--runs", type=pathlib.Path, required=True)
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=600, help="of the models' training")
  parser.add_argument("--models", default="*", help="pattern of their directories")
  args = parser.parse_args()
  jax.config.update("jax_compilation_cache_dir", str(args.out / "compiled"))
  results = args.out / "results"
  results.mkdir(parents=True, exist_ok=True)
  path = results / "routing.jsonl"
  while True:
    # Looked at again each time: others may be training.
    models = find_models(args.runs, args.steps, args.models)
    left = find_left(models, read(path))
    if not left:
      break
    model, variant = left[0]
    start = time.monotonic()
    t = read_texts(args.data, model.language)
    name, loss = models[model]
    directory = args.out / "traces" / f"{name}-{variant}"
    trace = make_trace(directory, args.runs, name, variant, t.documents)
    traced = time.monotonic()
    result = model._asdict() | {"variant": variant, "run": name, "valid_loss": loss}
    result |= measure(trace, model.language, t)
    with path.open("a") as file:
      file.write(json.dumps(result) + "\n")
    print(
      f"{name} {variant}, {len(trace.loss_T):,} tokens, traced in "
      f"{traced - start:.0f} s, measured in {time.monotonic() - traced:.0f} s; "
      f"{len(left) - 1} to go",
      flush=True,
    )
  drawing.draw_all(read(path), results)
  tables.write(read(path), results)
  print(f"wrote {results}/tables.md and the figures")


def read(path: pathlib.Path) -> list[dict]:
  """The results so far."""
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
  main()
