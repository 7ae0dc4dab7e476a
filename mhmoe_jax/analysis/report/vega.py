"""Charts as Vega-Lite specifications; pages draw them.

A chart carries its numbers as columns, so that they can also be read as a table.
Colours come from the page, which has a light and a dark set; nothing is told by colour
alone: lines of different models are dashed differently, cells tell their number.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chart:
  """A figure of a page."""

  section: str  # that it belongs to
  title: str
  says: str  # what it shows, and what a healthy router looks like in it
  columns: dict[str, list]  # of equal length
  spec: dict[str, Any]  # Vega-Lite, without data
  model: int | None = None  # whose it is; None: of all
  pool: str | None = None  # whose experts it is of, where a model has several pools
  pick: str | None = None  # column of which one value is shown at a time


def columns_of(**arrays) -> dict[str, list]:
  """Columns from arrays of one shape, flattened; numbers get four digits."""
  shape = np.broadcast_shapes(*(np.shape(x) for x in arrays.values()))
  return {
    name: [_short(v) for v in np.broadcast_to(x, shape).ravel().tolist()]
    for name, x in arrays.items()
  }


def join(parts: Sequence[dict[str, list]]) -> dict[str, list]:
  """Columns of the same names, one part behind the other."""
  return {name: [v for part in parts for v in part[name]] for name in parts[0]}


def _short(value):
  if not isinstance(value, float):
    return value
  return float(f"{value:.4g}") if np.isfinite(value) else None


def grid(names: Sequence[str], array: np.ndarray, **labels: Sequence) -> dict[str, Any]:
  """Keyword arguments of `columns_of` for an array: its places by name, and itself.

  Args:
    names: of the dimensions, and last of the value.
    array: with len(names) - 1 dimensions.
    **labels: what stands in place of 0, 1, 2 ... along a dimension.
  """
  made: dict[str, Any] = {}
  for axis, name in enumerate(names[:-1]):
    values = np.array(labels.get(name, range(array.shape[axis])))
    shape = [1] * array.ndim
    shape[axis] = -1
    made[name] = values.reshape(shape)
  return made | {names[-1]: array}


def heat(
  x: str,
  y: str,
  value: str,
  domain: tuple[float, float],
  *,
  middle: float | None = None,
  cross: str | None = None,
  numbers: bool = False,
) -> dict[str, Any]:
  """Cells of a grid.

  Args:
    x: column of the dimension that goes across.
    y: of that which goes down.
    value: column of the numbers.
    domain: the lowest and the highest of the colours.
    middle: the neutral number of a scale with two ends.
    cross: of which cells are crossed out, an expression of Vega.
    numbers: whether they stand in the cells.
  """
  scale = {"domain": list(domain), "clamp": True}
  if middle is not None:
    scale["domainMid"] = middle
  axis = {"labelOverlap": True, "labelAngle": 0, "ticks": False, "domain": False}
  place = {
    "x": {"field": x, "type": "ordinal", "axis": axis},
    "y": {"field": y, "type": "ordinal", "axis": axis},
  }
  color = {"field": value, "type": "quantitative", "scale": scale}
  color["legend"] = {"title": None, "gradientLength": 90}
  tooltip = [
    {"field": x, "type": "ordinal"},
    {"field": y, "type": "ordinal"},
    {"field": value, "type": "quantitative", "format": ".3g"},
  ]
  cells = {"mark": "rect", "encoding": place | {"color": color, "tooltip": tooltip}}
  layers = [cells]
  text = {"mark": {"type": "text", "fontSize": 10}, "encoding": dict(place)}
  if numbers:
    text["encoding"]["text"] = {"field": value, "format": ".2f"}
    # Half-way up the scale of colours they are light enough for black.
    light = f"datum['{value}'] > {domain[0] + 0.55 * (domain[1] - domain[0])}"
    text["encoding"]["color"] = {
      "condition": {"test": light, "value": "black"},
      "value": "white",
    }
    layers.append(text)
  elif cross is not None:
    text["transform"] = [{"filter": cross}]
    text["mark"] = {
      "type": "text",
      "text": "\N{MULTIPLICATION SIGN}",
      "fontSize": 13,
      "color": "white",
    }
    layers.append(text)
  return {"layer": layers, "height": {"step": 20}}


def lines(
  x: str, y: str, series: str, *, log: bool = False, zero: bool = True
) -> dict[str, Any]:
  """A line for each value of a column."""
  return {
    "mark": {"type": "line", "point": not log, "strokeWidth": 2},
    "encoding": {
      "x": {
        "field": x,
        "type": "quantitative",
        "scale": {"type": "log"} if log else {"nice": False},
        "axis": {"labelOverlap": True},
      },
      "y": {"field": y, "type": "quantitative", "scale": {"zero": zero}},
      **_series(series, "strokeDash"),
      "tooltip": [{"field": name} for name in (series, x, y)],
    },
    "height": 180,
  }


def bars(x: str, y: str, series: str) -> dict[str, Any]:
  """Bars beside each other, one for each value of `series`."""
  return {
    "mark": {"type": "bar"},
    "encoding": {
      "x": {"field": x, "type": "ordinal", "axis": {"labelAngle": 0}, "sort": None},
      "xOffset": {"field": series, "type": "nominal", "sort": None},
      "y": {"field": y, "type": "quantitative"},
      **_series(series),
      "tooltip": [{"field": name} for name in (series, x, y)],
    },
    "height": 180,
  }


def _series(name: str, *channels: str) -> Mapping[str, Any]:
  legend = {"title": None, "orient": "top"}
  one = {"field": name, "type": "nominal", "sort": None, "legend": legend}
  return dict.fromkeys(("color", *channels), one)
