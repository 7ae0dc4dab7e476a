from mhmoe_jax.analysis.report import pairs
from tests.analysis.made import make_trace


def cells(chart, column):
  c = chart.columns
  names = (column, "expert", "other expert")
  keys = zip(*(c[name] for name in names), strict=True)
  return dict(zip(keys, c["log2 lift"], strict=True))


def test_lift_of_pairs():
  # Block 1: experts 0 and 1 always together, 2 and 3, too. Block 3 swaps them.
  ab, cd = [[0, 1]], [[2, 3]]
  inside, across = pairs.pair_experts(0, make_trace([[ab, cd], [cd, ab]], 4))
  lift = cells(inside, "block")
  assert lift["1", 0, 1] == 1.0
  assert lift["1", 0, 2] == -3.0  # never: the end of the scale
  assert lift["1", 0, 0] is None  # of itself it says nothing
  lift = cells(across, "blocks")
  assert (lift["1 to 3", 0, 2], lift["1 to 3", 0, 0]) == (1.0, -3.0)


def test_only_what_there_is():
  # One block has no next one; one choice a token is together with nothing.
  assert pairs.pair_experts(0, make_trace([[[[0]]], [[[1]]]], 2)) == []
  titles = [c.title for c in pairs.pair_experts(0, make_trace([[[[0]], [[1]]]], 2))]
  assert titles == ["From one MoE block to the next"]


def test_of_many_experts_the_busiest(monkeypatch):
  monkeypatch.setattr(pairs, "MOST_PAIRED", 2)
  trace = make_trace([[[[1, 3]]], [[[1, 3]]], [[[0, 2]]]], 4)
  (inside,) = pairs.pair_experts(0, trace)
  assert set(inside.columns["expert"]) == {1, 3}
  assert "The 2 busiest experts." in inside.says
