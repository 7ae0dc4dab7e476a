"""The harness for those who may not have it: `mhmoe harness`, and training."""

from collections.abc import Callable
import importlib.util
import os
import shlex
import sys
import types
import urllib.error
import urllib.request

from jax.sharding import Mesh

from mhmoe_jax.train.config import RunConfig

_HUB = "https://huggingface.co"
_SECONDS = 5  # after which the hub counts as out of reach


def load_harness(data: str | None) -> types.ModuleType:
  """Imports harness.py, and keeps it from the network where there is none.

  Hugging Face's libraries read these variables once, when they are imported, and try
  for half a minute, for each data set, to reach a hub that is not there.

  Args:
    data: folder of local files; None: the hub, or its cache.

  Raises:
    ValueError: lm-eval is not installed.
  """
  if importlib.util.find_spec("lm_eval") is None:
    raise ValueError(
      f"the harness needs lm-eval, got no such package: {shlex.quote(sys.executable)} "
      "-m pip install 'mhmoe_jax[eval]'"
    )
  if data is not None or not _reaches_hub():
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
  from mhmoe_jax.evals import harness

  return harness


def _reaches_hub() -> bool:
  request = urllib.request.Request(os.environ.get("HF_ENDPOINT", _HUB), method="HEAD")
  try:
    urllib.request.urlopen(request, timeout=_SECONDS).close()
  except urllib.error.HTTPError:
    return True  # It answers, if with a no.
  except OSError:
    return False
  return True


def make_judge(cfg: RunConfig, mesh: Mesh) -> Callable[[dict], dict[str, float]]:
  """Returns what scores parameters on `mesh` by the tasks that `cfg.train` names.

  Raises:
    ValueError: the harness, a task or its data is not there, or a record does not fit
      into the model's context.
  """
  train = cfg.train
  data = train.harness_data or None
  harness = load_harness(data)
  from mhmoe_jax.evals.lm import RunLM

  suite = harness.Suite(
    [name.strip() for name in train.harness_tasks.split(",")],
    data,
    train.harness_limit or None,
  )
  lm = RunLM(cfg, None, mesh)
  suite.run(lm)  # A rehearsal: what fails shall not fail in the middle of a run.

  def judge(params) -> dict[str, float]:
    lm.params = params
    return harness.scalars(suite.run(lm))

  return judge
