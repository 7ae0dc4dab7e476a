"""Figures of routing. Functions take plain arrays and write PNG files.

They return what they drew, so that it can be looked at. Nothing here is pyplot's, which
asks the environment for a window.
"""

from collections.abc import Mapping

from etils import epath
from matplotlib.figure import Figure
import numpy as np

from mhmoe_jax.analysis.statistics import activation
from mhmoe_jax.analysis.statistics.activation import Activation
from mhmoe_jax.analysis.statistics.diversity import Senses
from mhmoe_jax.analysis.statistics.drops import DropCost
from mhmoe_jax.analysis.statistics.heads import LabelLoad, PositionProfile
from mhmoe_jax.analysis.statistics.training import OverTraining


def draw_load(load_NHE: np.ndarray, layers: list[int], path: str) -> Figure:
  """A heat map of expert load: one panel per MoE layer, heads down, experts across.

  Args:
    load_NHE: share of each head's choices that fell on each expert.
    layers: number of the block that each of the N MoE layers is in.
    path: of the PNG, local or gs://.
  """
  N, H, E = load_NHE.shape
  size = (max(6.0, 0.45 * E + 3), N * (0.35 * H + 1.0) + 0.7)
  figure = Figure(size, layout="constrained")
  axes = figure.subplots(N, 1, squeeze=False)
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
  return _save(figure, path)


def draw_activation(models: Mapping[str, Activation], path: str) -> Figure:
  """Heat maps, layers by experts, of each model, and what is active (Figs. 1a, 5).

  Below them, left to right: share of active experts over all thresholds, in even shares
  and in choices per token, and the histogram of the loads.
  """
  columns = max(3, len(models))
  figure = Figure((4.2 * columns, 6.5), layout="constrained")
  above, below = figure.subfigures(2, 1)
  top = max(2.0, *(float(model.load_NE.max()) for model in models.values()))
  axes = above.subplots(1, len(models), squeeze=False)[0]
  for axis, (name, model) in zip(axes, models.items(), strict=True):
    image = axis.imshow(model.load_NE, vmin=0, vmax=top, aspect="auto")
    axis.set(title=name, xlabel="expert", ylabel="MoE layer")
    axis.set_yticks(range(len(model.load_NE)))
  above.colorbar(image, ax=axes, label="load, in even shares")
  by_load, by_frequency, histogram = below.subplots(1, 3)
  bins_X = np.linspace(0, top, 25)
  for name, model in models.items():
    for axis, use_NE in (
      (by_load, model.load_NE),
      (by_frequency, model.frequency_NE),
    ):
      thresholds_X = np.geomspace(1e-3, max(use_NE.max(), 1e-2), 200)
      axis.semilogx(
        thresholds_X, activation.active_curve(use_NE, thresholds_X), label=name
      )
    histogram.hist(model.load_NE.ravel(), bins_X, histtype="step", label=name)
  by_load.set(xlabel="threshold, in even shares", ylabel="share of active experts")
  by_frequency.set(xlabel="threshold, in choices per token", ylim=(0, 1.02))
  by_load.set_ylim(0, 1.02)
  histogram.set(xlabel="load, in even shares", ylabel="experts")
  by_load.legend()
  return _save(figure, path)


def draw_diversity(groups: Mapping[str, np.ndarray], title: str, path: str) -> Figure:
  """Histograms of the distinct experts of words, by group (Fig. 7)."""
  figure = Figure((6, 4), layout="constrained")
  axis = figure.subplots()
  everything = np.concatenate(list(groups.values()))
  bins_X = np.linspace(
    everything.min(), max(everything.max(), everything.min() + 1), 21
  )
  for name, diversity_W in groups.items():
    label = f"{name}, mean {diversity_W.mean():.2f}"
    axis.hist(diversity_W, bins_X, density=True, alpha=0.5, label=label)
  axis.set(xlabel="distinct experts of a token, mean over MoE layers", ylabel="density")
  axis.set_title(title, fontsize="medium")
  axis.legend()
  return _save(figure, path)


def draw_senses(senses: Mapping[str, Senses], path: str, most: int = 30) -> Figure:
  """How far the senses of words diverge, beside what chance gives."""
  words = sorted(senses, key=lambda word: senses[word].chance - senses[word].divergence)
  words = words[:most]
  figure = Figure((6, 1.5 + 0.22 * len(words)), layout="constrained")
  axis = figure.subplots()
  places = np.arange(len(words))
  axis.barh(places, [senses[word].divergence for word in words], label="senses")
  chance = [senses[word].chance for word in words]
  axis.plot(chance, places, "k|", label="shuffled senses")
  stars = (f"{word} {'*' if senses[word].p_value < 0.05 else ''}" for word in words)
  axis.set_yticks(places, list(stars))
  axis.invert_yaxis()
  axis.set_xlabel("divergence of the senses' experts, bits (*: p < 0.05)")
  axis.legend()
  return _save(figure, path)


