"""Pictures as a page can carry them: each once, and what its patches are.

A small picture is a PNG; a large one a JPEG, which is for looking, not for measuring.
"""

import base64
import io
import re
from typing import Any

import numpy as np
from PIL import Image

from mhmoe_jax.analysis.report.packing import pack_array, pack_levels
from mhmoe_jax.analysis.statistics.texture import measure_texture
from mhmoe_jax.analysis.traces.trace import Trace

_LARGEST_PNG = 96  # pixels
_MEASURES = {
  "deviation": "deviation_URC",
  "deviation from a plane": "detrended_URC",
  "weakest step": "weakest_URC",
}


def pack_pictures(trace: Trace) -> dict[str, Any]:
  """The pictures of a trace that has some.

  Returns:
    side: patches in a row. shown: name, picture (a data URI) and number of patches of
    each document. codes: of each token the number of its visual code, 0 for words.
    textures: name and levels of each measure, by picture and patch; where it is known,
    the share of a patch that has a texture comes first.
  """
  pictures, meta = trace.pictures, trace.meta
  patches_U = np.bincount(
    trace.document_T[trace.is_patch_T], minlength=len(trace.documents)
  )
  # Not where in the file system of whoever made the page.
  names = [re.sub(r"\S*/", "", name) for name in pictures.names]
  shown = zip(names, map(_to_uri, pictures.pixels_UYXC), patches_U, strict=True)
  measured = measure_texture(pictures.pixels_UYXC, meta.patch_size)
  found = {name: getattr(measured, field) for name, field in _MEASURES.items()}
  if np.isfinite(pictures.texture_URC).any():
    found = {"known": np.nan_to_num(pictures.texture_URC)} | found
  codes = [int(text.removeprefix("code ")) for text in trace.text_T[trace.is_patch_T]]
  code_T = np.zeros(len(trace.text_T), np.int64)
  code_T[trace.is_patch_T] = codes
  return {
    "side": meta.picture_size // meta.patch_size,
    "shown": [
      {"name": name, "picture": uri, "patches": int(count)}
      for name, uri, count in shown
    ],
    "codes": pack_array(code_T),
    "textures": [
      {"name": name} | pack_levels(x, float(x.max())) for name, x in found.items()
    ],
  }


def _to_uri(pixels_YXC: np.ndarray) -> str:
  kind = "png" if len(pixels_YXC) <= _LARGEST_PNG else "jpeg"
  content = io.BytesIO()
  Image.fromarray(pixels_YXC).save(content, kind, quality=90)
  return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
