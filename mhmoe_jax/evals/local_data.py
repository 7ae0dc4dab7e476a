"""The harness's tasks on local files, with the harness's prompts.

A task reads DIR/TASK.jsonl, with the fields of its data set on the Hugging Face hub, as
`datasets.load_dataset(...)[split].to_json(path)` writes them. Two collections that can
be had without the hub are read as they are, too: the `local_data` of llm-foundry, whose
files have prompts in them, which are taken apart again, and XNLI's dev sets by
language, dev.LANGUAGE.tsv. Files may be packed with xz or gzip.
"""

from collections.abc import Iterator
import csv
import gzip
import io
import itertools
import json
import lzma
import zlib

import datasets
from etils import epath

from mhmoe_jax.data.files import reading
from mhmoe_jax.evals import foundry

_UNPACK = {"": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress}
# Other names of a task's file.
_STEMS = {"openbookqa": "openbook_qa", "wsc273": "winograd_wsc"}
_XNLI_LABELS = ("entailment", "neutral", "contradiction")  # by their numbers on the hub


def read(task: str, directory: str, split: str) -> datasets.DatasetDict:
  """The records of a task, as a data set with one split.

  Raises:
    ValueError: there is no file for it, or one that cannot be read.
  """
  path = find(task, directory)
  numbered = list(_read(path))
  if not numbered:
    raise ValueError(f"a task's file must have records, got none in {path}.")
  (_, first), records = numbered[0], []
  for line, record in numbered:
    if record.keys() != first.keys():
      raise ValueError(
        f"all records of {path} must have the same fields, got {', '.join(first)} in "
        f"the first and {', '.join(record)} in line {line}."
      )
    if foundry.is_foundrys(task, record):
      try:
        record = foundry.to_hub(task, record)
      except ValueError as error:
        raise ValueError(f"cannot read line {line} of {path}: {error}") from None
    records.append(record)
  try:
    return datasets.DatasetDict({split: datasets.Dataset.from_list(records)})
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"a field must have values of one kind in all records of {path}: {error}"
    ) from None


def find(task: str, directory: str) -> epath.Path:
  """The file of a task; ValueError, which names those looked for, if it has none."""
  stems = [task, *([_STEMS[task]] if task in _STEMS else [])]
  names = [f"{stem}.jsonl" for stem in stems]
  if task.startswith("xnli_"):
    names.append(f"dev.{task.removeprefix('xnli_')}.tsv")
  for name in names:
    for packing in _UNPACK:
      path = epath.Path(directory) / (name + packing)
      if path.exists():
        return path
  raise ValueError(
    f"task {task} needs a file in {directory}, looked for {' and '.join(names)}, as "
    "they are or with .xz or .gz."
  )


def find_line(task: str, directory: str, number: int) -> int:
  """The line of a task's file that record `number`, from 0, stands in."""
  return next(itertools.islice(_read(find(task, directory)), number, None))[0]


def _read(path: epath.Path) -> Iterator[tuple[int, dict]]:
  """Yields the records of a file, each with the number of its line."""
  reader = _read_tsv if ".tsv" in path.suffixes else _read_jsonl
  unpack = _UNPACK.get(path.suffix, bytes)
  with reading(str(path)):
    data = path.read_bytes()
  try:
    text = unpack(data).decode("utf-8-sig")
    yield from reader(io.StringIO(text, newline=""))
  except (
    OSError,  # which gzip raises
    EOFError,
    ValueError,
    csv.Error,
    lzma.LZMAError,
    zlib.error,
  ) as error:
    raise ValueError(f"cannot read {path}: {error}") from None


def _read_jsonl(file):
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(f"line {number} is not JSON: {error}") from None
    if not isinstance(record, dict):
      raise ValueError(f"line {number} must be a JSON object, got {record!r}.")
    yield number, record


def _read_tsv(file):
  """XNLI as XTREME cuts it up: a header, no quoting, labels in words."""
  rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
  for row in rows:
    if row.get("label") not in _XNLI_LABELS or None in (
      row.get("premise"),
      row.get("hypothesis"),
    ):
      raise ValueError(
        f"rows must have premise, hypothesis and a label of {', '.join(_XNLI_LABELS)}, "
        f"got {row} in line {rows.line_num}."
      )
    label = _XNLI_LABELS.index(row["label"])
    record = {"premise": row["premise"], "hypothesis": row["hypothesis"]}
    yield rows.line_num, record | {"label": label}
