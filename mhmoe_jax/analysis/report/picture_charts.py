"""Charts of traces with pictures: by place, by texture, and by modality."""

from collections.abc import Sequence

import numpy as np

from mhmoe_jax.analysis.report.vega import Chart, columns_of, grid, heat, join, lines
from mhmoe_jax.analysis.statistics import diversity
from mhmoe_jax.analysis.statistics.modality import measure_sharing
from mhmoe_jax.analysis.statistics.texture import measure_texture, sort_by_texture
from mhmoe_jax.analysis.traces.trace import Trace


def make_charts(titles: Sequence[str], traces: Sequence[Trace]) -> list[Chart]:
  """Every chart of the pictures; each trace is that of one pool of experts."""
  shown = [
    (model, title, trace)
    for model, (title, trace) in enumerate(zip(titles, traces, strict=True))
    if trace.is_patch_T.any()
  ]
  charts = _textures(shown) if shown else []
  for model, _, trace in shown:
    charts += _places(model, trace) + _modalities(model, trace)
  return charts


def _textures(shown) -> list[Chart]:
  parts = []
  for title, (texture_T, distinct_TN, layers) in (
    (title, _by_patch(trace)) for _, title, trace in shown
  ):
    for part_T in sort_by_texture(texture_T):
      parts.append(
        columns_of(
          **{
            "texture": texture_T[part_T].mean(),
            "distinct experts": distinct_TN[part_T].mean(axis=0),
            "line": np.array([f"{title}, block {n}" for n in layers]),
          }
        )
      )
  says = (
    "Distinct experts of patches, from the flattest tenth to the one with the most "
    "texture: grey levels of deviation from a plane, so that shading is none. The "
    "paper says that the lines rise. They may do so without training, too."
  )
  spec = lines("texture", "distinct experts", "line", zero=False)
  return [Chart("words", "Distinct experts by texture", says, join(parts), spec)]


def _by_patch(trace: Trace):
  """Texture, and distinct experts in each block, of every patch."""
  patches = trace.select(trace.is_patch_T)
  texture = measure_texture(patches.pictures.pixels_UYXC, trace.meta.patch_size)
  texture_T = texture.detrended_URC[patches.document_T, patches.row_T, patches.column_T]
  return texture_T, diversity.distinct_experts(patches), trace.meta.layers


def _places(model: int, trace: Trace) -> list[Chart]:
  patches = trace.select(trace.is_patch_T)
  side = trace.meta.picture_size // trace.meta.patch_size
  place_T = patches.row_T.astype(np.int64) * side + patches.column_T
  distinct_TN = diversity.distinct_experts(patches)
  total_NP = np.stack([np.bincount(place_T, x_T, side * side) for x_T in distinct_TN.T])
  count_P = np.bincount(place_T, minlength=side * side)
  mean_NRC = (total_NP / np.maximum(count_P, 1)).reshape(-1, side, side)
  names = ("block", "row", "column", "distinct experts")
  bounds = float(mean_NRC.min()), float(mean_NRC.max() + 1e-9)
  return [
    Chart(
      "positions",
      "Distinct experts by place in the picture",
      "Mean over pictures. Healthy: no place stands out. Where one does, what is said "
      "of texture may be said of places.",
      columns_of(**grid(names, mean_NRC, block=trace.meta.layers)),
      heat("column", "row", "distinct experts", bounds),
      model=model,
      pick="block",
    )
  ]


def _modalities(model: int, trace: Trace) -> list[Chart]:
  made = measure_sharing(trace)
  if made is None:
    return []
  blocks, E = trace.meta.layers, trace.meta.num_experts
  load_NYE = made.load_YNE.swapaxes(0, 1) * E
  facts = "; ".join(
    f"block {n} shares {overlap:.0%} of its load, {both:.0%} of its experts serve "
    f"both, an expert tells {bits:.2f} bits"
    for n, overlap, both, bits in zip(
      blocks, made.overlap_N, made.both_N, made.information_N, strict=True
    )
  )
  labels = {"block": blocks, "modality": ("patches", "words")}
  bits = made.head_information_NH
  heads = {"block": blocks, "head": range(1, bits.shape[1] + 1)}
  return [
    Chart(
      "labels",
      "Experts by modality",
      "Where patches and words go in the pool that they share; 1.0 is an even share. "
      f"Rows that look alike: experts do not tell them apart. {facts}.",
      columns_of(**grid(("block", "modality", "expert", "load"), load_NYE, **labels)),
      heat("expert", "modality", "load", (0, max(2.0, float(load_NYE.max())))),
      model=model,
      pick="block",
    ),
    Chart(
      "labels",
      "How well each head tells patches from words",
      "Bits that the expert of a head's sub-token tells about its modality: 0 is "
      "nothing, and no more can be told than there is to know.",
      columns_of(**grid(("block", "head", "bits"), bits, **heads)),
      heat("head", "block", "bits", (0, max(1.0, float(bits.max())))),
      model=model,
    ),
  ]
