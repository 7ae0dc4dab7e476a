"""When multi-head routing pays: rows of equal work and size, jobs all different."""

import dataclasses
import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

from experiments import intervals
from mhmoe_jax.checkpoints.restore import load_model
from mhmoe_jax.plan import matching
from mhmoe_jax.plan.accounting import count_flops, count_parameters
from mhmoe_jax.train import loop
from mhmoe_jax.train.config import resolve

STUDY = pathlib.Path(__file__).parents[2] / "experiments" / "2612_when_it_pays"


@pytest.fixture(scope="module")
def study():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(STUDY)
    names = ["config", "run", "report", "starts", "flow", "routing", "zero_shot"]
    names += ["curves", "differences", "figures"]
    for name in names:
      patch.delitem(sys.modules, name, raising=False)
    found = [importlib.import_module(name) for name in names]
    for name in names:
      del sys.modules[name]
    return found


def test_rows_have_the_work_and_size_of_their_smoe(study):
  """Of layers without routers; and of two whole models with them."""
  rows = study[0]
  for name, row in rows.ROWS.items():
    if name == "equal_size":  # of more work
      smoe = rows.ROWS["smoe_192"].layer
      size = matching.parameters(row.layer, 192) / matching.parameters(smoe, 192)
      assert 0.995 < size <= 1
      assert matching.macs(row.layer, 192) > 1.8 * matching.macs(smoe, 192)
    elif name == "narrow":
      linear = dataclasses.replace(rows.ROWS["linear"].layer, num_linear=0)
      assert row.layer == linear
    elif row.layer is not None:
      for count, room in ((matching.parameters, 0.05), (matching.macs, 0.015)):
        wanted = count(rows.ROWS[f"smoe_{row.width}"].layer, row.width)
        assert wanted * (1 - room) < count(row.layer, row.width) <= 1.006 * wanted, name
  models = [rows.get_config(name) for name in ("smoe_192", "mhmoe_192_8")]
  for config in models:
    config.data.vocabulary = "bytes"  # of the same number of rows
  smoe, mhmoe = map(resolve, models)
  size = [count_parameters(cfg.task).total for cfg in (smoe, mhmoe)]
  work = [count_flops(cfg, training=False).forward for cfg in (smoe, mhmoe)]
  assert abs(size[1] / size[0] - 1) < 0.01
  assert abs(work[1] / work[0] - 1) < 0.02


def test_a_factor_changes_the_config_by_itself(study):
  rows = study[0]
  for prefix, base in (("", rows.get_config()), ("smoe,", rows.get_config("smoe_192"))):
    changed = rows.get_config(f"{prefix}balance_weight=0.1")
    assert changed.objective.balance_weight == 0.1
    changed.objective.balance_weight = base.objective.balance_weight
    assert changed.to_dict() == base.to_dict()
    changed = rows.get_config(f"{prefix}router=cosine")
    assert changed.model.moe.router == "cosine"
    changed.model.moe.router = base.model.moe.router
    assert changed.to_dict() == base.to_dict()
    drops = rows.get_config(f"{prefix}capacity=1.0").model.moe
    assert drops.dispatch == "capacity"
    assert drops.capacity_factor == drops.eval_capacity_factor == 1
  with pytest.raises(ValueError, match=r"one of dense_96, .*got 'mhmoe'"):
    rows.get_config("mhmoe")


def test_jobs(study):
  rows, run = study[:2]
  jobs = run.make_jobs("all")
  assert len(jobs) == len(set(jobs)) == len(set(map(run.name_of, jobs)))
  assert {job.row for job in jobs} == set(rows.ROWS)
  assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
  assert all(run.job_of({**job._asdict(), "valid_loss": 1.0}) == job for job in jobs)
  with pytest.raises(ValueError, match="table must be all, width"):
    run.make_jobs("1")
  assert run.make_jobs("main", "split") == [
    run.Job("split", seed, run.LONG) for seed in run.SEEDS
  ]
  with pytest.raises(ValueError, match=r"row must be one of smoe_192, .*got row='spl'"):
    run.make_jobs("main", "spl")


