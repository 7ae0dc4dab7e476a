"""A corpus of pictures that needs no files: coloured, textured shapes on plain ground.

Picture `index` of a split follows from the seed alone, at any size. What is in it is
known: `Scene` lists the shapes, `texture_map` says which patches have a texture, and
`sentences.py` says, asks and claims things about it. Numbers are drawn with numpy's
RandomState, whose values numpy promises never to change.
"""

from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLORS = {
  "red": (214, 39, 40),
  "orange": (255, 140, 20),
  "yellow": (235, 205, 40),
  "green": (44, 150, 60),
  "blue": (40, 90, 200),
  "purple": (140, 70, 180),
  "pink": (240, 130, 190),
  "brown": (125, 80, 50),
}
SIZES = {"small": 0.1, "large": 0.14}  # half the width, of a picture of width 1
TEXTURES = ("flat", "striped", "dotted", "noisy")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
GROUNDS = ((245, 245, 240), (225, 232, 240), (238, 228, 214), (210, 214, 210))
MAX_SHAPES = 4
_SPLITS = {"train": 0, "validation": 1}
_CELLS = len(ROWS) * len(COLUMNS)


class Shape(NamedTuple):
  """One thing in a picture; lengths are shares of the picture's width."""

  shape: str
  color: str
  size: str
  texture: str
  row: int  # of the cell it is in, 0 at the top
  column: int  # 0 at the left
  x: float  # of its middle, to the right
  y: float  # downwards


class Scene(NamedTuple):
  """What a picture shows."""

  shapes: tuple[Shape, ...]
  ground: int  # in GROUNDS
  noise_seed: int  # of what "noisy" shapes are filled with
  angle: float  # of stripes, radians
  period: float  # of stripes and dots, a share of the width


def random_state(*numbers: int) -> np.random.RandomState:
  """Randomness that follows from numbers in [0, 2**32) and from nothing else."""
  return np.random.RandomState(list(numbers))


def make_scene(seed: int, split: str, index: int) -> Scene:
  """The scene of a picture: 1 to `MAX_SHAPES` shapes in cells of a 3 x 3 grid.

  Args:
    seed: of the corpus, in [0, 2**32).
    split: "train" or "validation".
    index: number of the picture in its split, in [0, 2**32).
  """
  draw = random_state(seed, _SPLITS[split], index)
  cells = draw.permutation(_CELLS)[: draw.randint(1, MAX_SHAPES + 1)]
  shapes = []
  for cell in cells:
    row, column = divmod(int(cell), len(COLUMNS))
    shift_x, shift_y = draw.uniform(-0.015, 0.015, 2)
    shapes.append(
      Shape(
        shape=SHAPES[draw.randint(len(SHAPES))],
        color=list(COLORS)[draw.randint(len(COLORS))],
        size=list(SIZES)[draw.randint(len(SIZES))],
        texture=TEXTURES[draw.randint(len(TEXTURES))],
        row=row,
        column=column,
        x=(column + 0.5) / len(COLUMNS) + shift_x,
        y=(row + 0.5) / len(ROWS) + shift_y,
      )
    )
  return Scene(
    shapes=tuple(shapes),
    ground=draw.randint(len(GROUNDS)),
    noise_seed=draw.randint(2**31),
    angle=draw.uniform(0, np.pi),
    period=draw.uniform(0.06, 0.09),
  )


def render(scene: Scene, size: int) -> np.ndarray:
  """The picture of a scene, uint8 (size, size, 3)."""
  picture = np.empty((size, size, 3))
  picture[:] = GROUNDS[scene.ground]
  for shape, cover in zip(scene.shapes, covers(scene, size), strict=True):
    bright, dark = np.array(COLORS[shape.color]), 0.35 * np.array(COLORS[shape.color])
    ink = _texture(shape, scene, size)[..., None]
    inside = cover[..., None]
    picture += inside * (ink * bright + (1 - ink) * dark - picture)
  return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def covers(scene: Scene, size: int) -> list[np.ndarray]:
  """For each shape how much of every pixel it covers, (size, size) in [0, 1]."""
  at = (np.arange(size) + 0.5) / size
  found = []
  for shape in scene.shapes:
    distance = _distance(shape, at[None] - shape.x, at[:, None] - shape.y)
    found.append(np.clip(0.5 - distance * size, 0, 1))
  return found


def texture_map(scene: Scene, size: int, patch_size: int) -> np.ndarray:
  """The share of every patch that is covered by something with a texture.

  Args:
    scene: of the picture.
    size: its width and height, pixels.
    patch_size: width and height of a patch; divides `size`.

  Returns:
    (rows, columns) in [0, 1].
  """
  textured = np.zeros((size, size))
  for shape, cover in zip(scene.shapes, covers(scene, size), strict=True):
    if shape.texture != "flat":
      textured = np.maximum(textured, cover)
  patches = size // patch_size
  return textured.reshape(patches, patch_size, patches, patch_size).mean(axis=(1, 3))


def _distance(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """How far points are outside a shape, negative inside; exact near its edge."""
  r = SIZES[shape.size]
  ax, ay = abs(x), abs(y)
  if shape.shape == "circle":
    return np.hypot(x, y) - r
  if shape.shape == "ring":
    return abs(np.hypot(x, y) - 0.72 * r) - 0.28 * r
  if shape.shape == "square":
    return np.maximum(ax, ay) - 0.9 * r
  if shape.shape == "diamond":
    return (ax + ay - 1.05 * r) / np.sqrt(2)
  if shape.shape == "cross":
    bars = (ax - r, ay - 0.36 * r), (ay - r, ax - 0.36 * r)
    return np.minimum(np.maximum(*bars[0]), np.maximum(*bars[1]))
  # A triangle with its point upwards.
  return np.maximum((2 * ax - y - r) / np.sqrt(5), y - 0.8 * r)


def _texture(shape: Shape, scene: Scene, size: int) -> np.ndarray:
  """How much of a pixel is of the bright and not the dark colour, in [0, 1]."""
  if shape.texture == "flat":
    return np.ones((size, size))
  if shape.texture == "noisy":
    return random_state(scene.noise_seed, size).uniform(0, 1, (size, size))
  at = (np.arange(size) + 0.5) / size
  period = max(scene.period, 4 / size)  # What is finer than the pixels would be grey.
  if shape.texture == "striped":
    along = np.cos(scene.angle) * at[None] + np.sin(scene.angle) * at[:, None]
    wave = np.cos(2 * np.pi * along / period)
  else:
    waves = np.cos(2 * np.pi * at / period)
    wave = 0.6 - waves[None] - waves[:, None]
  return np.clip(0.5 + wave * 2, 0, 1)
