"""The loss and the sums from the equations written out, and what changes neither."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.codes.fit import fit
from mhmoe_jax.codes.vocabulary import encode
from mhmoe_jax.data.masked.rows import sample_pictures
from mhmoe_jax.models.encoder import Inputs
from mhmoe_jax.models.masked import MaskedModel
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.tasks.masked import Masked
from mhmoe_jax.tasks.masked_objective import MaskedObjectiveConfig
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.step import make_train_step
from tests.tasks.pictures import small_masked

close = np.testing.assert_allclose
WEIGHTS = {"image": 1 / 6, "text": 2 / 6, "pair": 3 / 6}
OBJECTIVE = MaskedObjectiveConfig(
  balance_weight=0.3,
  router_z_weight=0.2,
  image_weight=1.0,
  text_weight=2.0,
  pair_weight=3.0,
  local_entropy_weight=0.5,
  global_entropy_weight=0.7,
  global_entropy_least=1.33,  # Of log 4 = 1.386: some modality is above, some below.
)
PLAIN = dataclasses.replace(
  OBJECTIVE,
  balance_weight=0.0,
  router_z_weight=0.0,
  local_entropy_weight=0.0,
  global_entropy_weight=0.0,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The task of the small run, its vocabulary, a training batch, validation batches."""
  cfg = resolve(small_masked(tmp_path_factory.mktemp("masked")))
  task = dataclasses.replace(cfg.task, objective=OBJECTIVE)
  # Of one block, and in the dispatch that compiles fastest, with room for all.
  room = {"capacity_factor": 8.0, "eval_capacity_factor": 8.0}
  task = change(task, num_layers=1, moe={"dispatch": "einsum", **room})
  fixed = fit(task.codes, sample_pictures(task.data, 16), steps=3, seed=0).arrays
  batch = next(task.train_feed(4, [0]))
  valid = {k: [b for b, _ in found] for k, found in task.eval_batches(4).items()}
  return task, fixed, batch, valid


def change(task, **changes):
  moe = dataclasses.replace(task.model.moe, **changes.pop("moe", {}))
  return dataclasses.replace(
    task, model=dataclasses.replace(task.model, moe=moe, **changes)
  )


def parameters(task):
  """Larger than at the start, so that routers and heads prefer something."""
  params = jax.jit(task.init)(jax.random.key(1))
  keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))
  return jax.tree.map(
    lambda x: 1.5 * x + 0.05 * jax.random.normal(next(keys), x.shape), params
  )


def describe(tree):
  return jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)


@pytest.mark.parametrize("batch_size", [4, 8])
def test_shapes_are_those_of_the_feed(made, tmp_path, batch_size):
  task, _, batch, _ = made
  if batch_size == 8:  # Of odd lengths and ratios that round up and down.
    config = small_masked(tmp_path)
    config.data.mask.update({"image": 0.33, "pair_image": 0.01})
    config.data.mask.update({"text": 0.97, "pair_text": 0.02})
    config.data.pair_length, config.data.text.sequence_length = 13, 7
    config.data.streams = 2
    task = resolve(config).task
    batch = next(task.train_feed(batch_size, [0, 1]))
  assert describe(batch) == describe(task.batch_shapes(batch_size))


def sums_of(task, params, fixed, batch):
  """By modality: nats, hits and places; and the auxiliary values. Nothing of masked.py.

  Differentiable; what is asked for is found by loops, and its probability by softmax.
  """
  inputs, asked = {}, {}
  if "pixels" in batch:
    patches_BPU = normalize(to_patches(jnp.asarray(batch["pixels"]), 4))
    inputs |= {"patches_BPU": patches_BPU, "masked_BP": jnp.asarray(batch["masked"])}
    with jax.ensure_compile_time_eval():
      seen_BPU = normalize(to_patches(jnp.asarray(batch["pixels"]), 4))
      ids_BP = np.asarray(encode(task.codes, fixed, seen_BPU))
    asked["image"] = np.zeros((*batch["patch_places"].shape, task.model.num_codes))
    real_B = batch.get("real", np.ones(len(ids_BP)))
    for b, j in np.argwhere(real_B[:, None] * (batch["patch_places"] >= 0)):
      asked["image"][b, j, ids_BP[b, batch["patch_places"][b, j]]] = 1
    if "real" in batch:
      inputs["real_B"] = jnp.asarray(batch["real"]) > 0
  if "tokens" in batch:
    names = ("tokens", "positions", "segments")
    inputs |= {f"{name}_BT": jnp.asarray(batch[name]) for name in names}
    asked["text"] = np.zeros((*batch["targets"].shape, task.model.vocab_size))
    for b, j in np.argwhere(batch["weights"] > 0):
      asked["text"][b, j, batch["targets"][b, j]] = 1
  places = batch.get("patch_places"), batch.get("token_places")
  *logits, pools = MaskedModel(task.model).apply(
    {"params": params}, Inputs(**inputs), *places
  )
  found = {}
  for modality, asked_BJV in asked.items():
    logits_BJV = logits[modality == "text"]
    p_BJV = jnp.exp(logits_BJV - logits_BJV.max(axis=-1, keepdims=True))
    log_BJV = jnp.log(p_BJV / p_BJV.sum(axis=-1, keepdims=True))
    best_BJV = logits_BJV == logits_BJV.max(axis=-1, keepdims=True)
    hits = (asked_BJV * best_BJV).sum()
    found[modality] = -(asked_BJV * log_BJV).sum(), hits, asked_BJV.sum()
  return found, pools


