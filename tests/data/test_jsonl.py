"""JSONL: what is read, and what is said about a line that cannot be."""

import json

import pytest

from mhmoe_jax.data import jsonl
from mhmoe_jax.data.spans import Span, cut_spans


def test_documents(tmp_path, nasty):
  path = str(tmp_path / "a.jsonl")
  documents = [nasty, "", "plain", nasty[::-1]]
  with open(path, "w", encoding="utf-8", newline="") as file:
    for index, document in enumerate(documents):
      record = {"n": index, "text": document}
      file.write(json.dumps(record, ensure_ascii=index % 2 == 0) + "\r\n\n")
  for least in (1, 7, 1000):
    read = [
      document
      for span in cut_spans([path], least)
      for document in jsonl.read_documents(span, "text")
    ]
    assert read == [document.encode() for document in documents]


def test_a_mark_blank_lines_and_long_records(tmp_path):
  path = str(tmp_path / "a.jsonl")
  documents = ["é" * 200_000, "b", "c" * 70_000]
  lines = [json.dumps({"text": x}, ensure_ascii=False) for x in documents]
  with open(path, "w", encoding="utf-8-sig") as file:
    file.write("\n \n".join(lines))  # without a last line end
  for least in (1, 40):
    spans = cut_spans([path], least)
    read = [x.decode() for span in spans for x in jsonl.read_documents(span, "text")]
    assert read == documents


@pytest.mark.parametrize(
  ("line", "problem"),
  [
    ('{"text": "a"', "\"Expecting ',' delimiter\" at column 13"),
    ('["a"]', "a list"),
    ('{"text": {"body": "a"}}', "a dict"),
    ("[" * 100_000, "lists or objects nested too deep"),
    ('{"txt": "a", "id": 3}', "the fields ['id', 'txt']"),
    ('{"text": null}', "a NoneType"),
    (
      '{"text": "\\ud800"}',
      "'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not "
      "allowed",
    ),
  ],
)
def test_names_file_and_line(tmp_path, line, problem, refuses):
  path = tmp_path / "a.jsonl"
  good = '{"text": "é"}\n'
  path.write_text(good * 4 + line + "\n" + good, encoding="utf-8")
  start = 2 * len(good.encode())
  with refuses(
    f"Every line must be a JSON object with a string in 'text', got {problem} in line "
    f"5 of {path}."
  ):
    jsonl.read_documents(Span(str(path), start, path.stat().st_size), "text")
