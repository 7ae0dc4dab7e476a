"""Do exported models compute in transformers what they do here? See export.py."""

import pathlib
import sys

import numpy as np
import torch
import transformers


def main(out: str) -> None:
  """Prints how far the logits of each folder are from ours."""
  for folder in sorted(path for path in pathlib.Path(out).iterdir() if path.is_dir()):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
      folder / "exported", dtype=torch.float32, output_loading_info=True
    )
    problems = {key: x for key, x in info.items() if x}
    if problems:
      raise ValueError(f"{folder}: {problems}.")
    ours = np.load(folder / "ours.npz")
    with torch.no_grad():
      theirs = model.eval()(torch.tensor(ours["tokens"]).long()).logits.numpy()
    error = np.abs(theirs - ours["logits"]).max()
    largest = np.abs(ours["logits"]).max()
    print(f"{folder.name:10} largest logit {largest:6.2f}  difference {error:.1e}")
    assert error < 1e-5 * max(largest, 1), folder


if __name__ == "__main__":
  main(*sys.argv[1:])