def test_tables_and_figures_compare_the_same_seeds(study, tmp_path, monkeypatch):
  """By hand: seed 1 is easier by 1 for all, and only one seed of the SMoE has run."""
  _, run, report = study[:3]
  losses = {("smoe_192", 0): 4.0, ("mhmoe_192_2", 0): 4.25, ("mhmoe_192_2", 1): 3.25}
  losses |= {("router=cosine", 0): 4.45, ("router=cosine", 1): 3.15}
  losses[("dense_96", 2)] = 5.0
  results = [
    run.Job(row, seed)._asdict()
    | {"valid_loss": loss, "parameters": 3_640_000, "active_experts": 0.5}
    for (row, seed), loss in losses.items()
  ]
  (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, results)))
  monkeypatch.setattr("sys.argv", ["report.py", "--results", str(tmp_path)])
  report.main()
  text = (tmp_path / "tables.md").read_text()
  assert "| mhmoe_192_2, sub-tokens of 96 | 2 | 3.750 | +0.250 | 3.64 M | 50% |" in text
  # No two rows have all seeds, so that nothing tells how far runs spread.
  assert "| router=cosine | 2 | 3.800 | +0.050 | 3.64 M | 50% |" in text
  assert "| dense_96 | 1 | 5.000 |  |" in text
  assert {path.name for path in tmp_path.glob("*.png")} == {"width.png", "factors.png"}


def test_wide_long_and_languages_are_reported(study, tmp_path, monkeypatch):
  _, run, report = study[:3]
  losses = {
    run.Job("smoe_512", 1, run.STEPS, 0.002): 4.0,
    run.Job("split_512", 1, run.STEPS, 0.002): 3.75,
    run.Job("languages,smoe_192", 0): 3.0,
    run.Job("languages,split", 0): 3.125,
    run.Job("smoe_192", 2, run.LONG): 3.5,
    run.Job("dense_192", 2, run.LONG): 4.0,
  }
  results = [
    job._asdict() | {"valid_loss": loss, "parameters": 1e6, "active_experts": None}
    for job, loss in losses.items()
  ]
  (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, results)))
  monkeypatch.setattr("sys.argv", ["report.py", "--results", str(tmp_path)])
  report.main()
  text = (tmp_path / "tables.md").read_text()
  assert "| split_512, 0.002 | 1 | 3.750 | -0.250 | 1.00 M |  |" in text
  assert "| split | 1 | 3.125 | +0.125 | 1.00 M |  |" in text
  assert "| dense_192 | 1 | 4.000 | +0.500 |  | 1.00 M |  |" in text
  assert (tmp_path / "main.png").stat().st_size > 5_000


def test_intervals_come_from_what_all_rows_share(study):
  """By hand: differences of 0.25, 0.35, 0.30 have a standard deviation of 0.05."""
  run, differences = study[1], study[8]
  losses = {"smoe_192": (4.0, 3.0, 5.0), "mhmoe_192_2": (4.25, 3.35, 5.3)}
  found = {
    job: {"valid_loss": loss}
    for row, of_row in losses.items()
    for job, loss in zip(differences.seeds_of(row), of_row, strict=True)
  }
  found[run.Job("router=cosine", 0)] = {"valid_loss": 4.2}
  smoe, mhmoe = map(differences.seeds_of, losses)
  # 4.303 * 0.05 / sqrt(3), as Student's t of the pairs; and of one pair.
  assert differences.told(found, mhmoe, smoe) == "+0.300 ± 0.124"
  cosine = differences.seeds_of("router=cosine")
  assert differences.told(found, cosine, mhmoe) == "-0.050 ± 0.215"
  # Of more steps one pair has run: the spread is that of fewer.
  later = [differences.seeds_of(row, run.LONG) for row in losses]
  found |= {jobs[0]: {"valid_loss": 3.0 + i} for i, jobs in enumerate(later)}
  assert differences.told(found, later[1], later[0]) == "+1.000 ± 0.215"

  spread = intervals.common_spread([[0, 1], [0, 1], [0, 1.3]])
  np.testing.assert_allclose(spread, [0.03 / 2, 2])
  assert intervals.common_spread([[0, 1]]) is None


