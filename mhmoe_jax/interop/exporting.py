"""A run's parameters as a folder of safetensors, with all that belongs to them."""

from collections.abc import Iterator
import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from mhmoe_jax.checkpoints import saved
from mhmoe_jax.data import huggingface
from mhmoe_jax.interop import card, expressing, layout, tensors
from mhmoe_jax.train.config import RunConfig

LAYOUTS = ("auto", "mhmoe")


def export_model(
  cfg: RunConfig,
  workdir: str,
  out: str,
  step: int | None = None,
  layout_name: str = "auto",
  shard_bytes: int = 5 * 10**9,
) -> int:
  """Writes a folder that transformers, or `importing`, reads.

  In memory is one shard at a time, and one layer of one parameter.

  Args:
    cfg: of the run.
    workdir: of the run.
    out: local folder to make.
    step: of the checkpoint; None for the newest.
    layout_name: "auto", Hugging Face's layout of a dense model or an SMoE and our own
      of an MH-MoE, or "mhmoe", our own.
    shard_bytes: of the tensors in a file, at most.

  Returns:
    The number of files of tensors.

  Raises:
    ValueError: no model of Hugging Face's computes what this one does; there is no
      checkpoint, or it is damaged or of another model; `out` is not empty.
  """
  if layout_name not in LAYOUTS:
    raise ValueError(
      f"layout must be one of {', '.join(LAYOUTS)}, got layout={layout_name!r}."
    )
  cfg.need("language", "an export")
  own = layout_name == "mhmoe" or cfg.model.ffn == "mhmoe"
  stored = saved.open_params(workdir, step)
  _check_model(cfg, stored.about)
  pieces = layout.own_pieces(cfg.model) if own else expressing.export_pieces(cfg.model)
  folder = pathlib.Path(out)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise ValueError(f"--out must be a new or an empty folder, got {out}.")
  folder.mkdir(parents=True, exist_ok=True)

  vocabulary = huggingface.export_vocabulary(cfg.data.vocabulary, out)
  sizes = {piece.name: 4 * math.prod(piece.file_shape) for piece in pieces}
  files = tensors.write(out, sizes, _read(stored, pieces), shard_bytes)
  stored.check()
  about = _own_config(cfg, stored.about) if own else _their_config(cfg)
  about |= vocabulary
  (folder / "README.md").write_text(card.write_card(cfg, stored, about))
  # Last: a folder without it was not finished.
  (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")
  return files


def _read(
  stored: saved.StoredParams, pieces: list[layout.Piece]
) -> Iterator[tuple[str, np.ndarray]]:
  """Each tensor, from a checkpoint of which every layer's part is read once."""
  part = held = None
  for piece in pieces:
    if part != (piece.path, piece.index[:1]):
      part = piece.path, piece.index[:1]
      held = None  # Before the next is read.
      held = stored.read(*part)
    yield piece.name, piece.to_file(held[piece.index[1:]])


def _check_model(cfg: RunConfig, about: dict[str, Any]) -> None:
  wanted = {
    "/".join(("params", *path)): f"shape {shape} float32"
    for path, shape in layout.parameter_shapes(cfg.model).items()
  }
  found = {k: v for k, v in about["shapes"].items() if k.startswith("params/")}
  wrong = sorted(k for k in wanted | found if wanted.get(k) != found.get(k))
  if wrong:
    raise ValueError(
      f"the config must be of the checkpoint's model, got {wrong[0]} with "
      f"{wanted.get(wrong[0], 'no array')} in the one, "
      f"{found.get(wrong[0], 'no array')} in the other ({len(wrong) - 1} others)."
    )


def _own_config(cfg: RunConfig, about: dict[str, Any]) -> dict[str, Any]:
  return {
    "model_type": "mhmoe",
    "max_position_embeddings": cfg.data.sequence_length,
    "config": about["config"] | {"model": dataclasses.asdict(cfg.model)},
  }


def _their_config(cfg: RunConfig) -> dict[str, Any]:
  return expressing.write_model(cfg.model, cfg.data.sequence_length)
