"""What the figures of pictures show."""

import dataclasses

import numpy as np
import pytest

from mhmoe_jax.analysis.figures import gallery
from mhmoe_jax.analysis.figures.picture_figures import draw_pictures
from tests.analysis.made import make_pictures, make_trace

E = 4


def some_trace(pools=("shared",)):
  rng = np.random.default_rng(0)
  return make_pictures(rng.integers(0, E, (3 * 6, 2, 2, 1)), E, 2, "ab", pools)


def test_each_patch_is_where_it_is(tmp_path):
  trace = some_trace()
  figure = draw_pictures(trace, tmp_path / "a.png", count=2, first=1, layer=0)
  panels = [
    [axis.images[0].get_array() for axis in figure.axes[5 * u :][:5]] for u in (0, 1)
  ]
  for u, (original, _, distinct, *experts) in enumerate(panels):
    of = (trace.document_T == 1 + u) & trace.is_patch_T
    np.testing.assert_array_equal(original, trace.pictures.pixels_UYXC[1 + u])
    wanted = [np.mean([len(set(x.ravel())) for x in t]) for t in trace.expert_TNHK[of]]
    np.testing.assert_allclose(distinct.ravel(), wanted)
    for h, found in enumerate(experts):
      np.testing.assert_array_equal(found.ravel(), trace.expert_TNHK[of, 0, h, 0])
  with pytest.raises(ValueError, match=r"^first must be in \[0, 3\), got first=3\.$"):
    draw_pictures(trace, tmp_path / "b.png", first=3)
  with pytest.raises(ValueError, match=r"in \[0, 0\), got first=0"):
    draw_pictures(make_trace(np.zeros((2, 1, 1, 1)), 1), tmp_path / "b.png")


def test_all_that_a_trace_of_pictures_allows(tmp_path):
  trace = some_trace(("image", "text"))
  later = dataclasses.replace(trace, meta=dataclasses.replace(trace.meta, step=9))
  drawn = gallery.draw_all([trace, later], str(tmp_path / "pools"))
  for name in ("pictures", "image_load", "text_load"):
    assert any(file.endswith(f"{name}.png") for file in drawn), name
  assert {"training_image.png", "training_text.png"} <= set(drawn)
  assert not any("positions" in name or "modality" in name for name in drawn)
  assert sorted(path.name for path in (tmp_path / "pools").iterdir()) == sorted(drawn)
  assert "made_modality.png" in gallery.draw_all([some_trace()], str(tmp_path / "one"))
