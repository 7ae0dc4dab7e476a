"""Pictures to a folder with a vocabulary and a sheet."""

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.codes import build, saved
from mhmoe_jax.codes.measure import measure, redraw
from mhmoe_jax.codes.vocabulary import VisualVocabulary

VOCABULARY = VisualVocabulary("kmeans", 16, 4)


def test_a_folder_with_all_of_it(tmp_path, pictures_NYXC):
  folder = str(tmp_path / "made" / "here")
  made = build.build(
    folder, VOCABULARY, pictures_NYXC, {"pictures": "shapes"}, steps=3, seed=1
  )
  found = saved.load(folder)
  assert found.fingerprint == made.fingerprint
  assert found.vocabulary == VOCABULARY
  assert found.fitted_to == {
    "pictures": "shapes",
    "picture_size": 16,
    "steps": 3,
    "seed": 1,
  }
  assert measure(VOCABULARY, found.arrays, pictures_NYXC) == found.statistics
  with Image.open(tmp_path / "made" / "here" / build.SHEET) as picture:
    assert np.asarray(picture).ndim == 3


def test_the_sheet_has_pictures_and_what_codes_keep_of_them(
  tmp_path, pictures_NYXC, monkeypatch
):
  shown = []
  draw = build.sheet.draw_sheet
  monkeypatch.setattr(
    build.sheet,
    "draw_sheet",
    lambda groups, *rest: shown.append(groups) or draw(groups, *rest),
  )
  folder = str(tmp_path / "made")
  made = build.build(folder, VOCABULARY, pictures_NYXC, {}, steps=1, seed=1)
  ((originals, drawn),) = (list(groups.values()) for groups in shown)
  np.testing.assert_array_equal(originals, pictures_NYXC[::7])  # 12 of 80
  np.testing.assert_array_equal(drawn, redraw(VOCABULARY, made.arrays, originals))


def test_what_is_there_is_seen_before_anything_is_fitted(tmp_path, pictures_NYXC):
  def make(steps):
    build.build(
      str(tmp_path),
      VOCABULARY,
      pictures_NYXC,
      {},
      steps=steps,
      seed=0,
      tell=lines.append,
    )

  lines = []
  make(1)
  told = len(lines)
  with pytest.raises(ValueError, match="a folder of its own"):
    make(1)
  assert len(lines) == told


def test_nothing_is_written_of_a_failure(tmp_path, pictures_NYXC):
  plain = np.zeros_like(pictures_NYXC)
  with pytest.raises(ValueError, match="at least half of the codes"):
    build.build(str(tmp_path), VOCABULARY, plain, {}, steps=1, seed=0)
  assert not list(tmp_path.iterdir())
