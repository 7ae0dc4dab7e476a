"""Trained runs on the tasks of EleutherAI's lm-evaluation-harness, in this process.

Prompts, metrics and tables are the harness's; lm.py answers its requests. Two groups
of tasks are added (groups/): `mhmoe_paper1`, Table 2 of 2404.15045, and `mhmoe_xnli`,
Table 3.
"""

import contextlib
import io
import json
import logging
import os
from typing import Any

import datasets
from etils import epath
import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.utils import handle_non_serializable, make_table

from mhmoe_jax.evals import task_index
from mhmoe_jax.evals.lm import RunLM

# For the error of what has no formula, such as a perplexity; the harness takes 100,000,
# which is minutes.
_BOOTSTRAPS = 1_000

# Read where the harness bootstraps: it shall not fork beside jax's threads.
os.environ.setdefault("DISABLE_MULTIPROC", "1")
# Warnings of tasks that were not asked for, and of what is meant to be so.
logging.getLogger("lm_eval").setLevel(logging.ERROR)
datasets.disable_progress_bars()


class Suite:
  """Tasks, ready to be run.

  Args:
    names: see `task_index.load`.
    data: the same.
    limit: records of each task; None: all.
    num_fewshot: solved examples in each prompt; None: as the task has it.

  Raises:
    ValueError: see `task_index.load`.
  """

  def __init__(
    self,
    names: list[str],
    data: str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
  ):
    self._limit = limit
    self._loaded = task_index.load(names, data, limit)
    for name, task in self._loaded["tasks"].items():
      # As lm_eval.simple_evaluate does: tasks whose prompt has its examples keep to 0.
      if num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config("num_fewshot", num_fewshot)
      elif task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
      _check_examples(name, task)
      task.set_fewshot_seed(DEFAULT_OTHER_SEED)

  def run(self, lm: RunLM) -> dict[str, Any]:
    """The harness's results, with the averages that our groups ask for."""
    # A bar for each task, and a line where it bootstraps; `lm` has its own progress.
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
      results = lm_eval.evaluate(
        lm,
        self._loaded,
        limit=self._limit,
        bootstrap_iters=_BOOTSTRAPS,
        log_samples=False,
      )
    for name, group in self._loaded["groups"].items():
      numbers = (group.metadata or {}).get("average")
      if numbers:
        average = _average(numbers, results["results"])
        results["results"][name]["average,none"] = average
        results["higher_is_better"].setdefault(name, {})["average"] = True
        results.setdefault("groups", {})[name] = results["results"][name]
    return results


def _check_examples(name: str, task: ConfigurableTask) -> None:
  shots = task.get_config("num_fewshot")
  if not shots:
    return
  own = task.fewshot_cfg.split == task.config.test_split  # A record's are the others.
  others = len(task.sampler.df) - own
  if shots > others:
    raise ValueError(
      f"num_fewshot must be at most the records that can be examples, got num_fewshot="
      f"{shots}, {others} of them in task {name}."
    )


def _average(numbers: dict[str, list[str]], results: dict[str, dict]) -> float:
  values = [results[task][f"{m},none"] for task, ms in numbers.items() for m in ms]
  return sum(values) / len(values)


def table(results: dict[str, Any]) -> str:
  """Results in the harness's own form."""
  tables = [make_table(results)]
  if "groups" in results:
    tables.append(make_table(results, "groups"))
  return "\n".join(tables)


def scalars(results: dict[str, Any]) -> dict[str, float]:
  """Numbers by name, such as "harness/piqa/acc_norm", without their errors."""
  flat = {}
  for task, metrics in results["results"].items():
    for name, value in metrics.items():
      metric, comma, filtered = name.partition(",")
      if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
        ending = "" if filtered == "none" else f"/{filtered}"
        flat[f"harness/{task}/{metric}{ending}"] = float(value)
  return flat


def save(results: dict[str, Any], about: dict[str, Any], path: str) -> None:
  """Writes results, and what they are of, as JSON."""
  text = json.dumps(results | {"run": about}, indent=2, default=handle_non_serializable)
  epath.Path(path).write_text(text)
