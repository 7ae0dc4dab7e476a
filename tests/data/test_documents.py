"""Records, paragraphs and lines."""

import json

import pytest

from mhmoe_jax.data import documents
from mhmoe_jax.data.documents import Document, iterate_documents


def read(path, unit="paragraph"):
  return list(iterate_documents([str(path)], unit, "text"))


def test_paragraphs_and_lines(tmp_path):
  path = tmp_path / "de.txt"
  path.write_text("\none\n two\n\n  \nthrée\n", encoding="utf-8")
  assert read(path) == [Document("de", "one\n two"), Document("de", "thrée")]
  assert [d.text for d in read(path, "line")] == ["one", " two", "thrée"]


def test_a_long_paragraph_is_cut_at_a_line(tmp_path, monkeypatch):
  monkeypatch.setattr(documents, "_MAX_PARAGRAPH_BYTES", 10)
  path = tmp_path / "a.txt"
  path.write_text("1234\n1234\n1234\n\nx")
  assert [d.text for d in read(path)] == ["1234\n1234", "1234", "x"]


def test_records(tmp_path):
  path = tmp_path / "web.jsonl"
  texts = ["a\n\nb", "c"]
  path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
  assert read(path) == [Document("web", text) for text in texts]


def test_unknown_unit(tmp_path):
  with pytest.raises(ValueError, match=r"^unit must be one of paragraph, line, got"):
    read(tmp_path / "a.txt", "word")
