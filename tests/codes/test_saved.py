"""What was written is read, or refused."""

import json

import jax
import numpy as np
import pytest

from mhmoe_jax.codes import saved


@pytest.fixture(params=["kmeans", "vqvae"])
def written(make, tmp_path, request):
  vocabulary, (arrays, statistics) = make(request.param)
  folder = tmp_path / "codes"
  facts = {"pictures": "shapes", "seed": 0}
  fingerprint = saved.save(str(folder), vocabulary, arrays, facts, statistics)
  return folder, vocabulary, arrays, statistics, fingerprint


def test_all_comes_back(written):
  folder, vocabulary, arrays, statistics, fingerprint = written
  found = saved.load(str(folder))
  assert found.vocabulary == vocabulary
  assert found.statistics == statistics
  assert found.fitted_to == {"pictures": "shapes", "seed": 0}
  assert found.fingerprint == fingerprint
  jax.tree.map(np.testing.assert_array_equal, found.arrays, dict(arrays))


def test_the_fingerprint_is_of_all_of_it(make, tmp_path):
  vocabulary, (arrays, statistics) = make("kmeans")

  def fingerprint(name, arrays, facts):
    return saved.save(str(tmp_path / name), vocabulary, arrays, facts, statistics)

  one = fingerprint("a", arrays, {})
  assert fingerprint("b", arrays, {}) == one
  assert fingerprint("c", arrays, {"seed": 1}) != one
  other = dict(arrays) | {"mean_U": np.asarray(arrays["mean_U"]) + 1e-6}
  assert fingerprint("d", other, {}) != one


@pytest.mark.parametrize("name", ["vocabulary.json", "arrays.npz"])
def test_every_flipped_byte_is_noticed(make, tmp_path, name):
  vocabulary, (arrays, statistics) = make("kmeans")
  saved.save(str(tmp_path), vocabulary, arrays, {"pictures": "å"}, statistics)
  content = (tmp_path / name).read_bytes()
  step = 1 if len(content) < 2000 else len(content) // 500
  for place in range(0, len(content), step):
    for bit in (0, 5):
      changed = bytearray(content)
      changed[place] ^= 1 << bit
      (tmp_path / name).write_bytes(changed)
      with pytest.raises(ValueError, match="is damaged; fit it again"):
        saved.load(str(tmp_path))
  for cut in (0, 1, len(content) - 1):
    (tmp_path / name).write_bytes(content[:cut])
    with pytest.raises(ValueError, match="is damaged"):
      saved.load(str(tmp_path))
  (tmp_path / name).write_bytes(content)
  saved.load(str(tmp_path))


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"fingerprint": 1}', "\xff"])
def test_other_json_is_damage(written, text):
  folder = written[0]
  (folder / "vocabulary.json").write_text(text, encoding="latin-1")
  with pytest.raises(ValueError, match="is damaged"):
    saved.load(str(folder))


def test_spaces_count(written):
  folder = written[0]
  path = folder / "vocabulary.json"
  path.write_text(json.dumps(json.loads(path.read_text())))
  with pytest.raises(ValueError, match="is damaged"):
    saved.load(str(folder))


def test_a_missing_one(tmp_path):
  with pytest.raises(ValueError, match="must be a folder with "):
    saved.load(str(tmp_path / "nothing"))


def test_a_missing_file(written):
  folder = written[0]
  (folder / "arrays.npz").unlink()
  with pytest.raises(ValueError, match=r"cannot read .*: No such file"):
    saved.load(str(folder))


def test_what_is_there_stays(written):
  folder, vocabulary, arrays, statistics, _ = written
  before = (folder / "arrays.npz").read_bytes()
  with pytest.raises(ValueError, match=r"got .*, which has one"):
    saved.save(str(folder), vocabulary, arrays, {}, statistics)
  assert (folder / "arrays.npz").read_bytes() == before


def test_networks_of_another_version(make, tmp_path):
  vocabulary, (arrays, statistics) = make("kmeans")
  small = dict(arrays) | {"mean_U": np.zeros(3, np.float32)}
  saved.save(str(tmp_path), vocabulary, small, {}, statistics)
  with pytest.raises(ValueError, match="must be of this version"):
    saved.load(str(tmp_path))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (
      {"patch_size": 8},
      "the patches of the model, got patch_size=4 in .*, patch_size=",
    ),
    ({"num_codes": 99}, "as many codes as .*, got num_codes=16 in .*, num_codes=99."),
  ],
)
def test_a_run_refuses_others(written, values, message):
  found = saved.load(str(written[0]))
  fits = {"patch_size": 4, "num_codes": 16}
  saved.check(found, **fits)
  with pytest.raises(ValueError, match=message):
    saved.check(found, **(fits | values))
