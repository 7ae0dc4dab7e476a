"""What starts a run on a pod: scripts that lint, a manifest that fits its schema.

Nothing here talks to a cloud. The Job inside the manifest is held against Kubernetes'
own schema; no package has that of JobSet, so its few keys are checked by hand.
"""

import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import kubernetes_validate
from ml_collections import ConfigDict
import pytest
import yaml

from configs import base
from mhmoe_jax.cli.models import EXIT_STOPPED
from mhmoe_jax.train.config import resolve

ROOT = pathlib.Path(__file__).parents[2]
POD = ROOT / "experiments" / "pod"


@pytest.fixture(scope="module")
def jobset():
  return yaml.safe_load((POD / "jobset.yaml").read_text())


@pytest.fixture(scope="module")
def job(jobset):
  return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_scripts_lint():
  beside_python = str(pathlib.Path(sys.executable).parent)
  name = shutil.which("shellcheck", path=f"{beside_python}:{os.environ['PATH']}")
  run = subprocess.run([name, *POD.glob("*.sh")], capture_output=True, text=True)
  assert run.returncode == 0, run.stdout


def test_jobset_has_the_keys_of_its_kind(jobset):
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert jobset["kind"] == "JobSet"
  spec = jobset["spec"]
  assert spec.keys() == {"failurePolicy", "replicatedJobs"}
  assert spec["failurePolicy"].keys() == {"maxRestarts", "rules"}
  (rule,) = spec["failurePolicy"]["rules"]
  assert rule == {
    "action": "RestartJobSetAndIgnoreMaxRestarts",
    "onJobFailureReasons": ["PodFailurePolicy"],
  }
  (replicated,) = spec["replicatedJobs"]
  assert replicated.keys() == {"name", "replicas", "template"}
  assert replicated["template"].keys() == {"spec"}


def test_the_job_fits_the_schema(job):
  resource = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}}
  version = kubernetes_validate.latest_version()
  kubernetes_validate.validate(resource | {"spec": job}, version, strict=True)
  wrong = resource | {"spec": job | {"backofLimit": 0}}
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(wrong, version, strict=True)


def test_preempted_runs_start_again(job):
  stopped, lost = job["podFailurePolicy"]["rules"]
  assert stopped["onExitCodes"]["values"] == [EXIT_STOPPED]
  (container,) = job["template"]["spec"]["containers"]
  assert stopped["onExitCodes"]["containerName"] == container["name"]
  assert lost["onPodConditions"][0]["type"] == "DisruptionTarget"
  assert {rule["action"] for rule in (stopped, lost)} == {"FailJob"}
  # A Job with this policy must not restart pods itself.
  assert job["template"]["spec"]["restartPolicy"] == "Never"
  assert job["backoffLimit"] == 0


def test_the_command_fits_the_slices(jobset, job):
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  verb, flags = container["command"][:3], container["command"][3:]
  assert verb == ["mhmoe", "train", "--distributed"]
  config = ConfigDict(base.get_config().to_dict()).lock()
  for flag in flags:
    key, value = flag.removeprefix("--").split("=")
    if key.startswith("config."):
      config.update_from_flattened_dict(
        {key.removeprefix("config."): yaml.safe_load(value)}
      )
  mesh, data = resolve(config).mesh, resolve(config).data
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  chips = math.prod(map(int, topology.split("x")))
  slices = jobset["spec"]["replicatedJobs"][0]["replicas"]
  assert (mesh.replica, mesh.data * mesh.expert * mesh.model) == (slices, chips)
  hosts = job["parallelism"]
  assert hosts == job["completions"]
  assert hosts * container["resources"]["limits"]["google.com/tpu"] == chips
  assert data.streams % (slices * hosts) == 0
  assert config.train.batch_size % (slices * chips) == 0
  assert config.train.batch_size % data.streams == 0


WORKER = str(POD / "worker.sh")


def environment(tmp_path):
  return {**os.environ, "HOME": str(tmp_path), "PAUSE": "0"}


def test_a_worker_starts_again_until_it_is_done(tmp_path):
  starts = f"echo >> {tmp_path}/starts; exit $((3 - $(wc -l < {tmp_path}/starts)))"
  for restarts, code in ((1, 1), (5, 0)):
    (tmp_path / "starts").unlink(missing_ok=True)
    command = [WORKER, str(restarts), "bash", "-c", starts]
    run = subprocess.run(command, env=environment(tmp_path), capture_output=True)
    assert run.returncode == code
    assert (tmp_path / "train.done").exists() == (code == 0)
  assert (tmp_path / "starts").read_text() == "\n" * 3


def test_a_worker_hands_sigterm_on_and_waits(tmp_path):
  on_term = f"trap 'sleep 0.2; touch saved; exit {EXIT_STOPPED}' TERM"
  command = ["bash", "-c", f"{on_term}; echo up; while :; do sleep 0.05; done"]
  with subprocess.Popen(
    [WORKER, "5", *command],
    env=environment(tmp_path),
    cwd=tmp_path,
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as worker:
    try:
      assert worker.stdout.readline() == "up\n"
      worker.send_signal(signal.SIGTERM)
      assert worker.wait(timeout=30) == EXIT_STOPPED
    except BaseException:  # Its command must not be left over.
      os.killpg(worker.pid, signal.SIGKILL)
      raise
  assert (tmp_path / "saved").exists()
  assert not (tmp_path / "train.done").exists()
