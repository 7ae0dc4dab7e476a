"""Texts that were cut, choices and losses; the rest is in test_report.py."""

import base64
import gzip
import json

import numpy as np
import pytest

from mhmoe_jax.analysis.report import packing
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace


def unpack(packed):
  content = gzip.decompress(base64.b64decode(packed["data"]))
  return np.frombuffer(content, f"<{packed['kind']}")


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


def test_no_text_ends_the_script():
  value = {"text": "</script><!--<script>", "\u00e9": [1.5, None]}
  script = packing.to_script(value)
  assert "<" not in script
  assert json.loads(script) == value
  with pytest.raises(ValueError, match="JSON"):
    packing.to_script(float("nan"))
