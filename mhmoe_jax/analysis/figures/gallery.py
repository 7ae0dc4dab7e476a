"""Every figure that some traces allow, in one directory."""

from collections.abc import Mapping, Sequence
import os

import numpy as np

from mhmoe_jax.analysis.figures import figures, picture_figures
from mhmoe_jax.analysis.statistics import (
  activation,
  diversity,
  drops,
  heads,
  modality,
  training,
)
from mhmoe_jax.analysis.traces.trace import Trace, make_titles

# Words of so many WordNet senses count as polysemous.
POLYSEMOUS_SENSES = 5


def draw_all(
  traces: Sequence[Trace],
  directory: str,
  *,
  contexts: Sequence[tuple[str, int, int, str, str]] = (),
  sense_counts: Mapping[str, int] | None = None,
) -> list[str]:
  """Draws what there is to draw; returns the names of the files.

  Args:
    traces: of one or several models. Those of one name and several steps are drawn over
      training, those of one step and several capacity factors by factor.
    directory: where to, made if it is not there.
    contexts: of `words.load_homographs`; traced, a line each.
    sense_counts: of `words.load_sense_counts`.
  """
  os.makedirs(directory, exist_ok=True)
  drawn = []

  def at(name):
    drawn.append(f"{name}.png")
    return os.path.join(directory, drawn[-1])

  titles = make_titles(traces)
  # Experts of two pools are two models.
  parts = {
    f"{title}, {pool}" if len(trace.meta.pools) > 1 else title: part
    for title, trace in zip(titles, traces, strict=True)
    for pool, part in trace.split_pools().items()
  }
  models = {title: activation.measure(part) for title, part in parts.items()}
  figures.draw_activation(models, at("activation"))
  for title, trace in zip(titles, traces, strict=True):
    if trace.pictures is not None:
      picture_figures.draw_pictures(trace, at(f"{_name(title)}_pictures"))
  for title, trace in parts.items():
    name = _name(title)
    layers = range(len(trace.meta.layers))
    path = at(f"{name}_load")
    figures.draw_load(heads.head_load(trace), list(trace.meta.layers), path)
    if trace.meta.num_heads > 1:
      path = at(f"{name}_agreement")
      figures.draw_agreement(heads.head_agreement(trace), path)
    inside = np.stack([heads.coactivation(trace, n, n) for n in layers])
    figures.draw_coactivation(
      inside, "co-activation in a layer, log2 lift", at(f"{name}_coactivation")
    )
    if len(layers) > 1:
      across = np.stack([heads.coactivation(trace, n, n + 1) for n in layers[:-1]])
      figures.draw_coactivation(
        across, "with the next layer, log2 lift", at(f"{name}_coactivation_next")
      )
    if trace.pictures is None:
      figures.draw_positions(heads.position_profile(trace), at(f"{name}_positions"))
    if modality.measure_sharing(trace):
      made = heads.load_by(trace, trace.modality_T)
      figures.draw_labels(made, at(f"{name}_modality"))
    labels = heads.label_load(trace)
    if len(labels.labels) > 1:
      figures.draw_labels(labels, at(f"{name}_labels"))
    if sense_counts and trace.pictures is None:
      _draw_polysemy(trace, sense_counts, title, at(f"{name}_polysemy"))
    occurrences = diversity.find_contexts(trace.documents, contexts)
    if occurrences:
      measured = diversity.measure_words(trace, occurrences)
      senses = diversity.compare_senses(measured, occurrences)
      if senses:
        figures.draw_senses(senses, at(f"{name}_senses"))

  if len({trace.meta.name for trace in traces}) == 1 and len(traces) > 1:
    if len({trace.meta.step for trace in traces}) == len(traces):
      for pool in traces[0].meta.pools:
        made = training.over_training([trace.split_pools()[pool] for trace in traces])
        several = len(traces[0].meta.pools) > 1
        figures.draw_training(made, at(f"training_{pool}" if several else "training"))
    elif len({trace.meta.step for trace in traces}) == 1:
      figures.draw_drops(drops.cost_by_capacity(traces), at("drops"))
  return drawn


def _name(title: str) -> str:
  return "".join(c if c.isalnum() else "_" for c in title)


def _draw_polysemy(trace: Trace, sense_counts, title: str, path: str) -> None:
  groups = {
    word: "polysemous" if count >= POLYSEMOUS_SENSES else "other"
    for word, count in sense_counts.items()
  }
  occurrences = diversity.find_words(trace.documents, groups)
  # The last document may have been read in part only.
  occurrences = [one for one in occurrences if one.document < trace.document_T[-1]]
  measured = diversity.measure_words(trace, occurrences)
  effect = diversity.compare_groups(measured, occurrences, "polysemous", samples=200)
  is_in_W = np.array([one.group == "polysemous" for one in occurrences])
  figures.draw_diversity(
    {
      "polysemous": measured.diversity_W[is_in_W],
      "other": measured.diversity_W[~is_in_W],
    },
    f"{title}: {effect.difference:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]\n"
    f"at equal frequency, pieces and bytes {effect.adjusted:+.3f} "
    f"[{effect.adjusted_low:+.3f}, {effect.adjusted_high:+.3f}]",
    path,
  )
