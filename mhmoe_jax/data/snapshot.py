"""The place of a tf.data iterator as bytes.

A zip of a TensorFlow checkpoint, which holds all that is under way in the pipeline
(shuffle buffer, open row, prefetched batches), and of a description of the pipeline,
because the checkpoint does not know what it belongs to.
"""

from collections.abc import Mapping
import io
import json
import pathlib
import tempfile
import zipfile

from mhmoe_jax.data.files import writing
from mhmoe_jax.data.quiet import tf

_PIPELINE = "pipeline.json"
_FILE = "file "  # How the keys of fingerprints begin.
_NAMED = 5  # differences; a text may have thousands of files
_UNKNOWN = (
  "the checkpoint has no fingerprints of its text: whether it has changed is not known"
)


def save_iterator(iterator, pipeline: Mapping[str, str | int]) -> bytes:
  """Returns the place of an iterator.

  Args:
    iterator: of a tf.data.Dataset.
    pipeline: all that decides what the iterator yields, as JSON values.
  """
  state = io.BytesIO()
  with (
    writing(tempfile.gettempdir()),
    tempfile.TemporaryDirectory() as directory,
    zipfile.ZipFile(state, "w") as archive,
  ):
    tf.train.Checkpoint(iterator=iterator).write(f"{directory}/iterator")
    _write(archive, _PIPELINE, json.dumps(pipeline).encode())
    for path in sorted(pathlib.Path(directory).iterdir()):
      _write(archive, path.name, path.read_bytes())
  return state.getvalue()


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
  """Without the time of day: equal places are equal bytes."""
  file = zipfile.ZipInfo(name)
  archive.writestr(file, content, zipfile.ZIP_DEFLATED, compresslevel=1)


def restore_iterator(iterator, pipeline: Mapping[str, str | int], state: bytes) -> str:
  """Moves an iterator to the place that save_iterator returned.

  Returns:
    What a user should know, or "": states of earlier versions know no files.

  Raises:
    ValueError: the state is not one, or its pipeline is another.
  """
  if not zipfile.is_zipfile(io.BytesIO(state)):
    raise ValueError(
      f"The state of a feed must be what save returned, got {len(state)} other bytes."
    )
  with (
    tempfile.TemporaryDirectory() as directory,
    zipfile.ZipFile(io.BytesIO(state)) as archive,
  ):
    saved = json.loads(archive.read(_PIPELINE))
    files = [key for key in pipeline if key.startswith(_FILE)]
    is_unknown = bool(files) and not any(key.startswith(_FILE) for key in saved)
    if is_unknown:
      pipeline = {key: pipeline[key] for key in pipeline if key not in files}
    differences = [
      f"{key}={saved.get(key)!r} in the state but {pipeline.get(key)!r} here"
      for key in sorted(
        saved.keys() | pipeline.keys(), key=lambda key: (key.startswith(_FILE), key)
      )
      if saved.get(key) != pipeline.get(key)
    ]
    if differences:
      more = len(differences) - _NAMED
      raise ValueError(
        "A feed restores only the state of an equal feed, got "
        + ", ".join(differences[:_NAMED])
        + (f", and {more} more" if more > 0 else "")
        + "."
      )
    with writing(directory):
      archive.extractall(directory)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    checkpoint.read(f"{directory}/iterator").assert_consumed()
  return _UNKNOWN if is_unknown else ""
