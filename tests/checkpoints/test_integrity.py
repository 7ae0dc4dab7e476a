from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mhmoe_jax.checkpoints import integrity


def test_checksum_is_the_sum_of_the_bit_patterns():
  tree = {
    "a": [jnp.asarray([1.0, -2.0], jnp.float32)],
    "b": jnp.asarray([True, True, False]),
    "c": jnp.asarray([-1], jnp.int32),
    "d": jnp.asarray([1.0], jnp.bfloat16),
  }
  assert integrity.checksums(tree) == {
    "a/0": (0x3F800000 + 0xC0000000) % 2**32,
    "b": 2,
    "c": 2**32 - 1,
    "d": 0x3F80,
  }


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_checksum_is_the_same_for_every_sharding(kind):
  x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
  mesh = jax.make_mesh((4, 2), ("a", "b"), (kind,) * 2)
  specs = [P(), P("a"), P(("a", "b")), P("b", "a")]
  found = [
    integrity.checksums({"x": jax.device_put(x, NamedSharding(mesh, spec))})
    for spec in specs
  ]
  assert found == [{"x": int(x.view(np.uint32).sum(dtype=np.uint32))}] * 4


def test_every_flipped_bit_changes_the_checksum():
  bits = np.full(4, 0x3F9D70A4, np.uint32)
  saved = integrity.checksums({"x": jnp.asarray(bits.view(np.float32))})
  for bit in range(32):
    changed = bits.copy()
    changed[2] ^= np.uint32(1 << bit)
    with pytest.raises(integrity.DamagedError, match=r"^x does not match its checksum"):
      integrity.check_checksums({"x": jnp.asarray(changed.view(np.float32))}, saved)


@pytest.mark.parametrize("size", [0, 10, 2**20, 2**20 + 1, 2**21])
def test_lost_and_cut_files_are_noticed(tmp_path, size):
  (tmp_path / "deep" / "er").mkdir(parents=True)
  path = tmp_path / "deep" / "er" / "file"
  path.write_bytes(bytes(size))
  (tmp_path / "other").write_bytes(b"other")
  saved = integrity.fingerprints(epath.Path(tmp_path))
  assert set(saved) == {"deep/er/file", "other"}
  integrity.check_fingerprints(epath.Path(tmp_path), saved)
  (tmp_path / "more").write_bytes(b"of no interest")
  integrity.check_fingerprints(epath.Path(tmp_path), saved)
  path.write_bytes(bytes(size + 1))
  with pytest.raises(ValueError, match="deep/er/file is changed"):
    integrity.check_fingerprints(epath.Path(tmp_path), saved)
  path.unlink()
  with pytest.raises(ValueError, match="deep/er/file is lost"):
    integrity.check_fingerprints(epath.Path(tmp_path), saved)


def test_garbled_small_files_are_noticed(tmp_path):
  (tmp_path / "metadata.json").write_text('{"key": 1}')
  saved = integrity.fingerprints(epath.Path(tmp_path))
  (tmp_path / "metadata.json").write_text('{"kex": 1}')
  with pytest.raises(ValueError, match=r"metadata\.json is changed"):
    integrity.check_fingerprints(epath.Path(tmp_path), saved)


@pytest.mark.parametrize("content", [b"", b"\x00", b"iterator" * 1000])
def test_seal(content):
  # As runs have it that were saved: CRC-32, the largest byte first.
  assert integrity.seal(b"abc") == bytes.fromhex("352441c2") + b"abc"
  sealed = integrity.seal(content)
  assert integrity.unseal(sealed) == content
  for broken in (b"", sealed[:-1], sealed[:3], sealed + b"\x00", b"x" + sealed):
    with pytest.raises(ValueError, match="does not match"):
      integrity.unseal(broken)


def test_only_damage_is_damage():
  lines = ValueError("cut\nin two lines"), ValueError("cut [tensorstore_spec='{}']")
  for error in (*lines, FileNotFoundError("lost")):
    with pytest.raises(integrity.DamagedError, match=r"Error: (cut|lost)$"):
      integrity.on_every_process(lambda error=error: _raise(error))
  for error in (KeyError("bug"), PermissionError("not yours"), OSError("network")):
    with pytest.raises(type(error)):
      integrity.on_every_process(lambda error=error: _raise(error))


@pytest.mark.parametrize("process", [0, 1])
def test_what_another_process_removes_meanwhile_is_no_damage(
  tmp_path, caplog, monkeypatch, process
):
  monkeypatch.setattr(integrity.jax, "process_index", lambda: process)

  def read(directory):
    if directory.name == "2":
      raise integrity.DamagedError("gone")
    return directory.name

  def newest():
    return integrity.newest_undamaged(epath.Path(tmp_path), [1, 2], None, read)

  assert newest() == ("1", [2])
  assert not caplog.messages
  (tmp_path / "2").mkdir()
  assert newest() == ("1", [2])
  told = "checkpoint 2 is damaged (gone); falling back to checkpoint 1."
  assert caplog.messages == [told] * (process == 0)


def _raise(error):
  raise error
