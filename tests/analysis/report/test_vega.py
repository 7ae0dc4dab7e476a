import numpy as np

from mhmoe_jax.analysis.report import vega


def test_grids_become_columns():
  array = np.array([[1.0, np.nan], [1 / 3, 4.0]])
  made = vega.columns_of(
    model=np.array("m"), **vega.grid(("block", "expert", "load"), array, block=(1, 3))
  )
  assert made == {
    "model": ["m"] * 4,
    "block": [1, 1, 3, 3],
    "expert": [0, 1, 0, 1],
    "load": [1.0, None, 0.3333, 4.0],
  }


def test_heat_marks_what_it_is_told_to():
  plain = vega.heat("expert", "block", "load", (0, 2))
  assert [layer["mark"] for layer in plain["layer"]] == ["rect"]
  crossed = vega.heat("expert", "block", "load", (0, 2), cross="datum.load < 1")
  assert crossed["layer"][1]["transform"] == [{"filter": "datum.load < 1"}]
  numbered = vega.heat("expert", "block", "load", (0, 2), numbers=True)
  assert numbered["layer"][1]["encoding"]["text"]["field"] == "load"
  scale = vega.heat("a", "b", "c", (-3, 3), middle=0)["layer"][0]["encoding"]["color"]
  assert scale["scale"] == {"domain": [-3, 3], "clamp": True, "domainMid": 0}


def test_lines_of_models_differ_in_more_than_colour():
  encoding = vega.lines("x", "y", "model")["encoding"]
  assert encoding["strokeDash"]["field"] == encoding["color"]["field"] == "model"
