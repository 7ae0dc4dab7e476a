import numpy as np

from mhmoe_jax.analysis.statistics import heads
from mhmoe_jax.analysis.statistics.heads import Speciality
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace

# One layer, two heads. Head 0 sends "a" to 0 and "b" to 1; head 1 all to 1.
ABAB = [Document("en", "aba"), Document("de", "b")]
TRACE = make_trace(
  [[[[0], [1]]], [[[1], [1]]], [[[0], [1]]], [[[1], [1]]]],
  2,
  ABAB,
  entropy_TNH=np.array([[[0.0, 0.4]], [[0.2, 0.4]], [[0.0, 0.4]], [[0.2, 0.4]]]),
  loss_T=np.array([1.0, 2.0, 3.0, 5.0]),
)


def test_specialities():
  found = heads.specialities(TRACE, 0, min_count=1)
  assert found[0] == [[Speciality("a", 2.0, 2)], [Speciality("b", 2.0, 2)]]
  # A head that sends all to one expert has no speciality there: lift 1.
  assert found[1] == [[], [Speciality("a", 1.0, 2), Speciality("b", 1.0, 2)]]
  assert heads.specialities(TRACE, 0, min_count=3) == [[[], []], [[], []]]


def test_load_entropy_and_agreement():
  assert heads.head_load(TRACE).tolist() == [[[0.5, 0.5], [0, 1]]]
  np.testing.assert_allclose(heads.head_entropy(TRACE), [[0.1, 0.4]])
  assert heads.head_agreement(TRACE).tolist() == [[[1, 0.5], [0.5, 1]]]


def test_coactivation_is_relative_to_chance():
  # Expert 0 is reached by half of the tokens, 1 by all of them, 2 by none.
  trace = make_trace(TRACE.expert_TNHK, 3, ABAB)
  lift_EE = heads.coactivation(trace, 0, 0)
  np.testing.assert_allclose(lift_EE[:2, :2], [[2, 1], [1, 1]])
  assert np.isnan(lift_EE[2]).all()


def test_coactivation_across_layers():
  # What reaches 0 in the first layer reaches 1 in the second, and the other way round.
  trace = make_trace([[[[0]], [[1]]], [[[1]], [[0]]]], 2)
  np.testing.assert_allclose(heads.coactivation(trace, 0, 1), [[0, 2], [2, 0]])


def test_label_load():
  made = heads.label_load(TRACE)
  assert made.labels == ["de", "en"]
  np.testing.assert_allclose(made.load_YNE, [[[0, 1]], [[2 / 6, 4 / 6]]])
  # A language for each expert: one bit.
  trace = make_trace([[[[0]]], [[[1]]]], 2, [Document("en", "a"), Document("de", "b")])
  np.testing.assert_allclose(heads.label_load(trace).information_N, [1.0])


def test_positions_are_those_of_the_window():
  # Windows of two tokens: places 0, 1, 0 of the first document, 0 of the second.
  profile = heads.position_profile(
    make_trace(TRACE.expert_TNHK, 2, ABAB, window=2, loss_T=TRACE.loss_T)
  )
  assert profile.start_X.tolist() == [0, 1]
  np.testing.assert_allclose(profile.loss_X, [(1 + 3 + 5) / 3, 2])
  np.testing.assert_allclose(profile.distinct_XN, [[5 / 3], [1]])
