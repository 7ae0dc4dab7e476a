"""The verb routing: where the sub-tokens of texts and pictures go."""

import dataclasses
import itertools
import os
import sys
import time

from absl import flags
from etils import epath

from mhmoe_jax import cli
from mhmoe_jax.cli import parsing
from mhmoe_jax.cli.shell import program


def routing(argv: list[str]) -> int | None:
  """Runs one of the verbs of `mhmoe routing`; returns the exit code."""
  verbs = {"trace": trace, "figures": figures, "report": report}
  if argv and argv[0] in ("help", "--help", "-h"):
    print(cli.USAGE)
    return 0
  if not argv or argv[0] not in verbs:
    raise ValueError(
      f"routing must be followed by one of {', '.join(verbs)}, "
      f"got {argv[0] if argv else 'nothing'!r}; see `{program()} help`."
    )
  return verbs[argv[0]](argv[1:])


def trace(argv: list[str]) -> int:
  """Runs a checkpoint over text or pictures; writes where every sub-token goes."""
  values = parsing.make_flags()
  flags.DEFINE_string("workdir", None, "of a trained model", flag_values=values)
  flags.DEFINE_integer("step", None, "of the checkpoint", 0, flag_values=values)
  flags.DEFINE_string("data", None, "files of text or JSONL", flag_values=values)
  flags.DEFINE_string(
    "images",
    None,
    "pictures: PNG, JPEG, .jsonl, .npz; without it generated ones",
    flag_values=values,
  )
  flags.DEFINE_bool("pairs", False, "pictures with their texts", flag_values=values)
  flags.DEFINE_integer(
    "max_pictures", 500, "trace no more pictures", 1, flag_values=values
  )
  flags.DEFINE_string("out", None, "directory to make", flag_values=values)
  flags.DEFINE_string("name", None, "of the model, for figures", flag_values=values)
  flags.DEFINE_string(
    "unit", "paragraph", "a document of plain text: or line", flag_values=values
  )
  flags.DEFINE_integer(
    "max_tokens", None, "begin no document after these", 1, flag_values=values
  )

  from mhmoe_jax.checkpoints import restore

  step = parsing.define_run_config(values, "routing trace", argv)
  parsing.parse(values, "routing trace", argv, required=("out",))
  if values.data is not None and values.images is not None:
    raise ValueError("routing trace takes --data or --images, got both.")
  # A multi-modal run has pictures without a file.
  of_pictures = values.images is not None or (
    values.config.task != "language" and values.data is None
  )
  if not (of_pictures or values.data):
    raise ValueError(f"routing trace needs --data; see `{program()} help`.")
  cfg, params = restore.load_model(values.workdir, values.config, step)
  name = values.name or os.path.basename(os.path.normpath(values.workdir))
  if of_pictures:
    return _trace_pictures(values, cfg, params, name, step)

  from mhmoe_jax.analysis.traces import tracing
  from mhmoe_jax.data import documents, files

  paths = files.find_files(values.data)
  meta = tracing.describe_model(cfg, values.config.to_dict(), name, step, paths)
  texts = documents.iterate_documents(paths, values.unit, cfg.data.text_key or "text")
  progress = _Progress(sum(epath.Path(path).stat().length for path in paths))
  tracing.write_trace(
    values.out,
    meta,
    cfg,
    params,
    texts,
    max_tokens=values.max_tokens,
    on_batch=progress,
  )
  progress.show()
  print(f"wrote {values.out}: {progress.num_tokens:,} tokens of {name}, step {step}")
  return 0