def test_a_start_and_what_flows(study, tmp_path):
  """With a merge layer of zeros nothing leaves the layer, and no expert learns."""
  rows, _, _, starts, flow = study[:5]
  config = rows.get_config("start=zero_merge", steps=10)
  config.data.vocabulary, config.data.sequence_length = "bytes", 16
  config.model.num_layers, config.model.vocab_size = 2, 264
  seen = {}
  for start in ("", "unit_variance", "zero_merge"):
    workdir = str(tmp_path / (start or "as_it_is"))
    starts.begin(config, start, workdir)
    cfg, params = load_model(workdir, step=0)
    tokens = np.random.default_rng(0).integers(0, 256, (2, 16))
    batch = {
      "inputs": tokens,
      "targets": tokens,
      "positions": np.arange(16) + 0 * tokens,
    }
    batch |= {"segments": 0 * tokens + 1, "weights": np.float32(tokens >= 0)}
    seen[start] = flow.flow_forward(cfg, params, batch)
    if start == "zero_merge":
      norms = flow.flow_backward(cfg, params, batch)
  np.testing.assert_allclose([x["into"] for x in seen.values()], 1, rtol=1e-4)
  assert seen["zero_merge"] == seen[""] | {"out": 0.0}
  np.testing.assert_allclose(
    seen["unit_variance"]["head"] / seen[""]["head"], 2, rtol=1e-4
  )
  assert 0.3 < seen["unit_variance"]["experts"] < 1.2  # of two experts' mean
  assert norms["experts"] == norms["head"] == [0, 0] < norms["merge"]
  # A run that is there goes on as it is.
  starts.begin(config, "unit_variance", workdir)
  block = load_model(workdir, step=0)[1]["layers"]["block_1"]
  assert not block["moe"]["merge"]["w_0_DP"].any()


def test_routing_and_tasks_of_a_run(study, tmp_path):
  """At the end of training choices are those of the end; room for all drops nothing."""
  rows, routing, zero_shot = study[0], study[5], study[6]
  config = rows.get_config("mhmoe_192_2", steps=4)
  config.data.source, config.data.vocabulary = "text", "bytes"
  text = tmp_path / "text.txt"
  text.write_text("The cat sat on the mat, and nobody asked it why.\n\n" * 40)
  config.data.train = config.data.valid = str(text)
  config.data.shuffle_buffer, config.train.eval_batches = 10, 1
  config.data.sequence_length, config.train.batch_size = 32, 8
  config.model.num_layers, config.model.vocab_size = 2, 264
  config.train.checkpoint_every = 2
  workdir = tmp_path / "run"
  loop.train(config, str(workdir))
  found = routing.measure(
    workdir, "bytes", text, tmp_path / "traces", steps=(2, 4), factors=(0.5, 8.0)
  )
  assert found["training"]["saturation"][1] == 1 > found["training"]["saturation"][0]
  assert found["drops"]["choices"][0] > found["drops"]["choices"][1] == 0
  assert found["drops"]["extra"][1] == pytest.approx(0, abs=1e-5)
  assert sum(found["position"]["distinct"]) / routing.BINS == pytest.approx(
    found["distinct"]["mean"], abs=0.05
  )
  tasks = tmp_path / "tasks"
  tasks.mkdir()
  record = {
    "query": "Question: What sat?\nAnswer:",
    "choices": ["cat", "why"],
    "gold": 0,
  }
  (tasks / "arc_easy.jsonl").write_text(json.dumps(record) + "\n")
  scores = zero_shot.ask(workdir, "bytes", tasks, names=("arc_easy",))
  assert scores["arc_easy"][0] in (0, 1)


def test_fits_find_what_made_the_points(study):
  """By hand: 0.1 nats less 0.02 for ten times the tokens; and two power laws."""
  curves = study[7]
  tokens = np.array([1e6, 1e6, 1e7, 1e7, 1e8])
  noise = np.array([0.01, -0.01, 0.01, -0.01, 0])
  slope, at, half = curves.extend(tokens, 0.1 - 0.02 * np.log10(tokens / 1e7), 1e9)
  np.testing.assert_allclose([slope, at, half], [-0.02, 0.06, 0], atol=1e-12)
  noisy = curves.extend(tokens, 0.1 - 0.02 * np.log10(tokens / 1e7) + noise, 1e9)
  assert noisy[2] > 0.01

  losses = {
    name: [(t, 2 + factor * (t / 1e6) ** -0.3) for t in tokens]
    for name, factor in (("smoe", 2.0), ("mhmoe", 2.2))
  }
  (least, power, *factors), at, half = curves.power_law(losses, 1e9)
  np.testing.assert_allclose([least, power, *factors], [2, 0.3, 2, 2.2], rtol=1e-4)
  np.testing.assert_allclose([at, half], [0.2 * 1e3**-0.3, 0], atol=1e-4)
