"""Figures show the numbers they are given, and the gallery draws what it can."""

import pathlib

import numpy as np
import pytest

from mhmoe_jax.analysis.figures import figures, gallery
from mhmoe_jax.analysis.statistics.activation import Activation
from mhmoe_jax.analysis.statistics.diversity import Senses
from mhmoe_jax.analysis.statistics.drops import DropCost
from mhmoe_jax.analysis.statistics.heads import LabelLoad
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace

PNG = b"\x89PNG"


@pytest.fixture
def path(tmp_path):
  return tmp_path / "figure.png"


def test_activation(path):
  load_NE = np.array([[0.0, 0.5, 1.5, 2.0], [1.0, 1.0, 1.0, 1.0]])
  figure = figures.draw_activation({"a": Activation(load_NE, load_NE / 2)}, path)
  assert path.read_bytes().startswith(PNG)
  above, below = figure.subfigs
  np.testing.assert_array_equal(above.axes[0].images[0].get_array(), load_NE)
  thresholds_X, active_X = below.axes[0].lines[0].get_data()
  assert (active_X[0], active_X[-1]) == (7 / 8, 0)
  assert thresholds_X[-1] == 2.0
  heights = [patch.get_xy()[:, 1].max() for patch in below.axes[2].patches]
  assert heights == [4]


def test_diversity_and_senses(path):
  groups = {"polysemous": np.array([3.0, 4.0]), "other": np.array([2.0, 2.0])}
  figure = figures.draw_diversity(groups, "title", path)
  labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
  assert labels == ["polysemous, mean 3.50", "other, mean 2.00"]

  senses = {"bar": Senses(0.1, 0.1, 0.6), "bank": Senses(0.9, 0.2, 0.01)}
  figure = figures.draw_senses(senses, path)
  assert [bar.get_width() for bar in figure.axes[0].patches] == [0.9, 0.1]
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert names == ["bank *", "bar "]


def test_labels_and_coactivation(path):
  load_YNE = np.array([[[0.25, 0.75]], [[0.5, 0.5]]])
  figure = figures.draw_labels(LabelLoad(["de", "en"], load_YNE, np.array([0.5])), path)
  image = figure.axes[0].images[0].get_array()
  np.testing.assert_allclose(image, [[0.5, 1.5], [1.0, 1.0]])
  assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["de", "en"]
  assert "0.500 bits" in figure.axes[0].get_title()

  lift_NEE = np.array([[[4.0, 0.0], [1.0, np.nan]]])
  figure = figures.draw_coactivation(lift_NEE, "title", path)
  image = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
  np.testing.assert_array_equal(image, [[2, -3], [0, np.nan]])


def test_drops(path):
  drops_XN = np.array([[0.5, 0.4], [0.0, 0.0]])
  loss_X = np.array([1.5, 1.0])
  factor_X = np.array([0.5, 2.0])
  cost = DropCost(factor_X, *[drops_XN] * 3, loss_X=loss_X, extra_X=loss_X - 1)
  figure = figures.draw_drops(cost, path)
  first, second = figure.axes[0].lines
  assert first.get_data()[0].tolist() == [0.5, 2.0]
  assert (first.get_data()[1][0], second.get_data()[1][0]) == (0.5, 0.4)
  assert figure.axes[3].lines[0].get_data()[1].tolist() == [0.5, 0.0]


def _touch(figure, path):
  pathlib.Path(path).touch()
  return figure


def trace(**fields):
  rng = np.random.default_rng(0)
  experts = np.stack([rng.permutation(4)[:2] for _ in range(40 * 2 * 2)])
  documents = [
    Document("en", "lead the lead "),
    Document("de", "the cat sat on "),
    Document("de", "the dog far"),
  ]
  return make_trace(experts.reshape(40, 2, 2, 2), 4, documents, **fields)


def test_gallery(tmp_path, monkeypatch):
  # Which figures there are; that they can be rendered is seen above, and takes long.
  monkeypatch.setattr(figures, "_save", _touch)
  contexts = [
    ("lead the lead ", 0, 4, "lead", "a"),
    ("lead the lead ", 9, 13, "lead", "b"),
  ]
  senses = {"lead": 9, "the": 6, "cat": 1, "sat": 2}
  drawn = gallery.draw_all(
    [trace(step=1), trace(step=2)],
    tmp_path / "figures",
    contexts=contexts * 2,
    sense_counts=senses,
  )
  kinds = ["load", "agreement", "coactivation", "coactivation_next", "positions"]
  kinds += ["labels", "polysemy", "senses"]
  expected = ["activation.png"]
  expected += [f"made_step_{s}_{kind}.png" for s in (1, 2) for kind in kinds]
  assert drawn == [*expected, "training.png"]
  for name in drawn:
    assert (tmp_path / "figures" / name).exists()
