"""Figures of pictures: their patches by expert, and what goes with texture."""

from etils import epath
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
import numpy as np

from mhmoe_jax.analysis.figures.tokens import list_colours
from mhmoe_jax.analysis.statistics.diversity import distinct_experts
from mhmoe_jax.analysis.statistics.texture import measure_texture
from mhmoe_jax.analysis.traces.trace import Trace

_MOST_HEADS = 4


def draw_pictures(
  trace: Trace, path: str, *, layer: int = -1, count: int = 6, first: int = 0
) -> Figure:
  """Pictures, one a row: original, texture, distinct experts, and experts by head.

  2404.15045 Figs. 1b, 8 and 10 show the second and the third, averaged over layers.

  Args:
    trace: with pictures.
    path: of the PNG, local or gs://.
    layer: n, of the experts by head; the last.
    count: pictures, fewer at the trace's end.
    first: number of the first picture.

  Raises:
    ValueError: the trace has no pictures there.
  """
  if trace.pictures is None or not 0 <= first < len(trace.documents):
    number = 0 if trace.pictures is None else len(trace.documents)
    raise ValueError(f"first must be in [0, {number}), got first={first}.")
  meta = trace.meta
  side = meta.picture_size // meta.patch_size
  shown = range(first, min(first + count, len(trace.documents)))
  patches = trace.select(trace.is_patch_T & np.isin(trace.document_T, shown))
  # The last picture may have been read in part.
  place = patches.document_T, patches.row_T, patches.column_T
  distinct_URC = np.full((len(shown), side, side), np.nan)
  distinct_URC[place] = distinct_experts(patches).mean(axis=1)
  heads = min(meta.num_heads, _MOST_HEADS)
  expert_HURC = np.full((heads, *distinct_URC.shape), np.nan)
  for h in range(heads):
    expert_HURC[h][place] = patches.expert_TNHK[:, layer, h, 0]
  texture = measure_texture(patches.pictures.pixels_UYXC, meta.patch_size)

  columns = 3 + heads
  figure = Figure((1.5 * columns + 1.2, 1.45 * len(shown) + 0.7), layout="constrained")
  axes = figure.subplots(len(shown), columns, squeeze=False)
  colours = ListedColormap(list_colours(meta.num_experts))
  bounds = {"vmin": -0.5, "vmax": meta.num_experts - 0.5}
  low, high = np.nanmin(distinct_URC), np.nanmax(distinct_URC)
  for u, row in enumerate(axes):
    row[0].imshow(patches.pictures.pixels_UYXC[u])
    row[1].imshow(texture.detrended_URC[u], cmap="gray")
    shades = row[2].imshow(distinct_URC[u], cmap="viridis", vmin=low, vmax=high)
    for h in range(heads):
      row[3 + h].imshow(expert_HURC[h, u], cmap=colours, **bounds)
  titles = ["", "deviation\nfrom a plane", "distinct experts,\nmean of blocks"]
  block = meta.layers[layer]
  titles += [f"block {block},\nhead {h + 1}" for h in range(heads)]
  for axis, title in zip(axes[0], titles, strict=True):
    axis.set_title(title, fontsize="small")
  for axis in axes.ravel():
    axis.set_xticks([])
    axis.set_yticks([])
  figure.colorbar(shades, ax=axes[:, 2], shrink=0.8)
  with epath.Path(path).open("wb") as file:
    figure.savefig(file, format="png", dpi=150)
  return figure
