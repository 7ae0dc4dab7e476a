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


def test_the_size_of_a_paragraph_counts_its_line_ends(tmp_path, monkeypatch):
  path = tmp_path / "a.txt"
  path.write_text("1\n" * 6)
  for limit, paragraph in ((3, "1\n1"), (4, "1\n1"), (5, "1\n1\n1")):
    monkeypatch.setattr(documents, "_MAX_PARAGRAPH_BYTES", limit)
    assert {d.text for d in read(path)} == {paragraph}


def test_a_line_of_several_spans_loses_and_gains_nothing(tmp_path):
  path = tmp_path / "a.txt"
  giant = "xyzé" * 200_000
  path.write_text(f"one\n{giant}\ntwo\n\nthree\r\n", encoding="utf-8")
  for unit, ends in (("paragraph", "two"), ("line", "two")):
    texts = [d.text for d in read(path, unit)]
    assert texts[-1] == "three\r"
    assert max(len(text.encode()) for text in texts) <= 2**18 + 2**16
    assert "".join(texts).replace("\n", "") == f"one{giant}{ends}three\r"
  assert sum(text.count("\n") for text in texts) == 0  # Of lines; none was added.


def test_records(tmp_path):
  path = tmp_path / "web.jsonl"
  texts = ["a\n\nb", "c"]
  path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
  assert read(path) == [Document("web", text) for text in texts]


def test_unknown_unit(tmp_path):
  with pytest.raises(ValueError, match=r"^unit must be one of paragraph, line, got"):
    read(tmp_path / "a.txt", "word")
