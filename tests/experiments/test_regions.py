"""The region study's statistics, on patches with known answers."""

import importlib
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.train.config import resolve

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "2612_regions"
NAMES = (
  "config",
  "run",
  "measures",
  "report",
  "sets",
  "study",
)  # other studies have them, too
U, P = 60, 16


@pytest.fixture(scope="module")
def study():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FOLDER)
    for name in NAMES:
      patch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
      del sys.modules[name]


@pytest.fixture
def measures(study):
  return study["measures"]


def test_models_differ_in_what_they_say(study):
  rows = study["config"]
  made = {name: resolve(rows.get_config(name)) for name in rows.ROWS}
  totals = {x: count_parameters(cfg.task).total for x, cfg in made.items()}
  # A wider expert has more biases and norms.
  assert totals["h4"] == pytest.approx(totals["h8"], rel=0.02)
  assert totals["h8_shared"] < totals["h8"]
  assert made["h8_shared"].model.pools == "shared"
  assert [cfg.model.layer.num_heads for cfg in made.values()] == [4, 8, 4, 8]
  with pytest.raises(ValueError, match=r"one of h4, h8, .*got 'h2'"):
    rows.get_config("h2")


def estimates(measures, x_UP, y_UP, bright_UP):
  weight_SU = measures.resample(len(x_UP), 200)
  made = measures.compare(x_UP, y_UP, measures.spans(bright_UP), weight_SU)
  return {name: measures.interval(draws) for name, draws in made.items()}


def random(*sizes):
  return np.random.default_rng(7).normal(size=(3, *sizes))


def test_what_comes_of_places_and_brightness_is_taken_out(measures):
  x_UP, y_UP, bright_UP = random(U, P)
  place_P = np.arange(P) * 0.5
  made = estimates(measures, x_UP + place_P, y_UP + place_P, bright_UP)
  assert made["plain"][1] > 0.5
  assert made["matched"][1] < 0 < made["matched"][2]
  made = estimates(measures, x_UP + 3 * bright_UP, y_UP + 3 * bright_UP, bright_UP)
  assert made["plain"][1] > 0.5
  assert made["matched"][0] < 0.25  # Within a bin of brightness some of it is left.


def test_what_comes_of_texture_stays(measures):
  x_UP, y_UP, bright_UP = random(U, P)
  made = estimates(measures, x_UP, y_UP + x_UP, bright_UP)
  for low, estimate in (
    (made[w][1], made[w][0]) for w in ("plain", "matched", "within")
  ):
    assert 0.6 < low < estimate < 0.8
  # Of whole pictures nothing is left within pictures.
  picture_U1 = np.random.default_rng(1).normal(size=(U, 1)) * 5
  made = estimates(measures, x_UP + picture_U1, y_UP + picture_U1, bright_UP)
  assert made["matched"][1] > 0.5
  assert abs(made["within"][0]) < 0.1


def test_resampling_is_of_pictures(measures):
  x_UP, y_UP, _ = random(U, P)
  weight_SU = measures.resample(U, 3)
  assert (weight_SU[0] == 1).all()
  assert (weight_SU.sum(axis=1) == U).all()
  found_S = measures.correlate(x_UP, y_UP, weight_SU)
  for weight_U, found in zip(weight_SU, found_S, strict=True):
    x, y = (np.repeat(v, weight_U, axis=0).ravel() for v in (x_UP, y_UP))
    assert found == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_what_is_taken_out_is_what_least_squares_fits(measures):
  x_UP, bright_UP, _ = random(U, P)
  edges = np.quantile(bright_UP, np.linspace(0, 1, 11)[1:-1])
  labels = [np.tile(np.arange(P), U), np.digitize(bright_UP.ravel(), edges)]
  labels.append(np.repeat(np.arange(U), P))
  design = np.concatenate([g[:, None] == np.unique(g) for g in labels], axis=1) * 1.0
  rank = x_UP.ravel().argsort().argsort() + 1
  expected = rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0]
  found = measures.residuals(x_UP, measures.spans(bright_UP)["within"])
  np.testing.assert_allclose(found.ravel(), expected, atol=1e-8)


def test_differences_by_hand(measures):
  weight_SU = np.ones((1, 2), np.int64)
  y_UP = np.array([[1.0, 10], [3, 30]])
  inside_UP = np.array([[True, True], [False, False]])
  assert measures.difference(y_UP, inside_UP, ~inside_UP, weight_SU).tolist() == [-11]
  bright_UP = np.array([[0.0, 0], [0, 9]])
  # The second place differs in brightness, so that only the first can be compared.
  found = measures.matched_difference(y_UP, inside_UP, ~inside_UP, bright_UP, weight_SU)
  assert found.tolist() == [-2]


def test_controls_are_what_they_say(study):
  measures = study["measures"]
  pixels = measures.noise(3, 16)
  assert pixels.shape == (3, 16, 16, 3)
  moved = measures.shuffle(pixels, 8)
  assert (moved != pixels).any()

  def patches(picture):
    cut = picture.reshape(2, 8, 2, 8, 3).swapaxes(1, 2).reshape(4, -1)
    return sorted(map(tuple, cut))

  for before, after in zip(pixels, moved, strict=True):
    assert patches(before) == patches(after)


def test_a_fresh_router_is_of_one_layer(study):
  def params(value):
    layer = {"router": {"w_ME": jnp.full((2, 1, 3), value)}, "head": jnp.full(2, value)}
    return {"encoder": {"moe_layers": {"block_0": {"image_moe": layer}}}}

  made = study["study"].with_router(params(1.0), params(5.0), 1)
  layer = made["encoder"]["moe_layers"]["block_0"]["image_moe"]
  assert layer["router"]["w_ME"][:, 0, 0].tolist() == [1, 5]
  assert layer["head"].tolist() == [1, 1]


def test_tables_hold_every_model(study, tmp_path):
  measures, regions = study["measures"], []
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)
  pictures = study["sets"].describe(pixels, 8)
  looked = {step: (rng.integers(1, 9, (6, 4, 2)), []) for step in (0, 2, 8)}
  fresh = {step: (y, [y + 1, y]) for step, (y, _) in looked.items()}
  for name, of in (("photographs", fresh), ("noise", looked)):
    made = study["study"].measure_set(of, pictures)
    regions.append({"row": "h8", "seed": 0, "set": name} | made)
  numbers = regions[0]["steps"]["8"]["correlation"]["deviation"]
  y_UP = looked[8][0].mean(axis=-1)
  weight_SU = measures.resample(6)
  taken_out = measures.spans(pictures.brightness_UP)
  expected = measures.compare(pictures.texture["deviation"], y_UP, taken_out, weight_SU)
  assert numbers["matched"]["trained"] == measures.interval(expected["matched"])
  # One more expert everywhere moves no rank.
  assert numbers["plain"]["fresh"] == pytest.approx(
    [numbers["plain"]["trained"][0]] * 2
  )
  flat = regions[0]["steps"]["8"]["distinct"]
  assert flat["fresh"] == pytest.approx([y_UP.mean() + 1, y_UP.mean()])
  assert flat["above"] == 0
  valid = {f"{x}/perplexity": 9.0 for x in ("image", "text", "pair/image", "pair/text")}
  trained = [{"row": "h8", "seed": 0, "steps": 8, "valid": valid}]
  study["report"].write(regions, [], trained, tmp_path)
  text = (tmp_path / "tables.md").read_text()
  assert f"{numbers['plain']['trained'][0]:+.2f}" in text
  assert "h8, seed 0" in text
