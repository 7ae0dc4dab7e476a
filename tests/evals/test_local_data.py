"""Local files, as the hub, llm-foundry and XTREME write them, and what is wrong."""

import gzip
import json
import lzma
import re

import pytest

from mhmoe_jax.evals import local_data
from tests.evals.records import FOUNDRY, HUB, write

LINE = '{"premise": "a", "hypothesis": "b", "label": 1}\n'


def read(directory, task="xnli_en"):
  return local_data.read(task, str(directory), "test")["test"].to_list()


@pytest.mark.parametrize("pack", [None, lzma, gzip])
def test_packed_or_not(tmp_path, pack):
  ending = {None: "", lzma: ".xz", gzip: ".gz"}[pack]
  content = ("\n" + LINE).encode()
  path = tmp_path / f"xnli_en.jsonl{ending}"
  path.write_bytes(content if pack is None else pack.compress(content))
  assert read(tmp_path) == [{"premise": "a", "hypothesis": "b", "label": 1}]


def test_xnli_by_language(tmp_path):
  rows = [
    "genre\tlabel\tpremise\thypothesis",
    'fiction\tentailment\tHe said "no\tNo, he said',
    "fiction\tneutral\tx\ty",
    "fiction\tcontradiction\tд\tж",
  ]
  (tmp_path / "dev.ru.tsv").write_text("\n".join(rows), encoding="utf-8")
  assert read(tmp_path, "xnli_ru") == [
    {"premise": 'He said "no', "hypothesis": "No, he said", "label": 0},
    {"premise": "x", "hypothesis": "y", "label": 1},
    {"premise": "д", "hypothesis": "ж", "label": 2},
  ]


def test_the_first_name_is_the_tasks(tmp_path):
  write(tmp_path, {"wsc273": HUB["wsc273"], "winograd_wsc": FOUNDRY["winograd_wsc"]})
  assert read(tmp_path, "wsc273") == HUB["wsc273"]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "a task's file must have records, got none in "),
    (b"{\n", "line 1 is not JSON"),
    ((LINE + "[1]\n").encode(), r"line 2 must be a JSON object, got \[1\]"),
    (b"\xff\xfe", "cannot read .*utf-8"),
    (
      (LINE + '{"premise": "a", "label": 1}\n').encode(),
      "the same fields, got premise, hypothesis, label in the first and premise, label "
      "in line 2",
    ),
    (
      (LINE + LINE.replace("1", '"one"')).encode(),
      "a field must have values of one kind .*one",
    ),
  ],
)
def test_bad_files(tmp_path, content, message):
  (tmp_path / "xnli_en.jsonl").write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    read(tmp_path)
  assert "xnli_en" in str(error.value)


def test_a_later_record_of_llm_foundry(tmp_path):
  good, bad = (json.dumps(FOUNDRY["piqa"][0] | {"choices": x}) for x in ("ab", "a"))
  path = tmp_path / "piqa.jsonl"
  path.write_text(f"{good}\n\n{bad}\n")
  message = f"cannot read line 3 of {path}: task piqa needs records as llm-foundry"
  with pytest.raises(ValueError, match=message):
    read(tmp_path, "piqa")


@pytest.mark.parametrize("field", ["gold", "continuation"])
def test_fields_of_other_tasks_are_their_own(tmp_path, field):
  """llm-foundry's names mean its records only where it has the task."""
  records = [{"prompt": "a", field: "b"}]
  assert read(write(tmp_path, {"humaneval": records}), "humaneval") == records


def test_bad_packing(tmp_path):
  (tmp_path / "xnli_en.jsonl.xz").write_bytes(b"no xz")
  with pytest.raises(ValueError, match=r"cannot read .*xnli_en.jsonl.xz: "):
    read(tmp_path)


def test_bad_rows(tmp_path):
  path = tmp_path / "dev.en.tsv"
  path.write_text("genre\tlabel\tpremise\thypothesis\nx\tperhaps\ta\tb\n")
  with pytest.raises(ValueError, match=r"a label of entailment, .*'perhaps'.* line 2"):
    read(tmp_path)
  path.write_text("genre\tlabel\tpremise\thypothesis\nx\tneutral\ta\n")
  with pytest.raises(ValueError, match="rows must have premise, hypothesis and a"):
    read(tmp_path)


@pytest.mark.parametrize(
  ("task", "names"),
  [
    ("piqa", "piqa.jsonl"),
    ("openbookqa", "openbookqa.jsonl and openbook_qa.jsonl"),
    ("xnli_de", "xnli_de.jsonl and dev.de.tsv"),
  ],
)
def test_no_file(tmp_path, task, names):
  message = (
    f"task {task} needs a file in {tmp_path}, looked for {names}, as they are or with "
    ".xz or .gz."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    local_data.find(task, str(tmp_path))
