"""Pictures to a visual vocabulary in a folder, with a picture of what it keeps."""

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np

from mhmoe_jax.codes import saved, sheet
from mhmoe_jax.codes.fit import Tell, fit
from mhmoe_jax.codes.measure import describe, redraw
from mhmoe_jax.codes.vocabulary import VisualVocabulary

SHEET = "reconstructions.png"
_SHOWN = 12


def build(
  directory: str,
  vocabulary: VisualVocabulary,
  pictures_NYXC: np.ndarray,
  fitted_to: Mapping[str, Any],
  *,
  steps: int,
  seed: int,
  tell: Tell = lambda line: None,
) -> saved.Saved:
  """Fits, saves and draws a vocabulary; arguments as of `fit.fit` and `saved.save`."""
  saved.check_free(directory)
  arrays, statistics = fit(vocabulary, pictures_NYXC, steps=steps, seed=seed, tell=tell)
  facts = {**fitted_to, "picture_size": pictures_NYXC.shape[1]}
  facts |= {"steps": steps, "seed": seed}
  saved.save(directory, vocabulary, arrays, facts, statistics)
  count = len(pictures_NYXC)
  shown = pictures_NYXC[:: -(-count // _SHOWN)]
  title = f"{vocabulary.kind}: {vocabulary.num_codes:,} codes for patches of "
  title += f"{vocabulary.patch_size} x {vocabulary.patch_size}"
  drawn = redraw(vocabulary, arrays, shown)
  groups = {"original": shown, "from its codes": drawn}
  picture = sheet.draw_sheet(groups, title, describe(statistics))
  sheet.write_png(str(epath.Path(directory) / SHEET), picture)
  return saved.load(directory)
