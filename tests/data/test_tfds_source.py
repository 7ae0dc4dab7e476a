"""Data sets of TFDS: their documents, or one line that says what is missing."""

import dataclasses
import shutil
import sys
import urllib.error
import urllib.request

import pytest

from mhmoe_jax.data.quiet import seqio
from mhmoe_jax.data.sources import make_source, plain_errors


def _read(source, split="train"):
  ds = source.get_dataset(split, shuffle=False)
  return [(e["targets"], bool(e["is_last"])) for e in ds.as_numpy_iterator()]


def test_tfds(tfds_cfg):
  source = make_source(tfds_cfg)
  train, valid = (_read(source, split) for split in ("train", "validation"))
  assert (len(train), len(valid)) == (40, 10)
  assert [*source.iterate_texts("train")] == [text for text, _ in train]
  assert {*train, *valid} == {(f"document {n} of 50".encode(), True) for n in range(50)}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"name": "nosuch:1.0.0"},
      "TFDS must know name, got name='nosuch:1.0.0': Dataset nosuch not found.",
    ),
    (
      {"train": "trian"},
      "train must be a split of tiny_news:1.0.0, got train='trian': Unknown split "
      "'trian'. Should be one of ['train', 'test'].",
    ),
    (
      {"text_key": "number"},
      "text_key must be one of body for tiny_news:1.0.0, got text_key='number'.",
    ),
  ],
)
def test_tfds_refuses(tfds_cfg, changes, message, refuses):
  with refuses(message):
    make_source(dataclasses.replace(tfds_cfg, **changes))


def test_tfds_that_needs_beam(tfds_cfg, monkeypatch, tmp_path, refuses, caplog):
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path))
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  cfg = dataclasses.replace(tfds_cfg, name="wiki40b/el:1.3.0", text_key="text")
  with refuses(
    "TFDS must have built wiki40b/el:1.3.0: `tfds build wiki40b/el`, or set "
    "$TFDS_DATA_DIR to where it is, got import of apache_beam halted; None in "
    "sys.modules."
  ):
    make_source(cfg)
  assert not caplog.records


def test_tfds_without_a_network(tfds_cfg, monkeypatch, tmp_path, refuses):
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path))

  def refuse(url, timeout):
    assert url.startswith("http")
    raise urllib.error.URLError("nobody there")

  monkeypatch.setattr(urllib.request, "urlopen", refuse)
  cfg = dataclasses.replace(tfds_cfg, name="lm1b:1.1.0", text_key="text")
  with refuses(
    "TFDS must have built lm1b:1.1.0: `tfds build lm1b`, or set $TFDS_DATA_DIR to "
    "where it is, got <urlopen error nobody there>."
  ):
    make_source(cfg)


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_tfds_that_is_damaged(tfds_cfg, tmp_path, monkeypatch, damage, tfds_dir):
  shutil.copytree(tfds_dir, tmp_path / "copy")
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path / "copy"))
  source = make_source(tfds_cfg)
  (path,) = tmp_path.glob("copy/*/*/*train*00001*")
  if damage == "lost":
    path.unlink()
  else:
    path.write_bytes(path.read_bytes()[:-3])
  with (
    pytest.raises(ValueError, match=r"^cannot read the text: [^\n{\[]+\.$"),
    plain_errors(),
  ):
    _read(source)