def written_out(task, params, fixed, batch):
  """The loss, a sum of three and of what the routers add."""
  loss = jnp.float32(0)
  metrics = {}
  for kind, weight in WEIGHTS.items():
    found, pools = sums_of(task, params, fixed, batch[kind])
    nll = sum(part[0] for part in found.values())
    loss += weight * nll / sum(part[2] for part in found.values())
    for modality, (nats, hits, count) in found.items():
      name = kind if kind == modality else f"{kind}/{modality}"
      metrics[f"{name}/loss"] = nats / count
      metrics[f"{name}/accuracy"] = hits / count
    for aux in pools.values():
      loss += weight * (0.3 * aux.balance_loss + 0.2 * aux.router_z_loss).sum()
      for part in aux.parts.values():
        loss += weight * 0.5 * part.local_entropy.sum()
        for entropy in part.global_entropy:
          loss += weight * 0.7 * jnp.maximum(0, 1.33 - entropy)
  return loss, metrics


def total(task, params, fixed, batch):
  key, totals = jax.random.key(0), task.totals(batch)
  found = task.loss(params, fixed, batch, key, totals)
  return found.share + found.mean, (found.shares, found.means)


def grad(task, params, fixed, batch):
  function = jax.jit(
    jax.value_and_grad(total, argnums=1, has_aux=True), static_argnums=0
  )
  return function(task, params, fixed, batch)


