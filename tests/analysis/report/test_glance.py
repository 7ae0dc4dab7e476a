import numpy as np

from mhmoe_jax.analysis.report.glance import at_a_glance
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace


def rows_of(*traces):
  return {row.name: row for row in at_a_glance(traces)}


def test_a_healthy_router():
  entropy_TNH = np.full((4, 1, 2), np.log(4) / 2)
  choices = [[[[0], [1]]], [[[1], [2]]], [[[2], [3]]], [[[3], [0]]]]
  loss_T = np.full(4, 2 * np.log(2))
  rows = rows_of(make_trace(choices, 4, entropy_TNH=entropy_TNH, loss_T=loss_T))
  assert {name: row.values for name, row in rows.items()} == {
    "active experts": ["100% (4 of 4)"],
    "busiest expert": ["1.00 (block 1, expert 0)"],
    "distinct experts a token": ["2.00 of 2"],
    "router's entropy": ["50%"],
    "agreement of heads": ["0.0%, by chance 25.0%"],
    "dropped choices": ["0.0%"],
    "bits per byte": ["2.000"],  # and no language by expert: there is one
  }
  assert not any(False in row.healthy for row in rows.values())


def test_a_sick_router():
  documents = [Document("en", "ab"), Document("de", "c")]
  choices = [[[[5], [5]]], [[[5], [5]]], [[[5], [0]]]]
  dropped = np.zeros((3, 1, 2, 1), bool)
  dropped[0] = True
  rows = rows_of(make_trace(choices, 8, documents, dropped_TNHK=dropped))
  assert rows["active experts"].values == ["25% (2 of 8)"]
  assert rows["busiest expert"].values == ["6.67 (block 1, expert 5)"]
  assert rows["dropped choices"].values == ["33.3%"]
  sick = {name for name, row in rows.items() if row.healthy == [False]}
  assert sick == {
    "active experts",
    "busiest expert",
    "router's entropy",
    "agreement of heads",
    "dropped choices",
  }
  assert rows["language by expert"].values[0].endswith("(block 1)")


def test_models_beside_each_other():
  one_head = make_trace([[[[0]]], [[[1]]]], 2)
  two_heads = make_trace([[[[0], [1]]], [[[1], [0]]]], 2)
  row = rows_of(one_head, two_heads)["agreement of heads"]
  assert row.values == ["", "0.0%, by chance 50.0%"]
  assert "agreement of heads" not in rows_of(one_head)
