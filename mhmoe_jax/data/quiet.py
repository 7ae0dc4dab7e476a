"""The one door to tensorflow, its data sets and seqio: quiet, without an accelerator.

Every other file of this folder imports them from here. TensorFlow only moves text; JAX
owns the accelerators, so TensorFlow must not see them (it would reserve their memory).
"""

import os
import sys
import tempfile

# Read by TensorFlow once, at import. 2 hides INFO and WARNING, errors still show: what
# it warns of in sixty lines, such as a file, it raises as well. jax, imported before,
# has set 1 if nobody else had set anything.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

# What TensorFlow 2.21 writes to file descriptor 2 before it reads that variable, on a
# machine without a GPU. Nothing else is held back.
_CHATTER = (
  b"before absl::InitializeLog()",
  b"oneDNN custom operations are on",
  b"Could not find cuda drivers",
  b"failed call to cuInit",
)


def _import_quietly():
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      import seqio
      import tensorflow as tf
      import tensorflow_datasets as tfds

      for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
      held.seek(0)
      for line in held:
        if not any(phrase in line for phrase in _CHATTER):
          os.write(2, line)
  return seqio, tf, tfds


seqio, tf, tfds = _import_quietly()
