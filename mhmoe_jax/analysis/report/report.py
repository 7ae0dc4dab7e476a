"""One page that shows where the sub-tokens go: from disk, offline, in any browser.

The page's HTML, CSS and JavaScript are files in `page/`; here they are put together
with Vega (inlined, from vl-convert) and the data. The page forbids itself every
network access.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import html
from importlib import resources
import itertools
import os
import string

import vl_convert

from mhmoe_jax.analysis.report import glance, packing, picture_packing
from mhmoe_jax.analysis.report.changes import make_changes
from mhmoe_jax.analysis.report.charts import make_charts
from mhmoe_jax.analysis.statistics import drops, heads
from mhmoe_jax.analysis.traces.trace import Trace, make_titles

# In the order of the page; they are one script.
SCRIPTS = tuple(
  f"{name}.js"
  for name in ("data", "palette", "pictures", "hits", "pane", "card", "charts", "main")
)


def make_report(
  traces: Sequence[Trace], max_tokens: int = 100_000, earlier: Sequence[Trace] = ()
) -> str:
  """The page.

  Args:
    traces: of one model, or of two to be compared.
    max_tokens: so many are in the page to be read; figures are of all.
    earlier: of the first one's earlier checkpoints.

  Raises:
    ValueError: `earlier` are of another model or text.
  """
  data = packing.to_script(make_data(traces, max_tokens, earlier))
  folder = resources.files("mhmoe_jax.analysis.report") / "page"
  parts = {
    "title": html.escape(" and ".join(make_titles(traces))),
    "style": (folder / "page.css").read_text("utf-8"),
    # Inside of a script element "</script" would end it.
    "vega": vl_convert.javascript_bundle().replace("</script", "<\\/script"),
    "script": "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    "data": data,
  }
  return string.Template((folder / "page.html").read_text("utf-8")).substitute(parts)


def make_data(
  traces: Sequence[Trace], max_tokens: int, earlier: Sequence[Trace] = ()
) -> Mapping:
  """What the page shows, as it is embedded."""
  titles = make_titles(traces)
  shown = [packing.choose_tokens(trace, max_tokens) for trace in traces]
  texts, models = [_pack_text(shown[0])], []
  for i, (title, trace, part) in enumerate(zip(titles, traces, shown, strict=True)):
    if i and not _same_tokens(shown[0], part):
      texts.append(_pack_text(part))
    models.append(_describe(title, trace, part) | {"text": len(texts) - 1})
  charts = make_charts(titles, traces)
  if earlier:
    charts += make_changes([*earlier, traces[0]])
  return {
    "models": models,
    "texts": texts,
    "glance": [row._asdict() for row in glance.at_a_glance(traces)],
    "charts": [dataclasses.asdict(chart) for chart in charts],
  }


def _pack_text(trace: Trace) -> dict:
  packed = packing.pack_text(trace)
  if trace.pictures is not None:
    packed["pictures"] = picture_packing.pack_pictures(trace)
  return packed


def _specialities(trace: Trace, top: int) -> list:
  """Of each block and head what its experts are for, of one pool behind the other."""
  found = [
    [heads.specialities(part, n, top=top) for n in range(len(trace.meta.layers))]
    for part in trace.split_pools().values()
  ]
  return [
    [list(itertools.chain(*pools)) for pools in zip(*of_block, strict=True)]
    for of_block in zip(*found, strict=True)
  ]


def _describe(title: str, trace: Trace, shown: Trace) -> dict:
  meta = trace.meta
  config = meta.config.get("model", {})
  top = 5 if len(meta.layers) * meta.num_heads * meta.num_experts <= 2_000 else 2
  return {
    "title": title,
    "step": meta.step,
    "kind": config.get("ffn", ""),
    "router": config.get("moe", {}).get("router", ""),
    "vocabulary": os.path.basename(meta.vocabulary),
    "files": [os.path.basename(path) for path in meta.data_files],
    "blocks": meta.layers,
    "heads": meta.num_heads,
    "experts": meta.num_experts * len(meta.pools),
    "pool_size": meta.num_experts,
    "pools": meta.pools,
    "choices": meta.top_k,
    "tokens": len(trace.document_T),
    "documents": len(trace.documents),
    "shown": len(shown.document_T),
    "specialities": _specialities(trace, top),
  } | packing.pack_routing(shown)


def _same_tokens(first: Trace, other: Trace) -> bool:
  try:
    drops.check_same_text([first, other])
  except ValueError:
    return False
  return True
