"""Charts carry the numbers of the analysis, and Vega-Lite takes them."""

import json
import re

import numpy as np
import pytest
import vl_convert

from mhmoe_jax.analysis.report import changes, charts
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace

# Two tokens, a language each; two blocks, two heads, top-1 of two experts.
DOCUMENTS = [Document("en", "a"), Document("de", "b")]
CHOICES = [[[[0], [0]], [[0], [1]]], [[[0], [1]], [[1], [1]]]]


def made_of(*traces, titles=("m", "o")):
  return {
    f"{chart.title}{'' if chart.model is None else chart.model}": chart
    for chart in charts.make_charts(titles[: len(traces)], traces)
  }


def rows(chart, *names):
  return list(zip(*(chart.columns[name] for name in names), strict=True))


def test_numbers():
  made = made_of(make_trace(CHOICES, 2, DOCUMENTS))
  assert rows(made["Load of every expert0"], "block", "expert", "load") == [
    (1, 0, 1.5),
    (1, 1, 0.5),
    (3, 0, 0.5),
    (3, 1, 1.5),
  ]
  load = rows(made["Load of each head0"], "block", "head", "expert", "load")
  assert load[:4] == [(1, 1, 0, 2.0), (1, 1, 1, 0.0), (1, 2, 0, 1.0), (1, 2, 1, 1.0)]
  agree = rows(made["Agreement of heads0"], "block", "head", "other head", "agreement")
  assert agree[:2] == [(1, 1, 1, 1.0), (1, 1, 2, 0.5)]
  label = rows(made["Experts by label0"], "block", "label", "expert", "load")
  assert label[:4] == [
    (1, "de", 0, 1.0),
    (1, "de", 1, 1.0),
    (1, "en", 0, 2.0),
    (1, "en", 1, 0.0),
  ]
  distinct = made["Distinct experts of a token"]
  share = rows(distinct, "block", "distinct experts", "share of tokens")
  assert share[:2] == [(1, 1, 0.5), (1, 2, 0.5)]
  curve = rows(
    made["Active experts by an even share"], "threshold, an even share", "active"
  )
  assert curve[0][1] == 1.0
  assert curve[-1][1] == 0.0
  loss = rows(made["Loss by position"], "position", "loss", "line")
  assert loss[0] == (0, 1.0, "m, block 1")


def test_only_what_there_is():
  made = made_of(make_trace([[[[0]]], [[[1]]]], 2))
  assert {chart.section for chart in made.values()} == {
    "use",
    "heads",
    "words",
    "positions",
  }
  assert "Agreement of heads0" not in made
  dropped_TNHK = np.ones((2, 1, 1, 1), bool)
  made = made_of(make_trace([[[[0]]], [[[1]]]], 2, dropped_TNHK=dropped_TNHK))
  assert rows(made["What is dropped"], "what", "share")[0] == ("choices", 1.0)


def test_models_side_by_side():
  one = make_trace([[[[0]]], [[[1]]]], 2)
  made = made_of(make_trace(CHOICES, 2, DOCUMENTS), one)
  assert set(made["How even the loads are"].columns["model"]) == {"m", "o"}
  assert {"Load of each head0", "Load of each head1"} <= set(made)
  assert "Agreement of heads1" not in made


def test_over_training():
  late = make_trace([[[[0, 1]]], [[[2, 3]]]], 4, step=20)
  early = make_trace([[[[0, 1]]], [[[0, 1]]]], 4, step=10)
  made = {chart.title: chart for chart in changes.make_changes([late, early])}
  active = made["Active experts by step"]
  assert rows(active, "step", "active experts", "line") == [
    (10, 0.5, "block 1"),
    (20, 1.0, "block 1"),
  ]
  assert rows(made["Saturation by step"], "saturation") == [(0.5,), (1.0,)]
  assert rows(made["Loss by step"], "step", "loss") == [(10, 1.0), (20, 1.0)]
  with pytest.raises(ValueError, match=r"different steps, got steps \[20, 20\]"):
    changes.make_changes([late, late])
  other = make_trace([[[[0]]], [[[1]]]], 4, step=5)
  with pytest.raises(ValueError, match=r"same model.* 4, 2\) at step 20 and"):
    changes.make_changes([late, other])


def test_vega_lite_takes_them():
  late, early = (make_trace(CHOICES, 2, DOCUMENTS, step=step) for step in (2, 1))
  made = charts.make_charts(["a", "b"], [late, early])
  for chart in made + changes.make_changes([late, early]):
    assert len({len(column) for column in chart.columns.values()}) == 1, chart.title
    values = [
      dict(zip(chart.columns, row, strict=True)) for row in rows(chart, *chart.columns)
    ]
    json.dumps(values, allow_nan=False)
    assert chart.pick in {None, *chart.columns}, chart.title
    used = re.findall(r"'field': '([^']*)'", str(chart.spec))
    assert set(used) <= set(chart.columns), chart.title
    spec = chart.spec | {"height": 100, "data": {"values": values}}
    assert vl_convert.vegalite_to_vega(spec)["marks"], chart.title
