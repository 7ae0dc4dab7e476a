"""What a page unpacks is what was packed."""

import base64
import gzip
import json

import numpy as np
import pytest

from mhmoe_jax.analysis import packing
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace


def unpack(packed):
  content = gzip.decompress(base64.b64decode(packed["data"]))
  return np.frombuffer(content, f"<{packed['kind']}")


def test_arrays_take_the_bytes_they_need():
  for top, kind in ((255, "u1"), (256, "u2")):
    values = np.array([[0, 1], [2, top]])
    packed = packing.pack_array(values)
    assert packed["kind"] == kind
    assert unpack(packed).tolist() == [0, 1, 2, top]
  assert unpack(packing.pack_array(np.array([], int))).size == 0


def test_levels_are_as_near_as_256_can_be():
  values = np.linspace(0, 3, 1001)
  packed = packing.pack_levels(values, 3.0)
  read = unpack(packed) * packed["unit"]
  assert np.abs(read - values).max() <= 3 / 255 / 2 + 1e-12
  assert unpack(packing.pack_levels(np.zeros(3), 0.0)).tolist() == [0, 0, 0]


def test_a_character_belongs_to_the_token_of_its_first_byte():
  # One, two and four bytes; the last is two code units of JavaScript.
  documents = [Document("en", "a\u00e9\U0001f642"), Document("de", "b")]
  packed = packing.pack_text(make_trace(np.zeros((8, 1, 1, 1)), 1, documents))
  assert unpack(packed["units"]).tolist() == [1, 1, 0, 2, 0, 0, 0, 1]
  assert unpack(packed["bytes"]).tolist() == [1] * 8
  assert packed["documents"] == [
    {"label": "en", "text": "a\u00e9\U0001f642", "tokens": 7},
    {"label": "de", "text": "b", "tokens": 1},
  ]


def test_a_document_that_was_cut_has_the_text_of_its_tokens():
  trace = make_trace(np.zeros((2, 1, 1, 1)), 1, [Document("en", "a\u00e9bc")])
  packed = packing.pack_text(trace)
  # The second byte of the second character is not there, the character is.
  assert packed["documents"] == [{"label": "en", "text": "a\u00e9", "tokens": 2}]


def test_routing():
  expert_TNHK = np.arange(2 * 2 * 1 * 2).reshape(2, 2, 1, 2)
  dropped_TNHK = np.zeros((2, 2, 1, 2), bool)
  dropped_TNHK[1, 1, 0, 1] = True
  loss_T = np.array([2.0, np.nan], np.float32)
  trace = make_trace(expert_TNHK, 8, dropped_TNHK=dropped_TNHK, loss_T=loss_T)
  packed = packing.pack_routing(trace)
  first, second = packed["layers"]
  assert unpack(first["expert"]).tolist() == [0, 1, 4, 5]
  assert unpack(second["expert"]).tolist() == [2, 3, 6, 7]
  assert (unpack(first["weight"]) * first["weight"]["unit"]).tolist() == [0.5] * 4
  assert first["dropped"] is None
  assert unpack(second["dropped"]).tolist() == [0, 0, 0, 1]
  # The first token of a text has no loss.
  assert (unpack(packed["loss"]) * packed["loss"]["unit"]).tolist() == [2.0, 0.0]


def test_rare_labels_keep_their_tokens():
  documents = [Document("en", "abcdef"), Document("sw", "xy"), Document("en", "gh")]
  trace = make_trace(np.arange(10).reshape(10, 1, 1, 1), 10, documents)
  assert packing.choose_tokens(trace, 10) is trace
  kept = packing.choose_tokens(trace, 5)
  assert "".join(kept.text_T) == "abcxy"
  assert kept.document_T.tolist() == [0, 0, 0, 1, 1]
  assert kept.expert_TNHK.ravel().tolist() == [0, 1, 2, 6, 7]
  assert [document.label for document in kept.documents] == ["en", "sw"]


def test_no_text_ends_the_script():
  value = {"text": "</script><!--<script>", "\u00e9": [1.5, None]}
  script = packing.to_script(value)
  assert "<" not in script
  assert json.loads(script) == value
  with pytest.raises(ValueError, match="JSON"):
    packing.to_script(float("nan"))
