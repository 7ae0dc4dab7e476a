"""Every setting of fine-tuning on pictures with a text, with its default.

`tune` makes of a config of masked modelling one of a task that starts from such a run:
its model stays, so that the parameters fit. As a config of its own it is that of visual
question answering with the defaults of base_masked.py.
"""

from ml_collections import ConfigDict

from configs import base_masked


def get_config() -> ConfigDict:
  """Visual question answering on generated pictures of shapes."""
  return tune(base_masked.get_config(), "vqa")


def tune(masked: ConfigDict, task: str) -> ConfigDict:
  """The config of fine-tuning that belongs to one of masked modelling.

  Args:
    masked: its optimizer, mesh and loop stay as they are, too.
    task: "vqa", "nlvr" or "captioning".
  """
  config = masked.copy_and_resolve_references()
  config.unlock()
  config.task = task

  data, seen = ConfigDict(), config.data
  data.pictures = pictures = seen.pairs  # with a text, its field is `text_key`
  pictures.num_train = 20_000  # of generated shapes
  data.augment = seen.pair_augment  # BEiT-3's: least_area 0.5, flip True, randaugment 2
  data.vocabulary = seen.text.vocabulary
  # Tokens of a text, the first and the last one included: shapes have 59 characters.
  data.text_length = 64
  data.cut_texts = False  # cut longer texts; else they are errors
  data.streams = 1  # parts of a batch with a place of their own; for good
  data.seed = 0
  config.data = data

  objective = config.objective
  for name in ("image_weight", "text_weight", "pair_weight"):
    del objective[name]
  _TASKS[task](config)
  return config.lock()


def _vqa(config: ConfigDict) -> None:
  config.model.num_answers = 25  # as many as there are known answers: those of shapes
  config.data.pictures.text_key = "question"
  config.data.answers = answers = ConfigDict()
  # A file that a run wrote, WORKDIR/answers.json; empty: the training questions'.
  answers.path = ""
  answers.key = "answer"  # the field of the answers, a text or a list of ten
  answers.least_count = 1  # of training questions that have it; of VQA v2: 9


def _nlvr(config: ConfigDict) -> None:
  config.data.pictures.text_key = "comparison"  # of shapes; "statement" of one picture
  # Pictures of a statement: "two", in the fields "image" and "image2"; "one"; or
  # "boxes", one that is cut into three, as those of NLVR.
  config.data.arrangement = "two"
  config.data.label_key = "label"  # the field that says whether it is true


def _captioning(config: ConfigDict) -> None:
  data = config.data
  data.pictures.text_key = "caption"
  data.text_length = 216  # the longest caption of shapes has 214 characters
  data.mask_share = 0.7  # of the tokens of a caption, its end included
  data.random_share = 0.1  # of masked tokens, which become any token, as in BERT
  data.kept_share = 0.1
  objective = config.objective
  objective.label_smoothing = 0.1  # share of a target that all tokens have alike
  objective.num_beams = 3
  objective.length_penalty = 0.6  # power of the length that log-probabilities have
  objective.num_captions = 64  # that an evaluation writes and scores


_TASKS = {"vqa": _vqa, "nlvr": _nlvr, "captioning": _captioning}
