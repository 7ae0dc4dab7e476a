"""What tells the pictures of a training split from others, for runs that go on."""

from collections.abc import Mapping
from typing import Any

from mhmoe_jax.data.fingerprints import fingerprint
from mhmoe_jax.data.images.index import files_of
from mhmoe_jax.data.images.sources import PictureConfig

# How an error about other data ends, unless the user accepts them.
ACCEPT = " With --accept_changed_data the run goes on and begins the data anew."


def identify(cfg: PictureConfig) -> dict[str, Any]:
  """What decides which pictures a training split has, and in which order."""
  about = {"source": cfg.source, "text_key": cfg.text_key}
  if cfg.source == "shapes":
    return about | {"num_train": cfg.num_train, "seed": cfg.seed}
  about["train"] = cfg.train
  if cfg.source == "tfds":
    return about | {"name": cfg.name}
  # Of a folder of pictures its index: a run cannot read a million of them to begin.
  return about | fingerprint(files_of(cfg.train))


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Raises ValueError, naming it, for what differs of two pipelines."""
  for key in sorted(saved.keys() | now.keys()):
    if saved.get(key) != now.get(key):
      raise ValueError(
        f"the data must be that of the checkpoint, got {key} {now.get(key)!r}, which "
        f"was {saved.get(key)!r}."
      )


def check_kept(saved: Mapping[str, Any], now: Mapping[str, Any], key: str, what: str):
  """Raises ValueError for another `key`, without which parameters mean nothing."""
  if saved[key] != now[key]:
    raise ValueError(
      f"a run must go on with the {what} that it began with, got {now[key]}, which was "
      f"{saved[key]}."
    )
