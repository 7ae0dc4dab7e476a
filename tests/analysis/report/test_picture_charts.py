"""Charts of pictures, and what is left of the others."""

import numpy as np

from mhmoe_jax.analysis.report import glance
from mhmoe_jax.analysis.report.charts import make_charts
from mhmoe_jax.analysis.statistics.texture import measure_texture
from tests.analysis.made import make_pictures

E, SIDE = 4, 2


def some_trace(pools=("shared",)):
  """Ten pictures with two words; patch p of all heads goes to expert p."""
  rng = np.random.default_rng(0)
  expert_TNHK = rng.integers(0, E, (10 * 6, 2, 3, 1))
  return make_pictures(expert_TNHK, E, SIDE, "ab", pools)


def by_title(trace):
  return {chart.title: chart for chart in make_charts(["m"], [trace])}


def test_distinct_experts_by_place_and_texture():
  trace = some_trace()
  charts = by_title(trace)
  distinct_TN = np.array(
    [[len(np.unique(x_HK)) for x_HK in x_NHK] for x_NHK in trace.expert_TNHK]
  )
  columns = charts["Distinct experts by place in the picture"].columns
  rows = list(zip(*(columns[x] for x in ("block", "row", "column")), strict=True))
  at = columns["distinct experts"][rows.index((3, 1, 0))]
  here_T = (trace.row_T == 1) & (trace.column_T == 0)
  assert at == float(f"{distinct_TN[here_T, 1].mean():.4g}")

  columns = charts["Distinct experts by texture"].columns
  texture = measure_texture(trace.pictures.pixels_UYXC, 4).detrended_URC.ravel()
  patches_TN = distinct_TN[trace.is_patch_T]
  flattest = np.argsort(texture)[:4]  # a tenth of forty
  first = columns["line"].index("m, block 1")
  assert columns["texture"][first] == float(f"{texture[flattest].mean():.4g}")
  assert columns["distinct experts"][first] == float(
    f"{patches_TN[flattest, 0].mean():.4g}"
  )


def test_what_a_shared_pool_shows():
  charts = by_title(some_trace())
  assert "Experts by modality" in charts
  assert charts["How well each head tells patches from words"].section == "labels"
  assert not [title for title in charts if title.endswith("by position")]
  assert not any(chart.pool for chart in charts.values())


def test_experts_of_two_pools_are_never_added_up():
  trace = some_trace(("image", "text"))
  charts = make_charts(["m"], [trace])
  loads = [chart for chart in charts if chart.title == "Load of every expert"]
  assert [(chart.model, chart.pool) for chart in loads] == [(0, "image"), (0, "text")]
  for chart, here_T in zip(loads, (trace.is_patch_T, ~trace.is_patch_T), strict=True):
    count_E = np.bincount(trace.expert_TNHK[here_T, 0].ravel(), minlength=E)
    load_E = count_E / count_E.sum() * E
    np.testing.assert_allclose(chart.columns["load"][:E], load_E, rtol=1e-3)
  assert "Experts by modality" not in {chart.title for chart in charts}
  entropy = [c for c in charts if c.title.startswith("How undecided")]
  assert len(entropy) == 2
  rows = {row.name: row for row in glance.at_a_glance([trace])}
  assert "bits per byte" not in rows
  assert rows["distinct experts a token"].values[0].startswith("image ")
  assert "; text " in rows["distinct experts a token"].values[0]