def draw_agreement(agreement_NHH: np.ndarray, path: str) -> Figure:
  """How often two heads of a token prefer the same expert, one panel a layer."""
  return _matrices(agreement_NHH, "head", "head", "agreement of heads", path)


def draw_coactivation(lift_NEE: np.ndarray, title: str, path: str) -> Figure:
  """Lift of pairs of experts, log2: 0 is chance."""
  with np.errstate(divide="ignore"):
    log_NEE = np.log2(lift_NEE)
  return _matrices(np.clip(log_NEE, -3, 3), "expert", "expert", title, path)


def draw_labels(made: LabelLoad, path: str) -> Figure:
  """Load of experts by label, such as the language; one panel a layer."""
  E = made.load_YNE.shape[-1]
  load_NYE = made.load_YNE.swapaxes(0, 1) * E
  figure = _matrices(load_NYE, "", "expert", "load by label, in even shares", None)
  for axis, bits in zip(figure.axes, made.information_N, strict=False):
    axis.set_yticks(range(len(made.labels)), made.labels)
    axis.set_title(f"{axis.get_title()}: {bits:.3f} bits", fontsize="medium")
  return _save(figure, path)


def draw_positions(profile: PositionProfile, path: str) -> Figure:
  """Loss, entropy and diversity along the window."""
  panels = {
    "loss, nats per token": profile.loss_X[:, None],
    "router entropy, nats": profile.entropy_XN,
    "distinct experts": profile.distinct_XN,
  }
  return _multiples(profile.start_X, panels, "place in the window", path)


def draw_training(made: OverTraining, path: str) -> Figure:
  """The same numbers at several checkpoints, as small multiples."""
  panels = {
    "loss, nats per token": made.loss_X[:, None],
    "share of active experts": made.active_XN,
    "distinct experts of a token": made.distinct_XN,
    "router entropy / log E": made.entropy_XN,
    "choices as at the end": made.saturation_XN,
  }
  if np.isnan(made.loss_X).all():  # Of pictures nothing is told.
    del panels["loss, nats per token"]
  return _multiples(made.step_X, panels, "step", path)


def draw_drops(cost: DropCost, path: str) -> Figure:
  """What is dropped, and its cost, by capacity factor."""
  panels = {
    "choices dropped": cost.choices_XN,
    "tokens with a dropped sub-token": cost.some_XN,
    "tokens with all dropped": cost.all_XN,
    "extra loss, nats per token": cost.extra_X[:, None],
  }
  return _multiples(cost.factor_X, panels, "capacity factor", path)


def _matrices(x_NYX, ylabel: str, xlabel: str, title: str, path: str | None) -> Figure:
  N = len(x_NYX)
  figure = Figure((3.6 * N + 0.8, 3.6), layout="constrained")
  axes = figure.subplots(1, N, squeeze=False)
  low, high = np.nanmin(x_NYX), np.nanmax(x_NYX)
  for n, (axis, x_YX) in enumerate(zip(axes[0], x_NYX, strict=True)):
    image = axis.imshow(x_YX, vmin=low, vmax=high, aspect="auto")
    axis.set(title=f"MoE layer {n}", xlabel=xlabel, ylabel=ylabel)
    axis.locator_params(integer=True)
  figure.colorbar(image, ax=axes[0], label=title)
  return figure if path is None else _save(figure, path)


def _multiples(
  at_X, panels: Mapping[str, np.ndarray], xlabel: str, path: str
) -> Figure:
  figure = Figure((3.4 * len(panels), 3.2), layout="constrained")
  axes = figure.subplots(1, len(panels))
  for axis, (title, y_XN) in zip(axes, panels.items(), strict=True):
    for n, y_X in enumerate(y_XN.T):
      axis.plot(at_X, y_X, marker=".", label=f"MoE layer {n}")
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel(xlabel)
    if y_XN.shape[1] > 1:
      axis.legend(fontsize="small")
  return _save(figure, path)


def _save(figure: Figure, path: str) -> Figure:
  with epath.Path(path).open("wb") as file:
    figure.savefig(file, format="png", dpi=150)
  return figure
