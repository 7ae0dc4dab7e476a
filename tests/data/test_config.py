"""The config refuses what cannot work, in one line, and never loads tensorflow."""

import dataclasses
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"source": "hf"},
      "source must be one of bundled, text, jsonl, tfds, got source='hf'.",
    ),
    (
      {"valid": ""},
      "source='text' needs train and valid, got train='train.txt', valid=''.",
    ),
    ({"source": "jsonl"}, "source='jsonl' needs a text_key, got text_key=''."),
    (
      {"source": "tfds", "name": "lm1b", "text_key": "text"},
      "name must be a TFDS name with its version, such as lm1b:1.1.0, got name='lm1b'.",
    ),
    (
      {"vocabulary": ""},
      "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH', 'hf:DIR' or a SentencePiece "
      "model's path, got vocabulary=''.",
    ),
    (
      {"sequence_length": 1},
      "sequence_length must be at least 2, got sequence_length=1.",
    ),
    ({"shuffle_buffer": 0}, "shuffle_buffer must be at least 1, got shuffle_buffer=0."),
    ({"streams": 0}, "streams must be at least 1, got streams=0."),
    ({"seed": -1}, "seed must be at least 0, got seed=-1."),
  ],
)
def test_refuses(text_cfg, changes, message, refuses):
  cfg = dataclasses.replace(text_cfg, train="train.txt", valid="valid.txt")
  with refuses(message):
    dataclasses.replace(cfg, **changes)


def test_config_does_not_load_tensorflow():
  check = (
    "import mhmoe_jax.data, sys; assert not {'tensorflow', 'seqio'} & {*sys.modules}"
  )
  subprocess.run([sys.executable, "-c", check], check=True)