@pytest.mark.parametrize("pools", ["modality", "shared"])
def test_the_loss_is_three_losses(made, pools):
  """Value and gradient, with all weights; and the metrics.

  Of one pool for both modalities the value alone: programs take long to compile.
  """
  task, fixed, batch, _ = made
  task = change(task, pools=pools)
  params = parameters(task)
  function, gradient = written_out, None
  if pools == "modality":
    function = jax.value_and_grad(written_out, argnums=1, has_aux=True)
    (loss, (shares, means)), gradient = grad(task, params, fixed, batch)
  else:
    loss, (shares, means) = jax.jit(total, static_argnums=0)(task, params, fixed, batch)
  found = jax.jit(lambda p: function(task, p, fixed, batch))(params)
  (wanted, metrics), by_hand = found if gradient else (found, None)
  close(loss, wanted, rtol=1e-5)
  shares = dict(shares)
  for name, value in metrics.items():
    close(shares.pop(name), value, rtol=1e-5, err_msg=name)
  names = ("image", "text", "pair/image", "pair/text")
  losses = [metrics[f"{name}/loss"] for name in names]
  counts = [
    4 * 6,
    batch["text"]["weights"].sum(),
    4 * 6,
    batch["pair"]["weights"].sum(),
  ]
  pooled = np.dot(losses[2:], counts[2:]) / sum(counts[2:])
  close(shares.pop("loss"), np.dot([1, 2, 3], [*losses[:2], pooled]) / 6, rtol=1e-5)
  assert not shares
  least = [means[f"{name}/global_entropy"].min() for name in names]
  assert min(least) < 1.33 < max(least)  # Both sides of the threshold are tried.
  assert {f"{name}/router/load_HE" for name in names} <= means.keys()
  wheres = names if pools == "modality" else [f"{kind}/shared" for kind in WEIGHTS]
  assert {f"{where}/balance_loss" for where in wheres} <= means.keys()
  if gradient is None:
    return
  scale = max(jnp.abs(x).max() for x in jax.tree.leaves(by_hand))
  for (path, x), y in zip(
    jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(by_hand), strict=True
  ):
    close(x, y, atol=2e-6 * scale, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_parts_of_a_batch_add_up_to_it(made):
  """Texts of the parts have unlike numbers of tokens; one has hardly any."""
  task, fixed, batch, _ = made
  task = dataclasses.replace(change(task, ffn="dense"), objective=PLAIN)
  weights = batch["text"]["weights"].copy()
  weights[1::2, 1:] = 0
  batch = batch | {"text": batch["text"] | {"weights": weights}}
  cfg = resolve_optimizer()
  state = {
    "step": jnp.zeros((), jnp.int32),
    "params": parameters(task),
    "rng": jax.random.key_data(jax.random.key(0)),
    "fixed": fixed,
  }
  optimizer = make_optimizer(cfg, 10)
  state["opt_state"] = optimizer.init(state["params"])
  whole, parts = (
    jax.jit(make_train_step(task, optimizer, n))(state, batch) for n in (1, 2)
  )
  assert whole[1].keys() == parts[1].keys()
  for name, x in whole[1].items():
    close(parts[1][name], x, rtol=1e-5, err_msg=name)
  assert whole[1]["grad_norm"] > 0.1


def resolve_optimizer():
  from configs import base

  return resolve(base.get_config()).optimizer


def test_what_is_hidden_changes_nothing(made):
  """Pixels under a mask, but for the id that they have, and padding: not a bit."""
  task, fixed, batch, _ = made
  params = parameters(task)
  draw = np.random.RandomState(0)
  batch = {kind: dict(part) for kind, part in batch.items()}
  for kind in ("text", "pair"):  # of which the last places are padding
    arrays = batch[kind]
    arrays["segments"] = arrays["segments"].copy()
    arrays["segments"][:, 12:] = 0
    arrays["weights"] = arrays["weights"] * (arrays["token_places"] < 12)
  other = {kind: dict(part) for kind, part in batch.items()}
  changed = 0
  for kind in ("image", "pair"):
    pixels, masked = batch[kind]["pixels"], batch[kind]["masked"]
    is_hidden = masked.reshape(4, 4, 1, 4, 1, 1).repeat(4, 2).repeat(4, 4)
    is_hidden = is_hidden.reshape(4, 16, 16, 1)
    noise = draw.randint(-3, 4, pixels.shape) * is_hidden
    shifted = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    ids, now = (
      encode(task.codes, fixed, normalize(to_patches(jnp.asarray(x), 4)))
      for x in (pixels, shifted)
    )
    stays = np.asarray(ids == now).reshape(4, 4, 1, 4, 1, 1).repeat(4, 2).repeat(4, 4)
    other[kind]["pixels"] = np.where(stays.reshape(4, 16, 16, 1), shifted, pixels)
    changed += (other[kind]["pixels"] != pixels).sum()
  assert changed > 1000
  for kind in ("pair", "text"):
    where = batch[kind]["segments"] == 0
    for name in ("tokens", "positions"):
      noise = draw.randint(0, 16, where.shape)
      other[kind][name] = np.where(where, noise, batch[kind][name]).astype(np.int32)
    unused = batch[kind]["weights"] == 0
    for name in ("token_places", "targets"):
      noise = draw.randint(0, 16, unused.shape)
      other[kind][name] = np.where(unused, noise, batch[kind][name]).astype(np.int32)
  assert (other["text"]["tokens"] != batch["text"]["tokens"]).any()
  for x, y in zip(
    jax.tree.leaves(grad(task, params, fixed, batch)),
    jax.tree.leaves(grad(task, params, fixed, other)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)
  # Elsewhere a pixel counts.
  other["image"]["pixels"] = 255 - batch["image"]["pixels"]
  assert (
    grad(task, params, fixed, other)[0][0] != grad(task, params, fixed, batch)[0][0]
  )


@pytest.mark.parametrize("ffn", ["mhmoe", "dense"])
def test_the_sums_of_a_batch(made, ffn):
  """By hand, of real rows alone; and what fills up a batch may be anything."""
  task, fixed, _, valid = made
  task = change(task, ffn=ffn, pools="shared", dropout=0.9, drop_path=0.9)
  params = parameters(task)
  count = jax.jit(task.count)
  for kind, batches in valid.items():
    batch = batches[-1]
    sums = jax.tree.map(np.asarray, count(params, fixed, batch))
    wanted, pools = jax.jit(lambda p, b=batch: sums_of(task, p, fixed, b))(params)
    assert sums.keys() == wanted.keys()
    for modality, (nll, hits, places) in wanted.items():
      found = sums[modality]
      close(found.pop("nll"), nll, rtol=1e-5)
      close([found.pop("correct"), found.pop("count")], [hits, places])
      if ffn == "mhmoe":
        real = {
          "image": 17 * batch.get("real", np.zeros(1)).sum(),
          "text": (batch.get("segments", np.zeros(1)) > 0).sum(),
        }[modality]
        load_NHE = pools["shared"].parts[modality].stats.load_HE
        close(found.pop("load_NHE"), real * load_NHE, rtol=1e-5)
        close(found.pop("tokens"), real)
      assert not found
    if kind != "text":
      assert 0 < batch["real"].sum() < 4
      spoilt = dict(batch)
      # The last row is real in no kind. What tells that it is not stays.
      for name in batch.keys() - {"real", "segments", "weights"}:
        spoilt[name] = batch[name].copy()
        spoilt[name][3] = 1
      again = count(params, fixed, spoilt)
      for x, y in zip(
        jax.tree.leaves(count(params, fixed, batch)),
        jax.tree.leaves(again),
        strict=True,
      ):
        np.testing.assert_array_equal(x, y)


def part(nll, correct, count, **more):
  return {"nll": nll, "correct": correct, "count": count, **more}


def test_means_by_hand():
  """10 + 6 + 2 + 12 nats over 5 + 3 + 4 + 8 places."""
  load, other = np.array([[[3.0, 1.0]]]), np.array([[[0.0, 4.0]]])
  found = Masked.summarize(
    None,
    {
      "image": {"image": part(10.0, 1, 5, load_NHE=load, tokens=4)},
      "text": {"text": part(6.0, 3, 3, load_NHE=load, tokens=4)},
      "pair": {
        "image": part(2.0, 2, 4, load_NHE=other, tokens=4),
        "text": part(12.0, 2, 8, load_NHE=3 * other, tokens=12),
      },
    },
  )
  close(found.loss, 30 / 20)
  wanted = {"loss": 1.5, "perplexity": math.exp(1.5)}
  for name, loss, accuracy in [
    ("image", 2.0, 0.2),
    ("text", 2.0, 1.0),
    ("pair/image", 0.5, 0.5),
    ("pair/text", 1.5, 0.25),
  ]:
    wanted |= {f"{name}/loss": loss, f"{name}/perplexity": math.exp(loss)}
    wanted[f"{name}/accuracy"] = accuracy
  assert found.scalars() == pytest.approx(wanted)
  close(found.loads["image"], [[[3 / 8, 5 / 8]]])
  close(found.loads["text"], [[[3 / 16, 13 / 16]]])
  lines = found.in_words()
  assert lines[0] == "validation      perplexity 4.482 over all masked places"
  assert (
    lines[3] == "  pair/image    perplexity 1.649, 50.0% right, over 4 masked patches"
  )
  assert lines[4].endswith("25.0% right, over 8 masked tokens")
  assert "pair/text 4.48" in found.in_short()


def test_a_hopeless_loss_has_a_perplexity():
  kinds = {"image": {"image": part(1e6, 0, 1)}, "text": {"text": part(1e6, 0, 1)}}
  assert all(map(math.isfinite, Masked.summarize(None, kinds).scalars().values()))


@pytest.mark.parametrize("found", [{}, {"text": part(0.0, 0, 0)}])
def test_nothing_to_evaluate(found):
  with pytest.raises(ValueError) as error:
    Masked.summarize(None, {"image": {"image": part(1.0, 0, 1)}, "text": found})
  assert str(error.value) == (
    "the validation split must have something to mask, got no text with any."
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"image_weight": -1.0}, "image_weight must be at least 0, got image_weight=-1.0."),
    ({"global_entropy_least": -0.1}, "global_entropy_least must be at least 0, got"),
    (
      {"image_weight": 0.0, "text_weight": 0.0, "pair_weight": 0.0},
      "one of image_weight, text_weight and pair_weight must be positive, got 0.",
    ),
  ],
)
def test_bad_weights(changes, message):
  with pytest.raises(ValueError) as error:
    dataclasses.replace(OBJECTIVE, **changes)
  assert str(error.value).startswith(message)


@pytest.mark.parametrize(
  ("dispatch", "pools", "backbone"),
  [("capacity", "modality", "multiway"), ("rounds", "shared", "shared")],
)
def test_dispatches_dtypes_and_remat(made, dispatch, pools, backbone):
  """With room for all they are one loss; in bfloat16, recomputed, about the same.

  Of pairs, which are both modalities: programs take long to compile.
  """
  task, fixed, batch, _ = made
  task = change(task, pools=pools, backbone=backbone)
  params = parameters(task)

  def nats(params, task):
    sums = task.count(params, fixed, batch["pair"])
    return sums["image"]["nll"] + sums["text"]["nll"]

  moe = {"dispatch": dispatch, "eval_capacity_factor": 8.0}
  other = change(task, moe=moe, dtype="bfloat16", remat="blocks")
  both = jax.jit(jax.value_and_grad(nats), static_argnums=1)
  (loss, gradient), (found, found_gradient) = (both(params, t) for t in (task, other))
  close(found, loss, rtol=0.02)
  norms = [
    math.sqrt(sum(float(jnp.square(x).sum()) for x in jax.tree.leaves(tree)))
    for tree in (found_gradient, gradient)
  ]
  close(norms[0], norms[1], rtol=0.1)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found_gradient))
