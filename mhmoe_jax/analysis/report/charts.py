"""The figures of a report: arrays of the analysis as charts with a sentence each."""

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from mhmoe_jax.analysis.report import picture_charts
from mhmoe_jax.analysis.report.pairs import pair_experts
from mhmoe_jax.analysis.report.vega import (
  Chart,
  bars,
  columns_of,
  grid,
  heat,
  join,
  lines,
)
from mhmoe_jax.analysis.statistics import activation, diversity, drops, heads
from mhmoe_jax.analysis.statistics.training import DEAD_BELOW
from mhmoe_jax.analysis.traces.trace import Trace


def make_charts(titles: Sequence[str], traces: Sequence[Trace]) -> list[Chart]:
  """Every chart that the traces allow; each trace is that of one model.

  A model with a pool of experts for each modality is two here: expert 3 of pictures is
  another one than expert 3 of texts.
  """
  owner, pools, names, parts = [], [], [], []
  for model, (title, trace) in enumerate(zip(titles, traces, strict=True)):
    split = trace.split_pools()
    for pool, part in split.items():
      owner.append(model)
      pools.append(pool if len(split) > 1 else None)
      names.append(f"{title}, {pool}" if len(split) > 1 else title)
      parts.append(part)
  return [
    chart
    if chart.model is None
    else dataclasses.replace(chart, model=owner[chart.model], pool=pools[chart.model])
    for chart in _of_pools(names, parts)
  ]


def _of_pools(titles: Sequence[str], traces: Sequence[Trace]) -> list[Chart]:
  """The charts; each trace is that of one pool of experts."""
  charts = _use(titles, traces)
  for model, trace in enumerate(traces):
    charts += _heads(model, trace) + pair_experts(model, trace)
  charts += _diversity(titles, traces) + picture_charts.make_charts(titles, traces)
  charts += _positions(titles, traces)
  for model, trace in enumerate(traces):
    charts += _labels(model, trace)
  return charts + _drops(titles, traces)


def _use(titles, traces) -> list[Chart]:
  models = [activation.measure(trace) for trace in traces]
  top = max(2.0, *(float(model.load_NE.max()) for model in models))
  charts = [
    Chart(
      "use",
      "Load of every expert",
      "1.0 is an even share of the choices. Healthy: no column is dark in every block. "
      "\N{MULTIPLICATION SIGN} marks experts that are all but dead: under a tenth of "
      "an even share.",
      columns_of(
        **grid(("block", "expert", "load"), model.load_NE, block=trace.meta.layers)
      ),
      heat("expert", "block", "load", (0, top), cross=f"datum.load <= {DEAD_BELOW}"),
      model=i,
    )
    for i, (model, trace) in enumerate(zip(models, traces, strict=True))
  ]
  parts, bins_X = [], np.linspace(0, top, 17)
  for title, model in zip(titles, models, strict=True):
    count_X, _ = np.histogram(model.load_NE, bins_X)
    parts.append(
      columns_of(
        **{"load from": bins_X[:-1], "experts": count_X, "model": np.array(title)}
      )
    )
  charts.append(
    Chart(
      "use",
      "How even the loads are",
      "Healthy: one hill around 1.0. A tall bar at 0 is dead experts, a long tail to "
      "the right is experts that do the work of many.",
      join(parts),
      bars("load from", "experts", "model"),
    )
  )
  for name, unit, says in (
    (
      "load_NE",
      "an even share",
      "The share of experts that get more than a threshold, over all thresholds. "
      "Healthy: close to 1 until the threshold nears 1, then a steep fall.",
    ),
    (
      "frequency_NE",
      "choices per token",
      "The papers' measure: how often an expert is chosen, per token. More heads make "
      "more choices, so it flatters a model of many heads; read it beside the other.",
    ),
  ):
    parts = []
    for title, model in zip(titles, models, strict=True):
      use_NE = getattr(model, name)
      threshold_X = np.geomspace(1e-3, max(use_NE.max(), 1e-2), 60)
      active_X = activation.active_curve(use_NE, threshold_X)
      parts.append(
        columns_of(
          **{f"threshold, {unit}": threshold_X, "active": active_X, "model": title}
        )
      )
    spec = lines(f"threshold, {unit}", "active", "model", log=True)
    charts.append(Chart("use", f"Active experts by {unit}", says, join(parts), spec))
  return charts


