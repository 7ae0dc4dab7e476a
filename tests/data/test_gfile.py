"""Local files by Python and remote ones by tensorflow, whose ram:// is one of them."""

import pytest

from mhmoe_jax.data import gfile
from mhmoe_jax.data.quiet import tf


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_reads_what_was_written(tmp_path, kind):
  folder = str(tmp_path) if kind == "local" else f"ram://{tmp_path.name}"
  path = f"{folder}/a.txt"
  with tf.io.gfile.GFile(path, "wb") as file:
    file.write(b"one\ntwo")
  assert gfile.stat(path).length == 7
  assert (gfile.exists(path), gfile.isdir(path), gfile.isdir(folder)) == (
    True,
    False,
    True,
  )
  assert gfile.glob(f"{folder}/*.txt") == [path]
  with gfile.GFile(path) as file:
    assert file.size() == 7
    assert (file.read(2), file.readline(), file.tell()) == (b"on", b"e\n", 4)
    file.seek(1)
    assert file.read() == b"ne\ntwo"
  missing = f"{folder}/b.txt"
  assert not gfile.exists(missing)
  with pytest.raises(FileNotFoundError):
    gfile.stat(missing)
  with pytest.raises(FileNotFoundError), gfile.GFile(missing) as file:
    file.read()
