"""The loss from its equation, and what an evaluation adds up and says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.data.images.sources import open_source
from mhmoe_jax.evals import captions
from mhmoe_jax.models.encoder import Inputs
from mhmoe_jax.models.masked import MaskedModel
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.evaluate import Evaluator
from tests.tasks.pictures import small_captioning

close = np.testing.assert_allclose


@pytest.fixture(scope="module")
def made():
  """The task, parameters at which it prefers something, and an evaluation of them."""
  config = small_captioning()
  # The dispatch that compiles fastest, with room for all.
  config.model.moe.dispatch = "einsum"
  config.model.moe.capacity_factor = config.model.moe.eval_capacity_factor = 8.0
  config.objective.balance_weight, config.objective.router_z_weight = 0.3, 0.2
  task, draw = resolve(config).task, np.random.RandomState(0)
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  params = jax.tree.map(
    lambda x: jnp.asarray(draw.normal(size=x.shape) * 0.4, x.dtype), shapes
  )
  mesh = sharding.make_mesh(data=1)
  params = jax.device_put(params, sharding.copies(mesh))
  with jax.set_mesh(mesh):
    return task, params, Evaluator(task, 4, mesh)(params, {})


def test_shapes_are_those_of_the_feed(made):
  task = made[0]
  batch = next(task.train_feed(4, [0]))
  found = {name: (x.shape, x.dtype) for name, x in batch.items()}
  wanted = task.batch_shapes(4).items()
  assert found == {name: (x.shape, np.dtype(x.dtype)) for name, x in wanted}


def log_p(task, params, batch):
  """Of all tokens at masked places, and auxiliary values, by softmax."""
  places_BT = jnp.asarray(batch["positions"])
  inputs = Inputs(
    patches_BPU=normalize(to_patches(jnp.asarray(batch["pixels"]), 4)),
    tokens_BT=jnp.asarray(batch["tokens"]),
    positions_BT=places_BT,
    segments_BT=jnp.asarray(batch["segments"]),
    order_BT=places_BT + 7,
  )
  _, logits_BJV, pools = MaskedModel(task.model).apply(
    {"params": params}, inputs, None, batch["token_places"]
  )
  return jnp.log(jax.nn.softmax(logits_BJV)), pools


def test_the_loss_from_its_equation(made):
  """Targets are smoothed, and routers have their losses."""
  task, params, _ = made
  batch = next(task.train_feed(4, [0]))

  @jax.jit
  def total(params):
    found = task.loss(params, {}, batch, jax.random.key(0), task.totals(batch))
    return found.share, found.mean, found.shares

  read = jax.jit(lambda params: log_p(task, params, batch))
  log_BJV, pools = jax.device_get(read(params))
  V, loss, hits, count = log_BJV.shape[2], 0.0, 0, 0
  for b, j in np.argwhere(batch["weights"] > 0):
    target_V = np.full(V, 0.1 / V)
    target_V[batch["targets"][b, j]] += 0.9
    loss -= target_V @ log_BJV[b, j]
    hits += log_BJV[b, j].argmax() == batch["targets"][b, j]
    count += 1
  share, mean, shares = total(params)
  close(share, loss / count, rtol=1e-5)
  close(shares["accuracy"], hits / count, rtol=1e-6)
  routers = [0.3 * aux.balance_loss + 0.2 * aux.router_z_loss for aux in pools.values()]
  close(mean, np.sum(routers), rtol=1e-5)


def test_what_an_evaluation_finds(made):
  """Of 7 pictures in batches of 4; captions of the first 5."""
  task, params, found = made
  valid = {k: [b for b, _ in batches] for k, batches in task.eval_batches(4).items()}
  assert [len(batches) for batches in valid.values()] == [2, 2]
  nats = hits = places = 0
  read = jax.jit(lambda batch: log_p(task, params, batch)[0])
  for batch in valid["masked"]:
    log_BJV = np.asarray(read({k: x for k, x in batch.items() if k != "real"}))
    for b, j in np.argwhere(batch["weights"] > 0):
      target = batch["targets"][b, j]
      nats -= log_BJV[b, j, target]
      hits += log_BJV[b, j].argmax() == target
      places += 1
  close(found.masked, (nats / places, hits / places, places), rtol=1e-4)
  close(found.scalars()["perplexity"], np.exp(nats / places), rtol=1e-4)

  pixels = np.concatenate([batch["pixels"] for batch in valid["captions"]])[:5]
  tokens_BT, _ = jax.jit(task.write)(params, pixels, jnp.ones(5, bool))
  assert found.captions == [task.to_text(x) for x in np.asarray(tokens_BT)]
  assert len(set(found.captions)) > 1
  assert found.references == captions_of(task, 5)
  assert found.scores == captions.score(found.captions, found.references)
  assert found.loads.keys() == {"image", "text"}
  for load_NHE in found.loads.values():
    close(load_NHE.sum(axis=2), 1.0, rtol=1e-5)
  lines = found.in_words()
  assert lines[0].endswith(f"over {places} masked tokens")
  assert lines[1].endswith("of 5 pictures")
  assert len(lines) == 2 + 2 * 3
  assert found.scalars().items() >= found.scores.items()


def captions_of(task, count):
  """What the generator says of its pictures."""
  source = open_source(task.data.pictures, "validation", 16)
  return [[source[i].record["caption"]] for i in range(count)]


def test_of_fewer_batches_there_are_fewer_captions(made):
  task = made[0]
  tokens_CT = np.zeros((5, 20), np.int32)
  tokens_CT[3, 1:4] = [104, 105, 1]
  sums = {"nll": 6.0, "correct": 1.0, "count": 2.0, "loads": {}}
  written = {"tokens": tokens_CT, "is_written": np.array([0, 0, 0, 1, 0])}
  found = task.summarize({"masked": sums, "captions": written})
  assert found.captions == ["ef"]
  assert found.references == captions_of(task, 4)[3:]
  assert found.masked == (3.0, 0.5, 2)
  with pytest.raises(ValueError, match="must have a picture, got none"):
    task.summarize({"masked": {}, "captions": {}})


def test_a_caption_in_words():
  task = resolve(small_captioning()).task
  tokens = [0, *(byte + 3 for byte in b" a dog "), 1, 104, 104]
  assert task.to_text(np.array(tokens)) == "a dog"
  assert task.to_text(np.array(tokens[:5])) == "a d"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda c: c.model.update({"text_length": 19}),
      "model.text_length must be at least data.text_length, got model.text_length=19, "
      "data.text_length=20.",
    ),
    (
      lambda c: c.objective.update({"label_smoothing": 1.0}),
      "label_smoothing must be below 1, got label_smoothing=1.0.",
    ),
    (
      lambda c: c.objective.update({"num_beams": 0}),
      "num_beams must be at least 1, got num_beams=0.",
    ),
  ],
)
def test_bad_configs(change, message):
  config = small_captioning()
  change(config)
  with pytest.raises(ValueError) as error:
    resolve(config)
  assert str(error.value) == message


def test_no_room_for_the_mask():
  with pytest.raises(ValueError, match=r"for \[MASK\] behind it, got .*=259, 259 toke"):
    resolve(small_captioning(vocab_size=259)).task.check()
