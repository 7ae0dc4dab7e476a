"""Writing checkpoints, reading them back, and which of them stay."""

import logging
import threading

import jax
import numpy as np
import optax
import pytest

from mhmoe_jax.checkpoints import checkpoint, saved
from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from tests.checkpoints.states import (
  CONFIG,
  abstract,
  assert_same_bits,
  directory,
  make_mesh,
  make_state,
  save_all,
)

# What a checkpoint is.


def test_everything_comes_back_as_it_was(restart, mesh):
  state = make_state(mesh)
  restart().save(7, state, {0: b"\x00iterator\xff"}, CONFIG)
  restored = restart().restore(abstract(state), [0])
  assert restored.step == 7
  assert restored.data_states == {0: b"\x00iterator\xff"}
  assert restored.config == CONFIG
  assert_same_bits(restored.state, state)


@pytest.mark.parametrize(("data", "expert"), [(2, 4), (1, 4), (4, 2), (1, 2), (1, 1)])
def test_restores_onto_another_mesh(restart, mesh, data, expert):
  state = make_state(mesh)
  wanted = abstract(make_state(make_mesh(data, expert)))
  checkpoints = restart()
  checkpoints.save(1, state, {}, CONFIG)
  restored = checkpoints.restore(wanted, [0]).state
  assert_same_bits(restored, state)
  for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
    assert x.sharding == y.sharding


def test_an_older_optimizer_may_end_in_parts_without_a_state(restart, mesh):
  """Rates of modules were such parts; orbax counts them."""
  state = make_state(mesh)
  older = state | {"opt_state": (*state["opt_state"], optax.EmptyState())}
  restart().save(1, older, {}, CONFIG)
  assert_same_bits(restart().restore(abstract(state), [0]).state, state)


def test_no_checkpoint_at_all(restart, mesh, tmp_path):
  checkpoints = restart()
  assert checkpoints.restore(abstract(make_state(mesh)), [0]) is None
  assert checkpoints.steps() == []
  assert checkpoints.latest_step() is None
  assert checkpoints.best_step() is None
  for workdir in (tmp_path, tmp_path / "nowhere"):
    with pytest.raises(ValueError, match=f"^no checkpoint under {workdir}/checkpoints"):
      saved.load_config(workdir)


def test_an_older_step_can_be_asked_for(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  restored = checkpoints.restore(abstract(make_state(mesh)), [0], step=1)
  assert (restored.step, restored.data_states) == (1, {0: b"iterator at 1"})
  assert_same_bits(restored.state, make_state(mesh, seed=1))
  with pytest.raises(
    ValueError, match=r"^no checkpoint 3 under .*, there are \[2, 1\]"
  ):
    checkpoints.restore(abstract(make_state(mesh)), [0], step=3)


def test_config_and_params_are_read_alone(restart, mesh, tmp_path, monkeypatch):
  save_all(restart(), mesh, {1: None, 2: None})
  monkeypatch.chdir(tmp_path.parent)
  relative = tmp_path.name
  wanted = abstract(make_state(make_mesh(data=1, expert=2)))["params"]
  params = saved.restore_params(relative, wanted)
  assert_same_bits(params, make_state(mesh, seed=2)["params"])
  assert params["decoder"]["w_EMF"].sharding == wanted["decoder"]["w_EMF"].sharding
  assert_same_bits(
    saved.restore_params(tmp_path, wanted, step=1), make_state(mesh, seed=1)["params"]
  )
  assert saved.load_config(tmp_path) == saved.load_config(relative, step=1) == CONFIG


# Saving.


def test_state_may_be_donated_right_after_save(restart, mesh):
  state = make_state(mesh, hidden=1 << 14)
  kept = jax.tree.map(lambda x: np.array(x, copy=True), state)
  wanted = abstract(state)
  step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + 1, s), donate_argnums=0)
  checkpoints = restart()
  checkpoints.save(1, state, {}, CONFIG)
  for _ in range(20):
    state = step(state)
  jax.block_until_ready(state)
  assert_same_bits(checkpoints.restore(wanted, [0]).state, kept)


def test_save_returns_before_the_checkpoint_is_there(
  restart, mesh, tmp_path, monkeypatch
):
  go_on = threading.Event()
  finalize = checkpoint._RunHandler.finalize

  def slow_finalize(self, where):
    assert go_on.wait(60)
    finalize(self, where)

  monkeypatch.setattr(checkpoint._RunHandler, "finalize", slow_finalize)
  checkpoints = restart()
  checkpoints.save(1, make_state(mesh), {}, CONFIG)
  assert not directory(tmp_path, 1).exists()
  go_on.set()
  checkpoints.wait()
  assert directory(tmp_path, 1).exists()


def test_failure_in_the_background_is_raised(restart, mesh, monkeypatch):
  def no_space(self, where):
    raise OSError(28, "No space left on device")

  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None})
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint._RunHandler, "finalize", no_space)
    checkpoints.save(2, make_state(mesh), {}, CONFIG)
    with pytest.raises(OSError, match="No space left"):
      checkpoints.wait()
  assert checkpoints.steps() == [1]
  save_all(checkpoints, mesh, {2: None})
  assert checkpoints.restore(abstract(make_state(mesh)), [0]).step == 2


def test_steps_must_ascend(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {5: None})
  for step in (4, 5):
    with pytest.raises(ValueError, match=f"got step={step}, latest=5"):
      checkpoints.save(step, make_state(mesh), {}, CONFIG)


def test_config_must_be_json(restart, mesh):
  with pytest.raises(TypeError, match="not JSON serializable"):
    restart().save(1, make_state(mesh), {}, {"dtype": np.float32})


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_unwritable_workdir(tmp_path, below):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=r"^cannot write checkpoints to .*file") as error:
    Checkpoints(tmp_path / below, keep_last=1)
  assert "\n" not in str(error.value)


def test_bucket_paths_stay_bucket_paths():
  assert (
    str(saved.checkpoints_directory("gs://bucket/run")) == "gs://bucket/run/checkpoints"
  )


def test_orbax_is_silent_below_warnings(restart, mesh, caplog):
  with caplog.at_level(logging.INFO):
    save_all(restart(), mesh, {1: None})
  assert [r.getMessage() for r in caplog.records if "/orbax/" in r.pathname] == []


# Which checkpoints stay.


def test_the_last_and_the_best_stay(restart, mesh):
  checkpoints = restart(keep_last=2)
  save_all(checkpoints, mesh, {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5})
  assert checkpoints.steps() == [2, 3, 4]
  assert checkpoints.best_step() == 2
  # Losses survive a restart, and a better one frees the best so far.
  checkpoints = restart(keep_last=1)
  assert checkpoints.best_step() == 2
  save_all(checkpoints, mesh, {5: 1.5})
  assert checkpoints.steps() == [2, 5]
  save_all(checkpoints, mesh, {6: 0.5})
  assert checkpoints.steps() == [6]
  assert restart().steps() == [6]


def test_without_a_finite_loss_none_is_best(restart, mesh):
  checkpoints = restart(keep_last=1)
  save_all(checkpoints, mesh, {1: None, 2: float("nan"), 3: float("-inf")})
  assert checkpoints.best_step() is None
  assert checkpoints.steps() == [3]
  save_all(checkpoints, mesh, {4: 9.0, 5: None, 6: float("nan")})
  assert checkpoints.best_step() == 4
  assert checkpoints.steps() == [4, 6]


def test_keep_last_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match="keep_last must be at least 1, got keep_last=0"):
    Checkpoints(tmp_path, keep_last=0)
