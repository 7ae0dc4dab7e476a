"""Sub-tokens cross from process to process, over localhost and gloo."""

import sys

from mhmoe_jax.moe.config import DISPATCHES
from tests.train.pair import start_pair


def test_two_processes_equal_one_device(tmp_path):
  """Also where all choices fall on two devices of one process."""
  # Of 8 choices a device sends 2 in a round, and has 4 for each.
  with start_pair([sys.executable, "-m", "tests.moe.crossing"], tmp_path) as pair:
    for text in pair.finish():
      found = [
        line for line in text.splitlines() if line.partition(" ")[0] in DISPATCHES
      ]
      assert found == [f"{d} {2 if d == 'rounds' else 1}" for d in DISPATCHES]
