"""Importing tensorflow writes nothing, takes no accelerator and starts no jax."""

import subprocess
import sys

SCRIPT = """
import sys
from mhmoe_jax.data.quiet import tf
from jax._src import xla_bridge
assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}
assert not xla_bridge.backends_are_initialized()
print("stderr still works", file=sys.stderr)
"""


def test_import_is_quiet():
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True
  )
  assert (run.returncode, run.stdout, run.stderr) == (0, "", "stderr still works\n")
