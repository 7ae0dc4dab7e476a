"""Numbers that PyTorch computed, and the inputs it had; `make.py` makes them anew."""

import json
import pathlib

import numpy as np

_PATH = pathlib.Path(__file__).with_name("golden.json")


def wave(start: float, *shape: int) -> np.ndarray:
  """An input that both sides write down alike: sin(start), sin(start + 0.7), ..."""
  return np.sin(start + 0.7 * np.arange(np.prod(shape))).reshape(shape)


def waves(start: float, **shapes) -> dict[str, np.ndarray]:
  """One wave each, all different."""
  return {name: wave(start + i, *s) for i, (name, s) in enumerate(shapes.items())}


def load(name: str) -> dict[str, np.ndarray]:
  """The arrays of one entry."""
  return {k: np.array(v) for k, v in json.loads(_PATH.read_text())[name].items()}


def save(entries: dict[str, dict[str, np.ndarray]]) -> None:
  """Writes all entries, an array a line."""
  lines = []
  for name, arrays in entries.items():
    rows = [
      f'  "{key}": {json.dumps(_rounded(value).tolist())}'
      for key, value in arrays.items()
    ]
    lines.append(f'"{name}": {{\n' + ",\n".join(rows) + "\n}")
  _PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rounded(x: np.ndarray) -> np.ndarray:
  return np.array([float(f"{v:.8g}") for v in x.reshape(-1)]).reshape(x.shape)
