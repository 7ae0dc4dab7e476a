"""Fine-tuning of the multi-modal study's models: config.py:TASK, such as easy_vqa.

`run.py` beside this file trains them, each from a run of `experiments/2612_multimodal`.

  easy_vqa       questions about one shape on a ground, 13 answers
  shapes_vqa     questions about generated pictures, 25 answers
  nlvr           statements about three boxes; trained on "dev", validated on "hidden"
  shapes_nlvr    statements about two generated pictures
  emoji          captions: the English name of an emoji, no motif in both splits
  drawings       captions: titles of openclipart, sentences of Tux Paint's stamps
  shapes         captions of generated pictures
  coco           captions of 77 photographs, which are too few to learn anything from
"""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base_finetune


class Data(NamedTuple):
  """What a task trains on."""

  task: str
  files: str  # names without their split, or "" for generated shapes
  length: int  # of a text in tokens; the few longer ones are cut
  steps: int
  batch: int = 16


TASKS = {
  "easy_vqa": Data("vqa", "easy_vqa", 18, 2000, batch=32),
  "nlvr": Data("nlvr", "nlvr", 34, 400, batch=8),
  "emoji": Data("captioning", "emoji", 30, 400),
  "shapes_vqa": Data("vqa", "", 32, 2000, batch=32),
  "shapes_nlvr": Data("nlvr", "", 48, 400, batch=8),
  "drawings": Data("captioning", "openclipart tuxpaint", 48, 400),
  "shapes": Data("captioning", "", 48, 400),
  "coco": Data("captioning", "coco", 48, 100),
}
NUM_GENERATED = {"train": 20_000, "valid": 1_000}  # pictures


def get_config(name: str, masked: ConfigDict, data: pathlib.Path) -> ConfigDict:
  """The config of a task.

  Args:
    name: of the task.
    masked: the config of the run that it starts from.
    data: folder of pictures, README.md says which.
  """
  if name not in TASKS:
    raise ValueError(f"the task must be one of {', '.join(TASKS)}, got {name!r}.")
  task, files, length, steps, batch = TASKS[name]
  config = base_finetune.tune(masked, task)
  pictures = config.data.pictures
  pictures.source = "npz" if files else "shapes"
  for split in ("train", "valid"):
    paths = [str(data / f"{name}_{split}.npz") for name in files.split()]
    setattr(pictures, split, ",".join(paths))
  pictures.num_train, pictures.num_valid = NUM_GENERATED.values()
  # Left stays left, and what is at the edge is asked for.
  config.data.augment.flip, config.data.augment.least_area = False, 1.0
  config.data.cut_texts = True
  config.data.text_length = length
  if task == "vqa":
    config.model.num_answers = 13 if files else 25
  if name == "nlvr":
    config.data.arrangement = "boxes"
  if files and task == "nlvr":
    pictures.text_key = "sentence"
  if task == "captioning":
    pictures.text_key = "text" if files else "caption"
    config.objective.num_captions = 200

  train, optimizer = config.train, config.optimizer
  train.batch_size = batch
  train.num_steps = train.eval_every = train.checkpoint_every = steps
  train.log_every = 50
  train.eval_batches = 2000 // batch  # 2,000 questions, and all of the others
  train.image_every = 0
  optimizer.learning_rate = 0.003
  optimizer.weight_decay = 0.05
  optimizer.schedule = "cosine"
  optimizer.final_fraction = 0.0
  optimizer.warmup_steps = steps // 10
  return config
