"""Small texts of every source."""

import dataclasses
import re
from typing import ClassVar

import pytest
from tensorflow_datasets.core.utils import file_utils

from mhmoe_jax.data import DataConfig
from mhmoe_jax.data.quiet import tf, tfds
from mhmoe_jax.data.tokenizer import train_sentencepiece
from mhmoe_jax.data.windows import iterate_texts

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
    mixture={},
    mixture_exponent=1.0,
    name="",
    train="",
    valid="",
    text_key="",
    vocabulary="bytes",
    prepared="",
    sequence_length=64,
    shuffle_buffer=50,
    streams=1,
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


@pytest.fixture
def jsonl_cfg(cfg, tmp_path) -> DataConfig:
  """A hundred short documents to train on, a hundred to validate on."""
  for name in ("train", "valid"):
    lines = (f'{{"body": "{name} {n}{"é" * (n % 5)}"}}\n' for n in range(100))
    (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
  return dataclasses.replace(
    cfg,
    source="jsonl",
    train=f"{tmp_path}/train.jsonl",
    valid=f"{tmp_path}/valid.jsonl",
    text_key="body",
  )


class TinyNews(tfds.core.GeneratorBasedBuilder):
  """Fifty documents to train on, five to test."""

  VERSION = tfds.core.Version("1.0.0")
  # Nothing to download. TFDS 4.9.10 looks for a list of downloads beside this file,
  # with importlib_resources, which it does not install.
  url_infos: ClassVar[dict] = {}

  def _info(self):
    features = {"body": tfds.features.Text(), "number": tf.int64}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(50), "test": self._generate_examples(5)}

  def _generate_examples(self, size):
    for number in range(size):
      yield number, {"body": f"document {number} of {size}", "number": number}


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
  directory = str(tmp_path_factory.mktemp("tfds"))
  # Three files: two processes share files, four share documents.
  config = tfds.download.DownloadConfig(num_shards=3)
  TinyNews(data_dir=directory).download_and_prepare(download_config=config)
  # $TFDS_DATA_DIR does the same, but TFDS reads it when it is imported.
  tfds.core.add_data_dir(directory)
  yield directory
  file_utils.clear_registered_data_dirs()


@pytest.fixture
def tfds_cfg(cfg, tfds_dir) -> DataConfig:
  """Forty short documents to train on, ten to validate on."""
  return dataclasses.replace(
    cfg,
    source="tfds",
    name="tiny_news:1.0.0",
    train="train[:80%]",
    valid="train[80%:]",
    text_key="body",
  )


@pytest.fixture
def pieces_cfg(text_cfg, tmp_path) -> DataConfig:
  """The two files, in the pieces of a SentencePiece model."""
  path = str(tmp_path / "trained.model")
  train_sentencepiece(iterate_texts(text_cfg, "train"), 290, path)
  return dataclasses.replace(text_cfg, vocabulary=path)
