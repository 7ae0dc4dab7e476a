"""The TFDS sets that docs/data.md names: TFDS knows them and their fields.

Without a download: what a builder says of itself before it has any data.
"""

import dataclasses
import pathlib
import re

import pytest

from configs.paper1 import multilingual
from mhmoe_jax.data.quiet import tf, tfds

PAGE = (pathlib.Path(__file__).parents[2] / "docs/data.md").read_text()
ROWS = re.findall(
  r"^\| [^|]+ \| `(\S+:\S+)` \| `(\S+)` \| `(\S+)` \| `(\S+)` \|$", PAGE, re.M
)


def check(cfg, folder):
  builder = tfds.builder(cfg.name, data_dir=folder)
  assert str(builder.version) == cfg.name.split(":")[1]
  specs = builder.info.features.get_tensor_spec()
  assert specs[cfg.text_key] == tf.TensorSpec((), tf.string)
  languages = getattr(builder.builder_config, "languages", ["one"])
  splits = {"train", "validation", "test"}
  if len(languages) > 1:
    splits = {*languages} | {f"{x}-validation" for x in languages}
  assert {re.sub(r"\[.*", "", split) for split in (cfg.train, cfg.valid)} <= splits


def test_the_table_is_there():
  assert len(ROWS) == 5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_tfds_knows_it(cfg, row, tmp_path):
  name, train, valid, key = row
  cfg = dataclasses.replace(
    cfg, source="tfds", name=name, train=train, valid=valid, text_key=key
  )
  check(cfg, str(tmp_path))


def test_wikipedia_of_every_language_of_the_first_paper(cfg, tmp_path):
  found = re.search(r'"name": f"(\S+)\{x\}(\S+)"', multilingual.__doc__)
  for language in multilingual.LANGUAGES:
    member = dataclasses.replace(
      cfg,
      source="tfds",
      name=found[1] + language + found[2],
      train="train[:99%]",
      valid="train[99%:]",
      text_key="text",
    )
    check(member, str(tmp_path))
