"""What a report's page carries of pictures."""

import base64
import dataclasses
import gzip
import io

import numpy as np
from PIL import Image

from mhmoe_jax.analysis.report import picture_packing
from mhmoe_jax.analysis.report.report import make_data
from mhmoe_jax.analysis.statistics.texture import measure_texture
from tests.analysis.made import make_pictures

E = 4


def unpack(packed):
  content = gzip.decompress(base64.b64decode(packed["data"]))
  return np.frombuffer(content, f"<{packed['kind']}")


def some_trace(pools=("shared",)):
  expert_TNHK = np.arange(2 * 6)[:, None, None, None] % E
  return make_pictures(expert_TNHK, E, 2, "ab", pools)


def test_pictures_come_back():
  trace = some_trace()
  packed = picture_packing.pack_pictures(trace)
  assert packed["side"] == 2
  assert [one["name"] for one in packed["shown"]] == ["0.png", "1.png"]
  assert [one["patches"] for one in packed["shown"]] == [4, 4]
  for one, pixels_YXC in zip(packed["shown"], trace.pictures.pixels_UYXC, strict=True):
    kind, content = one["picture"].split(";base64,")
    assert kind == "data:image/png"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    np.testing.assert_array_equal(np.asarray(image), pixels_YXC)
  assert unpack(packed["codes"]).tolist() == [0, 1, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0]
  names = ["deviation", "deviation from a plane", "weakest step"]
  assert [one["name"] for one in packed["textures"]] == names
  deviation = unpack(packed["textures"][0]) * packed["textures"][0]["unit"]
  expected = measure_texture(trace.pictures.pixels_UYXC, 4).deviation_URC.ravel()
  np.testing.assert_allclose(deviation, expected, atol=expected.max() / 255)


def test_a_known_texture_comes_first():
  trace = some_trace()
  texture_URC = np.full((2, 2, 2), 0.25, np.float32)
  texture_URC[1] = np.nan
  pictures = trace.pictures._replace(texture_URC=texture_URC)
  packed = picture_packing.pack_pictures(dataclasses.replace(trace, pictures=pictures))
  assert packed["textures"][0]["name"] == "known"
  assert unpack(packed["textures"][0]).tolist() == [255] * 4 + [0] * 4


def test_a_large_picture_is_a_jpeg():
  uri = picture_packing._to_uri(np.zeros((224, 224, 3), np.uint8))
  assert uri.startswith("data:image/jpeg;base64,")
  assert len(uri) < 5_000


def test_experts_of_a_second_pool_are_behind_the_first():
  data = make_data([some_trace(("image", "text"))], 100)
  (model,) = data["models"]
  assert (model["experts"], model["pool_size"]) == (2 * E, E)
  assert model["pools"] == ("image", "text")
  experts = unpack(model["layers"][0]["expert"]).tolist()
  assert experts == [0, 1, 2, 3, 4, 5, 2, 3, 0, 1, 6, 7]
  assert model["loss"] is None
  assert [len(experts) for experts in model["specialities"][0]] == [2 * E]
  # Words keep their text, and patches have none.
  assert data["texts"][0]["documents"][1] | {"label": ""} == {
    "label": "",
    "text": "ab",
    "tokens": 6,
  }


def test_what_is_cut_is_cut_with_its_picture():
  data = make_data([some_trace()], 8)
  shown = data["texts"][0]["pictures"]["shown"]
  assert [one["patches"] for one in shown] == [4, 2]
