"""Figures of routing. Functions take plain arrays and write PNG files."""

from etils import epath
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_load(load_NHE: np.ndarray, layers: list[int], path: str) -> None:
  """A heat map of expert load: one panel per MoE layer, heads down, experts across.

  Args:
    load_NHE: share of each head's choices that fell on each expert.
    layers: number of the block that each of the N MoE layers is in.
    path: of the PNG, local or gs://.
  """
  N, H, E = load_NHE.shape
  figure, axes = plt.subplots(
    N,
    1,
    figsize=(max(6.0, 0.45 * E + 3), N * (0.35 * H + 1.0) + 0.7),
    squeeze=False,
    layout="constrained",
  )
  top = max(2.0, float(load_NHE.max() * E))
  for axis, layer, load_HE in zip(axes[:, 0], layers, load_NHE, strict=True):
    image = axis.imshow(load_HE * E, vmin=0, vmax=top, cmap="viridis", aspect="auto")
    axis.set_ylabel("head")
    axis.set_yticks(range(H))
    axis.set_xticks(range(0, E, max(1, E // 16)))
    axis.set_title(f"block {layer}", loc="left", fontsize="medium")
    if E <= 16:
      for (h, e), share in np.ndenumerate(load_HE * E):
        ink = "black" if share > 0.6 * top else "white"
        axis.text(e, h, f"{share:.1f}", ha="center", va="center", color=ink, fontsize=7)
  axes[-1, 0].set_xlabel("expert")
  figure.colorbar(image, ax=axes[:, 0], label="load, in even shares")
  figure.suptitle("Where each head's sub-tokens go")
  with epath.Path(path).open("wb") as file:
    figure.savefig(file, format="png", dpi=150)
  plt.close(figure)
