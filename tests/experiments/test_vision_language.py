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
  return load("2612_vision_language", "config", "run", "report", "references")


def test_every_task_fits_every_model(study):
  (rows,) = load("2612_multimodal", "config")
  tasks, run, *_ = study
  for model in run.MODELS:
    masked = rows.get_config(model)
    masked.data.text.vocabulary = "bytes"
    for name, data in tasks.TASKS.items():
      config = tasks.get_config(name, masked, pathlib.Path("data"))
      cfg = resolve(config)
      assert cfg.task_name == data.task
      assert cfg.optimizer.warmup_steps == data.steps // 10
      for key in ("ffn", "embed_dim", "num_layers", "patch_size", "moe"):
        assert getattr(cfg.model, key) == getattr(resolve(masked).model, key)
      paths = cfg.data.pictures.train.split(",") if data.files else []
      assert paths == [f"data/{file}_train.npz" for file in data.files.split()]
  with pytest.raises(ValueError, match=r"one of easy_vqa, nlvr.*got 'vqa'"):
    tasks.get_config("vqa", masked, pathlib.Path("data"))


def test_jobs(study):
  tasks, run, *_ = study
  jobs = run.make_jobs()
  assert len(jobs) == len(set(jobs)) == 7 * 3 * (3 + 1) + 3 * 3 + 1
  assert len(set(map(run.name_of, jobs))) == len(jobs)
  assert {job.task for job in jobs} == set(tasks.TASKS)
  assert all(run.job_of({**job._asdict(), "valid": {}}) == job for job in jobs)
  main = [job for job in jobs if job.start == "pretrained" and job.task in run.MAIN]
  assert len(main) == 3 * 4 * 3


def test_tables(study, tmp_path, monkeypatch, capsys):
  _, run, report, _ = study
  accuracies = {"xmoe_8": (0.5, 0.6), "mhmoe_8": (0.6, 0.72), "dense": (0.4,)}
  with (tmp_path / "runs.jsonl").open("w") as file:
    for model, values in accuracies.items():
      for seed, accuracy in enumerate(values):
        valid = {"accuracy": accuracy, "consistency": 0.25, "loss": 0.7}
        job = run.Job("nlvr", model, "pretrained", seed, 10)
        file.write(json.dumps(job._asdict() | {"valid": valid}) + "\n")
  (tmp_path / "references.json").write_text('{"nlvr": 0.55}')
  monkeypatch.setattr(sys, "argv", ["report.py", f"--results={tmp_path}"])
  report.main()
  text = (tmp_path / "tables.md").read_text()
  # Of two seeds: 12.706 * sqrt(0.0002) / sqrt(2).
  row = "| mhmoe_8 | pretrained | 2 | 0.660 | 0.250 | 0.700 | +0.110 ± 0.127 |"
  assert row in text
  assert "| xmoe_8 | pretrained | 2 | 0.550 | 0.250 | 0.700 |  |" in text
  assert "| dense | pretrained | 1 | 0.400 | 0.250 | 0.700 | -0.100 |" in text
  assert text.count("###") == 1
  assert "| without pictures | | | 0.550 | | | |\n" in text
  # What is shown are scalars that evaluations have.
  scores = captions.score(["a dog"], [["a dog"]])
  told = CaptioningEvaluation(Part(1.0, 0.5, 1), ["a dog"], [["a dog"]], scores, {})
  assert told.scalars().keys() >= set(report.MEASURES["captioning"])
  assert text in capsys.readouterr().out


def test_what_can_be_had_without_pictures(study, tmp_path, monkeypatch):
  """Answers by a question's words, the more frequent label, one caption for all."""
  references = study[-1]
  monkeypatch.setattr(references.tasks, "NUM_GENERATED", {"train": 40, "valid": 10})
  rows = {
    "easy_vqa_train": [
      ("a?", "yes"),
      ("a?", "yes"),
      ("a?", "no"),
      ("b?", "no"),
      ("b?", "no"),
    ],
    "easy_vqa_valid": [("a?", "yes"), ("a?", "no"), ("b?", "no"), ("new?", "yes")],
  }
  found = {
    name: [{"question": q, "answer": a} for q, a in pairs]
    for name, pairs in rows.items()
  }
  found["nlvr_train"] = [{"label": x} for x in ("true", "false", "true")]
  found["nlvr_valid"] = [{"label": x} for x in ("true", "false", "false")]
  found["emoji_train"] = [{"text": x} for x in ("red dog", "blue cat sits", "a")]
  found["emoji_valid"] = [{"text": x} for x in ("blue cat sits", "green")]
  for name in ("openclipart", "tuxpaint"):
    found[f"{name}_train"] = found["emoji_train"]
    found[f"{name}_valid"] = found["emoji_valid"]
  for name, lines in found.items():
    text = "\n".join(map(json.dumps, lines)) + "\n"
    (tmp_path / f"{name}.jsonl").write_text(text)
  argv = ["references.py", f"--data={tmp_path}", f"--out={tmp_path}"]
  monkeypatch.setattr(sys, "argv", argv)
  references.main()
  result = json.loads((tmp_path / "results" / "references.json").read_text())
  assert result["easy_vqa"] == 0.5  # "b?", and one of "a?"; the unseen one is "no"
  assert result["nlvr"] == pytest.approx(1 / 3)
  assert result["emoji"]["caption"] == "blue cat sits"
  assert result["emoji"]["cider_d"] > 0
  assert result.keys() >= {"shapes_vqa", "shapes_nlvr", "shapes"}
  assert 0 <= result["shapes_vqa"] < 1
  assert result["shapes"]["caption"].startswith("a ")
