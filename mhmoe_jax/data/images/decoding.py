"""A PNG or JPEG to an RGB array, as people expect it, or one line that says no.

Grey, palette and CMYK pictures become RGB, transparent ones are laid on white, 16 bits
become 8, and a camera's orientation is applied.
"""

import io
import warnings

from etils import epath
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64 * 2**20

# What Pillow says of large pictures and of damaged notes of cameras names no file.
# Once: `warnings.catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read(path: str) -> np.ndarray:
  """Reads and decodes a file; ValueError names it if it is not there, or no picture."""
  try:
    content = epath.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f"cannot read {path}: {error.strerror}.") from None
  return decode(content, path)


def decode(content: bytes, name: str) -> np.ndarray:
  """Decodes a picture.

  Args:
    content: of the file.
    name: of the file, for errors.

  Returns:
    uint8 (height, width, 3).

  Raises:
    ValueError: it is not a PNG or JPEG, is damaged, animated or larger than
      `MAX_PIXELS`; names the file.
  """
  if not content:
    raise ValueError(f"a picture must not be empty, got 0 bytes in {name}.")
  try:
    with Image.open(io.BytesIO(content)) as picture:
      if picture.format not in ("PNG", "JPEG", "MPO"):
        raise ValueError(
          f"a picture must be PNG or JPEG, got {picture.format} in {name}."
        )
      if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(
          f"a picture must have at most {MAX_PIXELS:,} pixels, got "
          f"{picture.width} x {picture.height} in {name}."
        )
      # An MPO is a JPEG with another view or a preview behind it, as phones write it.
      if picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1:
        raise ValueError(
          f"a picture must not be animated, got {picture.n_frames} frames in {name}."
        )
      return np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))
  except UnidentifiedImageError:
    raise ValueError(f"a picture must be PNG or JPEG, got neither in {name}.") from None
  except (Image.DecompressionBombError, OSError, SyntaxError) as e:
    raise ValueError(f"a picture must be readable, got {e} in {name}.") from None


def _to_rgb(picture: Image.Image) -> Image.Image:
  if picture.mode.startswith("I"):  # 16-bit grey, in 16 bits or in 32
    grey = np.asarray(picture, np.uint32) >> 8
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
  if picture.has_transparency_data:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
  return picture.convert("RGB")
