"""Fine-tuning in miniature: configs fit their runs, jobs are all different, tables."""

import importlib
import json
import pathlib
import sys

import pytest

from mhmoe_jax.evals import captions
from mhmoe_jax.tasks.captioning_evaluation import CaptioningEvaluation
from mhmoe_jax.tasks.masked_evaluation import Part
from mhmoe_jax.train.config import resolve

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


def load(folder, *names):
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(EXPERIMENTS / folder)
    for name in names:
      patch.delitem(sys.modules, name, raising=False)
    found = [importlib.import_module(name) for name in names]
    for name in names:
      del sys.modules[name]
    return found


@pytest.fixture(scope="module")
def study():
  return load("2612_vision_language", "config", "run", "report")


def test_every_task_fits_every_model(study):
  (rows,) = load("2612_multimodal", "config")
  tasks, run, _ = study
  for model in run.MODELS:
    masked = rows.get_config(model)
    masked.data.text.vocabulary = "bytes"
    for name, (task, files) in tasks.TASKS.items():
      config = tasks.get_config(name, masked, pathlib.Path("data"))
      tasks.set_steps(config, 40)
      cfg = resolve(config)
      assert cfg.task_name == task
      assert cfg.optimizer.warmup_steps == 4
      for key in ("ffn", "embed_dim", "num_layers", "patch_size", "moe"):
        assert getattr(cfg.model, key) == getattr(resolve(masked).model, key)
      paths = cfg.data.pictures.train.split(",") if files else []
      assert paths == [f"data/{file}_train.npz" for file in files.split()]
  with pytest.raises(ValueError, match=r"one of easy_vqa, nlvr.*got 'vqa'"):
    tasks.get_config("vqa", masked, pathlib.Path("data"))


def test_jobs(study):
  tasks, run, _ = study
  jobs = run.make_jobs(10)
  assert len(jobs) == len(set(jobs)) == 7 * 4 * (3 + 1) + 1
  assert len(set(map(run.name_of, jobs))) == len(jobs)
  assert {job.task for job in jobs} == set(tasks.TASKS)
  assert all(run.job_of({**job._asdict(), "valid": {}}) == job for job in jobs)
  main = [job for job in jobs if job.start == "pretrained" and job.task in run.MAIN]
  assert len(main) == 3 * 4 * 3


def test_tables(study, tmp_path, monkeypatch, capsys):
  _, run, report = study
  accuracies = {"xmoe_8": (0.5, 0.6), "mhmoe_8": (0.6, 0.72), "dense": (0.4,)}
  with (tmp_path / "runs.jsonl").open("w") as file:
    for model, values in accuracies.items():
      for seed, accuracy in enumerate(values):
        valid = {"accuracy": accuracy, "consistency": 0.25, "loss": 0.7}
        job = run.Job("nlvr", model, "pretrained", seed, 10)
        file.write(json.dumps(job._asdict() | {"valid": valid}) + "\n")
  monkeypatch.setattr(sys, "argv", ["report.py", f"--results={tmp_path}"])
  report.main()
  text = (tmp_path / "tables.md").read_text()
  # Of two seeds: 12.706 * sqrt(0.0002) / sqrt(2).
  row = "| mhmoe_8 | pretrained | 2 | 0.660 | 0.250 | 0.700 | +0.110 ± 0.127 |"
  assert row in text
  assert "| xmoe_8 | pretrained | 2 | 0.550 | 0.250 | 0.700 |  |" in text
  assert "| dense | pretrained | 1 | 0.400 | 0.250 | 0.700 | -0.100 |" in text
  assert text.count("###") == 1
  # What is shown are scalars that evaluations have.
  scores = captions.score(["a dog"], [["a dog"]])
  told = CaptioningEvaluation(Part(1.0, 0.5, 1), ["a dog"], [["a dog"]], scores, {})
  assert told.scalars().keys() >= set(report.MEASURES["captioning"])
  assert text in capsys.readouterr().out
