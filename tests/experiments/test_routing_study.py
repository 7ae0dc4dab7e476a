"""The study's own statistics, on routings and words with known answers."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from mhmoe_jax.analysis.statistics import diversity
from mhmoe_jax.analysis.statistics.diversity import Occurrence, Senses
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "2611_routing_study"


@pytest.fixture(scope="module")
def study():
  # Not by its name: other experiments have a run.py, too.
  spec = importlib.util.spec_from_file_location("routing_study", FOLDER / "run.py")
  module = importlib.util.module_from_spec(spec)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FOLDER)
    spec.loader.exec_module(module)
    yield module


def test_effective_experts(study):
  assert study.measures.effective_experts(np.array([[1.0, 1, 1, 1]])) == 1
  assert study.measures.effective_experts(np.array([[2.0, 2, 0, 0]])) == 0.5


def test_distinct_by_chance_is_what_random_routing_gives(study):
  rng = np.random.default_rng(0)
  pairs = np.argsort(rng.random((20_000, 1, 3, 8)), axis=-1)[..., :2]
  trace = make_trace(pairs, 8, [Document("en", "a" * 20_000)])
  numbers = study.measures.diversity_numbers(trace)
  assert numbers["uniform"] == 8 * (1 - 0.75**3)
  assert numbers["mean"] == pytest.approx(numbers["uniform"], abs=0.02)
  assert numbers["dealt"] == pytest.approx(numbers["uniform"], abs=0.02)


def test_dealing_heads_breaks_their_agreement_and_keeps_their_load(study):
  # Both heads of a token always go together, to any of four experts.
  expert_T = np.arange(4_000) % 4
  together = np.stack([expert_T, expert_T], axis=-1)[:, None, :, None]
  trace = make_trace(together, 4, [Document("en", "a" * 4_000)])
  numbers = study.measures.diversity_numbers(trace)
  assert numbers["mean"] == 1
  assert numbers["histogram"] == [0, 1, 0]
  assert numbers["dealt"] == pytest.approx(1.75, abs=0.03)
  heads = study.measures.head_numbers(trace)
  assert heads["agreement"] == 1
  assert heads["agreement_by_chance"] == 0.25
  assert heads["information"] == pytest.approx(0)


def test_heads_with_experts_of_their_own(study):
  trace = make_trace([[[[0], [1]]]] * 6, 2)
  heads = study.measures.head_numbers(trace)
  assert heads["information"] == heads["most_information"] == 1
  assert heads["agreement"] == heads["agreement_by_chance"] == 0


def test_predictability(study):
  # "a" goes to 0 and "b" to 1; then experts change from one occurrence to the next.
  document = Document("en", "aabb" * 4)
  by_text = make_trace([[[[0]]], [[[0]]], [[[1]]], [[[1]]]] * 4, 2, [document])
  numbers = study.measures.predictability(by_text)
  assert numbers == {"by_text": 1, "blind": 0.5}
  against = make_trace([[[[0]]], [[[1]]]] * 8, 2, [Document("en", "a" * 16)])
  assert study.measures.predictability(against)["by_text"] == 0


def test_matching_removes_a_difference_that_frequency_makes(study):
  rng = np.random.default_rng(0)
  frequency_U = rng.integers(0, 3, 600)
  inside_U = rng.random(600) < 0.2 + 0.3 * frequency_U
  y_U = frequency_U + 0.1 * rng.standard_normal(600)
  plain = y_U[inside_U].mean() - y_U[~inside_U].mean()
  middle, low, high, used = study.measures.matched(y_U, inside_U, frequency_U, 200)
  assert plain > 0.3
  assert low < middle < high
  assert abs(middle) < 0.03
  assert used == 600
  middle, low, _, _ = study.measures.matched(y_U + inside_U, inside_U, frequency_U, 200)
  assert low > 0.9
  assert middle == pytest.approx(1, abs=0.03)
  lonely = (
    np.where(frequency_U == 0, 9, frequency_U) * 2 + (frequency_U == 0) * inside_U
  )
  used = study.measures.matched(y_U, inside_U, lonely, 2)[3]
  assert used == (frequency_U > 0).sum()


def test_slope_at_equal_others(study):
  rng = np.random.default_rng(0)
  x_U, other_U = rng.standard_normal((2, 200))
  y_U = 2 * (x_U + other_U) - other_U + 0.01 * rng.standard_normal(200)
  middle, low, high = study.measures.slope(y_U, x_U + other_U, other_U[:, None], 100)
  assert low < middle < high
  assert middle == pytest.approx(2, abs=0.01)


def test_benjamini_hochberg(study):
  # Sorted: 0.01 <= 0.0125, 0.03 > 0.025, 0.035 <= 0.0375 carries it, 0.9.
  stand = study.measures.benjamini_hochberg([0.9, 0.03, 0.01, 0.035])
  assert stand.tolist() == [False, True, True, True]
  assert not study.measures.benjamini_hochberg([0.04, 0.06]).any()


def test_sense_numbers(study):
  senses = {"lead": Senses(0.5, 0.1, 0.001)} | {
    f"w{i}": Senses(0.1, 0.1, 0.04 + i / 10) for i in range(3)
  }
  numbers = study.measures.sense_numbers(senses, 100)
  assert numbers["beat_chance"] == 1
  assert numbers["nominal"] == 2
  assert numbers["most"] == ["lead"]
  assert numbers["words"] == 4
  assert numbers["excess"][0] == pytest.approx(0.1)


def test_only_the_commonest_pieces_and_senses_stay(study):
  documents = [Document("en", text) for text in ("ab", "ab", "ab", "Ab")]
  trace = make_trace(np.zeros((8, 1, 1, 1)), 2, documents)
  found = diversity.find_words(documents, {"ab": "verb"})
  assert study.measures.same_pieces(trace, found) == found[:3]
  rare = Occurrence(3, 0, 2, "ab", "noun")
  assert study.measures.common_senses([*found[:3], rare]) == found[:3]


def test_label_information_of_heads(study):
  # Head 0 goes by the label, head 1 does the opposite: both experts are as common.
  documents = [Document("de", "abc"), Document("en", "abc")]
  trace = make_trace([[[[0], [1]]]] * 3 + [[[[1], [0]]]] * 3, 2, documents)
  assert study.measures.label_information(trace) == pytest.approx(1)


def test_take_renumbers_documents(study):
  documents = [Document("x", "ab"), Document("y", "cde"), Document("x", "f")]
  trace = make_trace(np.arange(6).reshape(6, 1, 1, 1), 6, documents)
  part = study.texts.take(trace, ("x",))
  assert part.documents == [documents[0], documents[2]]
  assert part.document_T.tolist() == [0, 0, 1]
  assert part.expert_TNHK.ravel().tolist() == [0, 1, 5]


def test_jobs_of_finished_models(study, tmp_path):
  result = {
    "row": "mhmoe_8",
    "language": "english",
    "seed": 0,
    "steps": 6,
    "rate": None,
  }
  others = [{"row": "dense"}, {"steps": 7}, {"seed": 1}]
  lines = [result | {"valid_loss": 4.0} | change for change in ({}, *others)]
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))
  for name in ("mhmoe_8-english-6-0", "dense-english-6-0", "mhmoe_8-english-6-1"):
    (tmp_path / name / "checkpoints").mkdir(parents=True)
  models = study.find_models(tmp_path, 6)
  first, second = (study.Model("mhmoe_8", "english", seed, 6) for seed in (0, 1))
  assert models == {
    first: ("mhmoe_8-english-6-0", 4.0),
    second: ("mhmoe_8-english-6-1", 4.0),
  }
  left = study.find_left(models, [result | {"variant": "trained"}])
  assert left == [
    (second, "trained"),
    (first, "initial"),
    (second, "initial"),
    (first, "fresh_router"),
  ]


def test_tables_of_activation(study):
  # Two experts; a model of two heads makes twice the choices.
  base = {"language": "english", "seed": 0, "variant": "trained", "experts": 2}
  one = base | {"row": "smoe_8", "heads": 1, "top_k": 1, "load": [[0.5, 1.5]]}
  two = base | {"row": "mhmoe_8", "heads": 2, "top_k": 1, "load": [[0.5, 1.5]]}
  assert study.tables.shares([one], [0.2, 0.3, 0.8], 1).tolist() == [1, 0.5, 0]
  assert study.tables.shares([two], [0.4, 0.6, 1.6], 1).tolist() == [1, 0.5, 0]
  assert study.tables.shares([two], [0.4, 0.6, 1.6], 0).tolist() == [1, 0.5, 0]
  row = study.tables.paper_threshold([one, two], "english")[4]
  # An even SMoE with as many choices would look as active as MH-MoE does.
  assert row.split("|")[3:8] == [" 0.750 ", " 50% ", " 50% ", " 1.50 ", " 0% "]