def _heads(model: int, trace: Trace) -> list[Chart]:
  H, E, blocks = trace.meta.num_heads, trace.meta.num_experts, trace.meta.layers
  load_NHE = heads.head_load(trace) * E
  entropy_NH = heads.head_entropy(trace) / max(np.log(E), 1e-12)
  number = {"head": range(1, H + 1), "other head": range(1, H + 1), "block": blocks}
  charts = [
    Chart(
      "heads",
      "Load of each head",
      "Where each head's sub-tokens go, 1.0 an even share. Healthy: rows differ. Rows "
      "that look alike are heads that learnt the same; one bright cell in a row is a "
      "head that no longer chooses.",
      columns_of(
        **grid(
          ("block", "head", "expert", "load"),
          load_NHE,
          head=number["head"],
          block=blocks,
        )
      ),
      heat("expert", "head", "load", (0, max(2.0, float(load_NHE.max())))),
      model=model,
      pick="block",
    ),
    Chart(
      "heads",
      "How undecided each head's router is",
      "Entropy of the router over its maximum: 1 cannot tell experts apart, 0 always "
      "has one answer. Healthy: in between, and lower in a trained model than at its "
      "start.",
      columns_of(
        **grid(
          ("block", "head", "entropy"), entropy_NH, head=number["head"], block=blocks
        )
      ),
      heat("head", "block", "entropy", (0, 1), numbers=H <= 16),
      model=model,
    ),
  ]
  if H == 1:
    return charts
  agreement_NHH = heads.head_agreement(trace)
  charts.append(
    Chart(
      "heads",
      "Agreement of heads",
      "How often two heads of a token prefer the same expert. Heads that know nothing "
      f"of each other, with even loads, agree {1 / E:.1%} of the time. Near 1 off the "
      "diagonal: one of the two heads is wasted.",
      columns_of(
        **grid(("block", "head", "other head", "agreement"), agreement_NHH, **number)
      ),
      heat("other head", "head", "agreement", (0, 1), numbers=H <= 8),
      model=model,
      pick="block",
    )
  )
  return charts


def _diversity(titles, traces) -> list[Chart]:
  parts = []
  for title, trace in zip(titles, traces, strict=True):
    distinct_TN = diversity.distinct_experts(trace)
    most = min(trace.expert_TNHK[0, 0].size, trace.meta.num_experts)
    share_NX = np.stack([np.bincount(x, minlength=most + 1)[1:] for x in distinct_TN.T])
    share_NX = share_NX / len(distinct_TN)
    names = ("block", "distinct experts", "share of tokens")
    labels = {"block": trace.meta.layers, "distinct experts": range(1, most + 1)}
    made = grid(names, share_NX, **labels)
    parts.append(columns_of(model=title, **made))
  says = (
    "How many different experts the sub-tokens of one token reach. At 1 the heads do "
    "nothing that one head could not; at the right end each sub-token goes its own way."
  )
  spec = bars("distinct experts", "share of tokens", "model")
  return [
    Chart("words", "Distinct experts of a token", says, join(parts), spec, pick="block")
  ]


def _positions(titles, traces) -> list[Chart]:
  texts = [trace.pictures is None for trace in traces]
  titles = list(itertools.compress(titles, texts))
  traces = list(itertools.compress(traces, texts))
  if not traces:
    return []
  parts = []
  for title, trace in zip(titles, traces, strict=True):
    profile = heads.position_profile(trace)
    start_X = profile.start_X[:, None]
    bottom = max(np.log(trace.meta.num_experts), 1e-12)
    made = {
      "model": np.array(title),
      "position": start_X,
      "loss": profile.loss_X[:, None],
      "entropy": profile.entropy_XN / bottom,
      "distinct experts": profile.distinct_XN,
      "line": np.array([f"{title}, block {n}" for n in trace.meta.layers]),
    }
    parts.append(columns_of(**made))
  columns = join(parts)
  charts = []
  for name, says in (
    ("entropy", "Healthy: flat, or falling a little while the context is short."),
    ("distinct experts", "Healthy: flat. A step at 0 is the first token of a window."),
    ("loss", "Nats per token: it falls as a token sees more context."),
  ):
    if name == "loss" and all(np.isnan(trace.loss_T).all() for trace in traces):
      continue
    spec = lines("position", name, "model" if name == "loss" else "line", zero=False)
    if name == "loss":  # The same for all blocks of a model.
      spec["transform"] = [
        {
          "aggregate": [{"op": "min", "field": "loss", "as": "loss"}],
          "groupby": ["position", "model"],
        }
      ]
    charts.append(
      Chart("positions", f"{name.capitalize()} by position", says, columns, spec)
    )
  return charts


def _labels(model: int, trace: Trace) -> list[Chart]:
  made = heads.label_load(trace)
  if len(made.labels) < 2:
    return []
  load_NYE = made.load_YNE.swapaxes(0, 1) * trace.meta.num_experts
  blocks = trace.meta.layers
  labels = {"block": blocks, "label": made.labels}
  bits = ", ".join(
    f"{bits:.2f} in block {n}"
    for n, bits in zip(blocks, made.information_N, strict=True)
  )
  return [
    Chart(
      "labels",
      "Experts by label",
      "Where the tokens of each label, such as a language, go; 1.0 an even share. Rows "
      "that look alike: experts do not tell labels apart. What an expert tells about "
      f"the label, in bits: {bits}.",
      columns_of(**grid(("block", "label", "expert", "load"), load_NYE, **labels)),
      heat("expert", "label", "load", (0, max(2.0, float(load_NYE.max())))),
      model=model,
      pick="block",
    )
  ]


def _drops(titles, traces) -> list[Chart]:
  if not any(trace.dropped_TNHK.any() for trace in traces):
    return []
  parts = []
  for title, trace in zip(titles, traces, strict=True):
    made = drops.measure(trace)
    rows = ("choices", "tokens with a dropped sub-token", "tokens with nothing else")
    columns = grid(
      ("what", "block", "share"), np.stack(made), what=rows, block=trace.meta.layers
    )
    parts.append(columns_of(model=title, **columns))
  says = (
    "What found no slot at an expert. Healthy: a few choices, and hardly any token "
    "that lost all of its sub-tokens: the layer does nothing for it."
  )
  spec = bars("block", "share", "model")
  return [Chart("drops", "What is dropped", says, join(parts), spec, pick="what")]
