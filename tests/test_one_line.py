"""Whatever is wrong with a file is one line on a terminal, from every verb.

TensorFlow writes to file descriptor 2 by itself, so that it takes another process to
see what a user sees. One such process runs many commands, for its start takes seconds.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
GOOD = "the quick brown fox jumps over the lazy dog\n" * 200
RECORD = '{"text": "the quick brown fox"}\n'
MODEL = [
  "--config=configs/tiny.py",
  "--config.model.num_layers=2",
  "--config.model.embed_dim=16",
  "--config.model.ffn_dim=16",
  "--config.model.moe.expert_dim=8",
  "--config.model.moe.num_experts=2",
  "--config.mesh.data=1",
  "--config.data.sequence_length=16",
  "--config.data.shuffle_buffer=1",
  "--config.train.batch_size=2",
  "--config.train.log_every=100",
  "--config.train.num_steps=5000",
  "--config.train.eval_every=5000",
  "--config.train.image_every=0",
]
SCRIPT = """
import json, os, resource, sys, tempfile
from mhmoe_jax.cli import main
from mhmoe_jax.data import files

files._CHECKED_BYTES, files._CHUNK_BYTES = 1, 100  # The rest in the middle of a run.
stderr, shown = os.dup(2), {}
for name, (limit, argv) in json.load(sys.stdin).items():
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    infinity = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit or infinity, infinity))
    code = main(argv)
    resource.setrlimit(resource.RLIMIT_FSIZE, (infinity, infinity))
    sys.stderr.flush()
    os.dup2(stderr, 2)
    held.seek(0)
    shown[name] = code, held.read().decode()
print(json.dumps(shown), file=sys.__stdout__)
"""


def _commands(folder):
  """By name: a command, the most bytes of a file that it may write, its error."""

  def write(name, data):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path

  good, records = write("good.txt", GOOD), write("good.jsonl", RECORD * 40)
  commands = {}

  def add(name, verb, path, error, *more, source="text", valid=good, limit=0):
    data = [
      f"--config.data.source={source}",
      f"--config.data.train={path}",
      f"--config.data.valid={valid}",
    ]
    commands[name] = [limit, [verb, *MODEL, *data, *more]], error

  def train(name, path, error, *more, **kwargs):
    more = [f"--workdir={folder}/run_{len(commands)}", *more]
    add(name, "train", path, error, *more, **kwargs)

  write("pattern/a.txt", GOOD)
  os.symlink("nowhere", folder / "pattern" / "b.txt")
  lost = f"cannot read {folder}/pattern/b.txt: No such file or directory."
  train("a dangling link", f"{folder}/pattern/*.txt", lost)
  out = f"--out={folder}/out"
  add("prepare", "prepare", f"{folder}/pattern/*.txt", lost, out)
  add("tokenizer", "tokenizer", f"{folder}/pattern/*", lost, out, "--vocab_size=300")
  train("a folder", folder, f"cannot read {folder}: a folder; {folder}/* is files.")
  train("a bucket", "xyz://a", "cannot read xyz://a: File system scheme 'xyz' not ")
  latin = write("latin.txt", b"a" * 100 + b"\n\xe9t\xe9")
  train(
    "Latin-1",
    latin,
    "A file of text must be UTF-8, got invalid continuation byte at byte 101, line 2, "
    f"of {latin}.",
  )
  wrong = write("wrong.jsonl", '{"txt": 1}\n')
  train(
    "a wrong field",
    wrong,
    "Every line must be a JSON object with a string in 'text', got the fields ['txt'] "
    f"in line 1 of {wrong}.",
    source="jsonl",
    valid=records,
  )
  train(
    "JSON lines as text",
    records,
    "a .jsonl file must be read with source='jsonl', as every verb does, got "
    f"source='text' for {records}.",
  )
  train(
    "an unknown data set",
    "train",
    "TFDS must know name, got name='nosuch:1.0.0': Dataset nosuch not found.",
    "--config.data.name=nosuch:1.0.0",
    source="tfds",
    valid="test",
  )
  train(
    "not prepared",
    good,
    "prepared must be a folder that the verb prepare has finished, got "
    f"prepared='{folder}'.",
    f"--config.data.prepared={folder}",
  )
  add(
    "tokenizer to a folder",
    "tokenizer",
    good,
    f"cannot write {folder}: a folder.",
    f"--out={folder}",
    "--vocab_size=290",
  )
  add(
    "tokenizer on a full disk",
    "tokenizer",
    good,
    f"cannot write {folder}/small.model: File too large.",
    f"--out={folder}/small.model",
    "--vocab_size=290",
    limit=1000,
  )
  add(
    "prepare on a full disk",
    "prepare",
    good,
    f"cannot write {folder}/small: ",
    f"--out={folder}/small",
    "--shards=1",
    limit=8000,
  )
  return commands


def test_at_the_door(tmp_path):
  commands = _commands(tmp_path)
  run = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    input=json.dumps({name: command for name, (command, _) in commands.items()}),
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert run.returncode == 0, run.stderr
  shown = json.loads(run.stdout.splitlines()[-1])
  for name, (command, error) in commands.items():
    code, stderr = shown[name]
    assert code == 1, (name, stderr)
    lines = [x for x in stderr.splitlines() if " tokens/s " not in x]  # of progress
    assert len(lines) == 1, (name, stderr)
    assert lines[0].startswith(f"mhmoe {command[1][0]}: error: {error}"), (name, lines)


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_in_the_middle_of_a_run(tmp_path, kind):
  path = tmp_path / f"a.{'txt' if kind == 'text' else 'jsonl'}"
  path.write_text((GOOD if kind == "text" else RECORD) * 20)
  good = [f"--config.data.{key}={path}" for key in ("train", "valid")]
  command = ["train", *MODEL, f"--config.data.source={kind}", *good]
  with subprocess.Popen(
    [sys.executable, "-m", "mhmoe_jax.cli", *command, f"--workdir={tmp_path}/run"],
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
    cwd=ROOT,
  ) as run:
    before = [run.stderr.readline()]
    while not before[-1].startswith("step"):
      before.append(run.stderr.readline())
      assert before[-1], before
    path.unlink()
    lines = run.stderr.read().splitlines()
  assert run.returncode == 1
  assert lines[-1] == (
    f"mhmoe train: error: cannot read {path}: No such file or directory."
  )
  assert all(line.startswith("step") for line in lines[:-1])
