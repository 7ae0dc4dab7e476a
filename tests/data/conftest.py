"""Small texts and a config to change."""

import dataclasses
import re

import pytest

from mhmoe_jax.data import DataConfig

NASTY = (
  "  two spaces,\ttab, \t both \n\n\r\nCR; 漢字かな交じり文。😀👩‍👩‍👧 e\u0301 é ﬁ Å\n"
  "\u3000ideographic\xa0no-break \u200b zero \x00 nul </s><pad><unk><0x41> ▂ end  "
)


@pytest.fixture
def refuses():
  """Returns a context that wants a ValueError with exactly this message."""
  return lambda message: pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.fixture
def nasty() -> str:
  """Text that normalising, stripping or splitting would change."""
  return NASTY


@pytest.fixture
def cfg() -> DataConfig:
  """Tiny Shakespeare in bytes."""
  return DataConfig(
    source="bundled",
    name="",
    train="",
    valid="",
    text_key="",
    vocabulary="bytes",
    sequence_length=64,
    shuffle_buffer=50,
    seed=0,
  )


@pytest.fixture
def text_cfg(cfg, tmp_path) -> DataConfig:
  """Two files to train on, a third to validate on, some hundred lines each."""
  for index, name in enumerate(["train_0", "train_1", "valid"]):
    lines = (f"file {index}, line {line}: {'é' * (line % 7)}\n" for line in range(200))
    (tmp_path / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
  return dataclasses.replace(
    cfg,
    source="text",
    train=f"{tmp_path}/train_*.txt",
    valid=f"{tmp_path}/valid.txt",
  )
