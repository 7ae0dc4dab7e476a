"""What a report's page carries; how it behaves is `browser_report.py`'s."""

import base64
import gzip
import json
import re

import numpy as np
import pytest

from mhmoe_jax.analysis.report import glance, packing, report
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace


def unpack(packed):
  content = gzip.decompress(base64.b64decode(packed["data"]))
  return np.frombuffer(content, f"<{packed['kind']}")


def one_layer(experts, **fields):
  """A trace of one layer, head and choice."""
  return make_trace(np.reshape(experts, (-1, 1, 1, 1)), 4, **fields)


@pytest.mark.parametrize(("most", "kind"), [(255, "u1"), (256, "u2")])
def test_arrays_come_back(most, kind):
  packed = packing.pack_array(np.array([0, 1, most]))
  assert packed["kind"] == kind
  np.testing.assert_array_equal(unpack(packed), [0, 1, most])


def test_levels_are_exact_to_half_a_step():
  values = np.linspace(0, 3, 100)
  packed = packing.pack_levels(values, 3)
  error = np.abs(unpack(packed) * packed["unit"] - values)
  assert error.max() <= 3 / packing.LEVELS / 2 + 1e-9


def test_a_character_belongs_to_its_first_byte():
  """Units as JavaScript counts them: one of "é", two of the face, none of a rest."""
  text = "é\N{GRINNING FACE}a"
  size = len(text.encode())
  trace = one_layer(np.zeros(size, int), documents=[Document("", text)])
  packed = packing.pack_text(trace)
  np.testing.assert_array_equal(unpack(packed["units"]), [1, 0, 2, 0, 0, 0, 1])
  assert packed["documents"] == [{"label": "", "text": text, "tokens": size}]


def test_labels_share_the_room():
  documents = [Document("de", "abcdef"), Document("en", "gh"), Document("de", "ij")]
  trace = one_layer(np.zeros(10, int), documents=documents)
  shown = packing.choose_tokens(trace, 5)
  assert [d.label for d in shown.documents] == ["de", "en"]
  np.testing.assert_array_equal(shown.document_T, [0, 0, 0, 1, 1])
  assert packing.choose_tokens(trace, 10) is trace


def test_at_a_glance_by_hand():
  """Three of four experts have work, one of them half of it."""
  rows = {row.name: row for row in glance.at_a_glance([one_layer([0, 0, 1, 2])])}
  assert rows["active experts"].values == ["75% (3 of 4)"]
  assert rows["active experts"].healthy == [False]
  assert rows["busiest expert"].values == ["2.00 (block 1, expert 0)"]
  assert "agreement of heads" not in rows  # of one head


def test_the_page_holds_its_data_and_loads_nothing():
  hostile = "</script><script>alert(1)</script>"
  document = Document("en", hostile)
  trace = one_layer(np.arange(len(hostile)) % 4, documents=[document])
  page = report.make_report([trace])
  data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
  found = json.loads(data)
  assert found["texts"][0]["documents"][0]["text"] == hostile
  experts = unpack(found["models"][0]["layers"][0]["expert"])
  np.testing.assert_array_equal(experts, np.arange(len(hostile)) % 4)
  assert "default-src 'none'" in page
  assert not re.search(r'<(script|link|img)[^>]+(src|href)="http', page)


def test_models_that_read_the_same_share_the_text():
  trace = one_layer([0, 1, 2, 3])
  other = one_layer([3, 2, 1, 0])
  elsewhere = one_layer([0, 1], documents=[Document("en", "zz")])
  same = report.make_data([trace, other], 100)
  assert (len(same["texts"]), same["models"][1]["text"]) == (1, 0)
  assert len(report.make_data([trace, elsewhere], 100)["texts"]) == 2


def test_earlier_checkpoints_are_drawn_over_training():
  late, early = one_layer([0, 1, 2, 3], step=2), one_layer([0, 0, 0, 0], step=1)
  found = report.make_data([late], 100, [early])
  assert len(found["models"]) == 1
  assert "training" in {chart["section"] for chart in found["charts"]}
  elsewhere = one_layer([0, 1], documents=[Document("en", "zz")], step=1)
  with pytest.raises(ValueError, match="of one text"):
    report.make_report([late], earlier=[elsewhere])


def test_every_chart_has_its_section():
  first, other = one_layer([0, 1, 2, 3], step=2), one_layer([0, 1, 2, 3], step=1)
  page = report.make_report([first, other], earlier=[other])
  data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
  sections = set(re.findall(r'<section id="(\w+)"', page))
  assert {chart["section"] for chart in data["charts"]} <= sections