def _trace_pictures(values, cfg, params, name: str, step: int) -> int:
  from mhmoe_jax.analysis.traces import picture_tracing
  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.data.images import given

  paths, problems = [], []
  meta = picture_tracing.describe_encoder(
    cfg, values.config.to_dict(), name, step, (), values.pairs
  )

  own = picture_tracing.texts_of(cfg).pictures

  def tell(problem: str) -> None:
    problems.append(problem)
    print(f"mhmoe routing: {problem}", file=sys.stderr)

  if values.images is None:
    seed, size = own.seed, cfg.model.picture_size
    pictures = given.iterate_shapes(seed, values.max_pictures, size, values.pairs)
  else:
    text_key = own.text_key if values.pairs else ""
    paths = given.find_pictures(values.images, text_key)
    pictures = given.iterate_pictures(paths, text_key, tell)
  counts = []
  picture_tracing.write_picture_trace(
    values.out,
    dataclasses.replace(meta, data_files=tuple(paths)),
    cfg,
    params,
    restore.load_fixed(values.workdir, cfg, step),
    itertools.islice(pictures, values.max_pictures),
    on_batch=counts.append,
  )
  print(f"wrote {values.out}: {counts[-1]:,} pictures of {name}, step {step}")
  if problems:
    print(
      f"mhmoe routing: {len(problems)} could not be read; they are named above.",
      file=sys.stderr,
    )
  return int(bool(problems))


def figures(argv: list[str]) -> None:
  """Draws whatever some traces allow."""
  values = parsing.make_flags()
  flags.DEFINE_list("trace", [], "directories of traces", flag_values=values)
  flags.DEFINE_string("out", None, "directory of the figures", flag_values=values)
  flags.DEFINE_integer(
    "max_tokens", None, "read no more of each trace", 1, flag_values=values
  )
  flags.DEFINE_string(
    "homographs", None, "TSV of labelled sentences", flag_values=values
  )
  flags.DEFINE_string("senses", None, "TSV of WordNet counts", flag_values=values)
  parsing.parse(values, "routing figures", argv, required=("out",))
  if not values.trace:
    raise ValueError(f"routing figures needs --trace; see `{program()} help`.")

  from mhmoe_jax.analysis.figures import gallery
  from mhmoe_jax.analysis.statistics import words
  from mhmoe_jax.analysis.traces.trace import load_trace

  drawn = gallery.draw_all(
    [load_trace(path, values.max_tokens) for path in values.trace],
    values.out,
    contexts=words.load_homographs(values.homographs) if values.homographs else (),
    sense_counts=words.load_sense_counts(values.senses) if values.senses else None,
  )
  print(f"wrote {', '.join(drawn)} to {values.out}")


def report(argv: list[str]) -> None:
  """Writes one page that shows a trace, or two side by side."""
  values = parsing.make_flags()
  flags.DEFINE_string("trace", None, "directory of a trace", flag_values=values)
  flags.DEFINE_string("compare", None, "directory of another", flag_values=values)
  flags.DEFINE_list("earlier", [], "traces of earlier checkpoints", flag_values=values)
  flags.DEFINE_string("out", None, "HTML file to write", flag_values=values)
  flags.DEFINE_integer(
    "max_tokens", 100_000, "of text in the page", 1, flag_values=values
  )
  parsing.parse(values, "routing report", argv, required=("trace", "out"))

  from mhmoe_jax.analysis.report.report import make_report
  from mhmoe_jax.analysis.traces.trace import load_trace

  paths = [path for path in (values.trace, values.compare) if path]
  page = make_report(
    [load_trace(path) for path in paths],
    values.max_tokens,
    earlier=[load_trace(path) for path in values.earlier],
  )
  with open(values.out, "w", encoding="utf-8") as file:
    file.write(page)
  size = os.path.getsize(values.out) / 2**20
  print(f"wrote {values.out}, {size:.1f} MiB; open it in a browser")


class _Progress:
  """A line on stderr every few seconds, for functions that call it with counts."""

  def __init__(self, total_bytes: int):
    self._total, self._start = total_bytes, time.monotonic()
    self._next = self._start + 5
    self.num_tokens = self._bytes = 0

  def __call__(self, num_tokens: int, num_bytes: int) -> None:
    self.num_tokens, self._bytes = num_tokens, num_bytes
    if time.monotonic() > self._next:
      self._next = time.monotonic() + 5
      self.show()

  def show(self) -> None:
    rate = self.num_tokens / (time.monotonic() - self._start)
    share = self._bytes / self._total
    print(
      f"{self.num_tokens:,} tokens, {rate:,.0f}/s, {share:.0%} of the text",
      file=sys.stderr,
    )
