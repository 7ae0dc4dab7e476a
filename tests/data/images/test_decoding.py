"""Pictures as people have them: converted where one would expect it, else named."""

import io

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.images import decoding
from mhmoe_jax.data.images.decoding import decode


def encode(picture, kind="PNG", **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def one_pixel(picture, **options):
  return decode(encode(picture, **options), "x.png")[0, 0].tolist()


def test_colours_as_they_are():
  assert one_pixel(Image.new("RGB", (3, 2), (10, 20, 30))) == [10, 20, 30]
  assert decode(encode(Image.new("RGB", (3, 2))), "x.png").shape == (2, 3, 3)
  assert decode(encode(Image.new("RGB", (3, 2))), "x.png").dtype == np.uint8


@pytest.mark.parametrize(
  ("picture", "pixel"),
  [
    (Image.new("L", (2, 2), 77), [77] * 3),
    (Image.new("LA", (2, 2), (77, 255)), [77] * 3),
    (Image.new("1", (2, 2), 1), [255] * 3),
    (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), [255] * 3),
    (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), [10, 20, 30]),
    (Image.new("RGB", (2, 2), (255, 0, 0)).quantize(4), [255, 0, 0]),
    (Image.fromarray(np.full((2, 2), 0x8000, np.uint16)), [0x80] * 3),
  ],
  ids=["grey", "grey, opaque", "bits", "transparent", "opaque", "palette", "16 bits"],
)
def test_other_modes_become_rgb(picture, pixel):
  assert one_pixel(picture) == pixel


def test_cmyk_and_the_orientation_of_a_camera():
  red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  pixel = decode(encode(red, "JPEG", quality=95), "x.jpg")[4, 4]
  assert abs(pixel.astype(int) - [255, 0, 0]).max() < 12
  turned = Image.Exif()
  turned[0x0112] = 6  # to be turned a quarter to the right
  picture = Image.new("RGB", (16, 8))
  assert decode(encode(picture, "JPEG", exif=turned), "x.jpg").shape == (16, 8, 3)


def test_the_first_of_several_in_a_jpeg():
  """Phones put a preview or another view behind a picture."""
  first, second = (Image.new("RGB", (16, 8), c) for c in ("white", "black"))
  content = encode(first, "MPO", save_all=True, append_images=[second])
  found = decode(content, "x.jpg")
  assert found.shape == (8, 16, 3)
  assert found.min() == 255


NOISE = Image.fromarray(
  np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
)


def half(content):
  return content[: len(content) // 2]


def animated():
  frames = [Image.new("RGB", (2, 2), (i, 0, 0)) for i in range(3)]
  return encode(frames[0], save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "a picture must not be empty, got 0 bytes in x.png."),
    (b"hello", "a picture must be PNG or JPEG, got neither in x.png."),
    (half(encode(NOISE)), "a picture must be readable, got"),
    (half(encode(NOISE, "JPEG")), "a picture must be readable"),
    (encode(Image.new("RGB", (2, 2)), "GIF"), "must be PNG or JPEG, got GIF in x.png."),
    (animated(), "a picture must not be animated, got 3 frames in x.png."),
  ],
  ids=["empty", "text", "half a PNG", "half a JPEG", "GIF", "animated"],
)
def test_what_cannot_be_used_is_named(content, message):
  with pytest.raises(ValueError) as caught:
    decode(content, "x.png")
  assert message in str(caught.value)
  assert "x.png" in str(caught.value)
  assert "\n" not in str(caught.value)


def test_huge_pictures_are_refused_unread(monkeypatch):
  monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
  message = "at most 100 pixels, got 20 x 10 in big.png"
  with pytest.raises(ValueError, match=message):
    decode(encode(Image.new("RGB", (20, 10))), "big.png")
  monkeypatch.setattr(decoding, "MAX_PIXELS", 200)
  decode(encode(Image.new("RGB", (20, 10))), "big.png")
