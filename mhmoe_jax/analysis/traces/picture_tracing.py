"""Runs an encoder over pictures, with or without a text, and writes where they go.

Nothing is masked. What is recorded are the patches and the tokens of the text; [CLS],
the token that begins texts and the one that ends them are what a model adds, and belong
to no part of a picture or a text. Nothing is predicted, so that there is no loss.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.analysis.traces.trace import Pictures, Tokens, TraceMeta
from mhmoe_jax.analysis.traces.trace_writer import TraceWriter
from mhmoe_jax.analysis.traces.tracing import encode
from mhmoe_jax.codes import vocabulary as codes
from mhmoe_jax.data import vocabularies
from mhmoe_jax.data.documents import Document
from mhmoe_jax.data.images.augment import squash
from mhmoe_jax.data.images.given import Given
from mhmoe_jax.data.images.shapes import Scene, texture_map
from mhmoe_jax.data.images.sources import PictureConfig
from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.moe.telemetry import Choices
from mhmoe_jax.train.config import RunConfig

# Of a batch: enough to keep a CPU busy, little enough for any model that fits.
_BATCH_TOKENS = 2**12


class Texts(NamedTuple):
  """Of a run, the texts that belong to pictures."""

  vocabulary: str
  length: int  # tokens of one, the first and the last included
  pictures: PictureConfig  # that they belong to


def texts_of(cfg: RunConfig) -> Texts:
  """The texts beside pictures of a run.

  Raises:
    ValueError: its model sees no pictures.
  """
  if not isinstance(cfg.model, EncoderConfig):
    raise ValueError(
      f"a trace of pictures needs a run with an encoder, got task {cfg.task_name}."
    )
  if cfg.task_name == "masked":
    return Texts(cfg.data.text.vocabulary, cfg.data.pair_length, cfg.data.pairs)
  return Texts(cfg.data.vocabulary, cfg.data.text_length, cfg.data.pictures)


class Batch(NamedTuple):
  """What the encoder sees, and what is known of it."""

  given: list[Given]
  pixels_BYXC: np.ndarray  # uint8; rows behind the last picture are zeros
  tokens_BT: np.ndarray  # int32
  segments_BT: np.ndarray  # int32, 0 on padding
  texts: list  # the `tracing.Encoded` tokens of each picture's text


def describe_encoder(
  cfg: RunConfig,
  config: dict,
  name: str,
  step: int,
  data_files: Iterable[str],
  with_texts: bool,
) -> TraceMeta:
  """What a trace says about the encoder of `cfg`.

  Args:
    cfg: of the run.
    config: the same as a dict.
    name: for figures.
    step: of the checkpoint.
    data_files: what is traced.
    with_texts: whether pictures have a text.

  Raises:
    ValueError: the model does not see pictures, or has no MoE layer.
  """
  texts = texts_of(cfg)
  model, layer = cfg.model, cfg.model.layer
  if model.ffn == "dense":
    raise ValueError("a trace needs a model with MoE layers, got model.ffn='dense'.")
  pools = ("image", "text") if with_texts else ("image",)
  return TraceMeta(
    name=name,
    step=step,
    config=config,
    layers=tuple(model.moe_blocks),
    num_heads=layer.num_heads,
    num_experts=layer.num_experts,
    top_k=layer.top_k,
    vocabulary=texts.vocabulary,
    window=model.num_patches + (texts.length - 2) * with_texts,
    data_files=tuple(data_files),
    pools=("shared",) if model.pools == "shared" else pools,
    picture_size=model.picture_size,
    patch_size=model.patch_size,
  )


def write_picture_trace(
  path: str,
  meta: TraceMeta,
  cfg: RunConfig,
  params,
  fixed,
  pictures: Iterable[Given],
  *,
  on_batch: Callable[[int], None] = lambda num_pictures: None,
) -> None:
  """Traces pictures with an encoder, on one device and in constant memory.

  Args:
    path: of the trace.
    meta: of `describe_encoder`.
    cfg: of the run.
    params: of the model.
    fixed: arrays of its visual vocabulary, if it has one.
    pictures: what it sees, squashed to the model's square; texts are cut where they
      are longer than the run's.
    on_batch: called with the pictures traced so far.

  Raises:
    ValueError: there is no picture, or the vocabulary loses some of a text.
  """
  with_texts = meta.window > cfg.model.num_patches
  places = cfg.model.num_image + texts_of(cfg).length * with_texts
  visual = cfg.task.codes if fixed else None
  # A token of a caption sees what is left of it, and the picture no caption.
  to_left = cfg.task_name == "captioning"
  step = jax.jit(make_picture_step(cfg.model, visual, with_texts, to_left))
  seen = 0
  with TraceWriter(path, meta) as writer:
    for batch in _batches(cfg, pictures, max(_BATCH_TOKENS // places, 1)):
      ids_BP, choices = jax.device_get(
        step(params, fixed, batch.pixels_BYXC, batch.tokens_BT, batch.segments_BT)
      )
      count = len(batch.given)
      documents = [Document(one.label, one.text) for one in batch.given]
      pixels_UYXC = batch.pixels_BYXC[:count]
      writer.write_documents(documents, _describe(cfg.model, batch.given, pixels_UYXC))
      writer.write_tokens(_to_tokens(batch, ids_BP, choices, seen, with_texts))
      seen += count
      on_batch(seen)
    if not seen:
      raise ValueError("a trace must have at least one picture, got none.")


def make_picture_step(
  config: EncoderConfig,
  visual: codes.VisualVocabulary | None,
  with_texts: bool,
  to_left: bool = False,
) -> Callable:
  """A pure function of parameters, the visual vocabulary, and a batch.

  It returns the visual codes of patches (B, P), -1 without a vocabulary, and the
  `Choices` of all MoE layers for patches and then tokens, (N, B, P + T, ...), experts
  as int16. `to_left`: texts see what is left of them, and pictures no text.
  """
  encoder = Encoder(config, trace=True)

  def trace_step(params, fixed, pixels_BYXC, tokens_BT, segments_BT):
    patches_BPU = normalize(to_patches(pixels_BYXC, config.patch_size))
    inputs = Inputs(patches_BPU)
    if with_texts:
      places_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
      inputs = Inputs(patches_BPU, None, tokens_BT, places_BT, segments_BT)
      if to_left:
        inputs = inputs._replace(order_BT=1 + places_BT)
    _, pools = encoder.apply({"params": params["encoder"]}, inputs)
    # The order of the sequence, whatever that of the names.
    found = [
      pools[name].choices for name in ("shared", "image", "text") if name in pools
    ]
    joined = Choices(*(jnp.concatenate(x, axis=2) for x in zip(*found, strict=True)))
    joined = Choices(*(x[:, :, 1:] for x in joined))  # without [CLS]
    experts = joined.expert_BLHK.astype(jnp.int16)
    ids_BP = jnp.full(patches_BPU.shape[:2], -1)
    if visual is not None:
      ids_BP = codes.encode(visual, fixed, patches_BPU)
    return ids_BP, joined._replace(expert_BLHK=experts)

  return trace_step


def _batches(cfg: RunConfig, pictures: Iterable[Given], B: int) -> Iterator[Batch]:
  name, T, _ = texts_of(cfg)
  vocabulary = vocabularies.make_vocabulary(name)
  token_bytes_V = vocabularies.count_token_bytes(vocabulary)
  size = cfg.model.picture_size
  rest = iter(pictures)
  while given := list(islice(rest, B)):
    pixels_BYXC = np.zeros((B, size, size, 3), np.uint8)
    tokens_BT, segments_BT = np.zeros((2, B, T), np.int32)
    texts = []
    for i, one in enumerate(given):
      pixels_BYXC[i] = squash(one.pixels, size)
      text = encode(vocabulary, token_bytes_V, one.text)
      texts.append(text._replace(tokens=text.tokens[: T - 2]))
      row = [vocabularies.begin_id(name), *texts[-1].tokens, vocabulary.eos_id]
      tokens_BT[i, : len(row)], segments_BT[i, : len(row)] = row, 1
    yield Batch(given, pixels_BYXC, tokens_BT, segments_BT, texts)


def _describe(model: EncoderConfig, given: Sequence[Given], pixels_UYXC) -> Pictures:
  side = model.picture_size // model.patch_size
  texture_URC = np.full((len(given), side, side), np.nan, np.float32)
  for i, one in enumerate(given):
    if isinstance(one.record.get("scene"), Scene):
      scene = one.record["scene"]
      texture_URC[i] = texture_map(scene, model.picture_size, model.patch_size)
  return Pictures([one.name for one in given], pixels_UYXC, texture_URC)


def _to_tokens(batch: Batch, ids_BP, choices, first: int, with_texts: bool) -> Tokens:
  """The tokens of a batch whose first picture is document `first`."""
  P = ids_BP.shape[1]
  side = round(P**0.5)
  parts, rows, places = [], [], []
  for i, text in enumerate(batch.texts):
    words = len(text.tokens) if with_texts else 0
    stop_T = np.concatenate([np.zeros(P, np.int64), text.stop[:words]])
    start_T = np.concatenate([[0], stop_T[:-1]])
    patch_T, missing_T = np.arange(P), np.full(words, -1)
    names = [f"code {code}" if code >= 0 else "" for code in ids_BP[i]]
    names += text.texts[:words]
    parts.append(
      {
        "document_T": np.full(P + words, first + i, np.int32),
        "position_T": np.arange(P + words, dtype=np.int32),
        "start_T": start_T,
        "stop_T": stop_T,
        "text_T": np.array(names, object),
        "row_T": np.concatenate([patch_T // side, missing_T]).astype(np.int16),
        "column_T": np.concatenate([patch_T % side, missing_T]).astype(np.int16),
        "loss_T": np.full(P + words, np.nan, np.float32),
      }
    )
    rows += [i] * (P + words)
    # Between patches and words stands the token that begins texts.
    places += [*range(P), *range(P + 1, P + 1 + words)]

  def rows_first(x_NBL):
    return np.moveaxis(x_NBL, 0, 2)[np.array(rows), np.array(places)]

  columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  return Tokens(
    **columns,
    expert_TNHK=rows_first(choices.expert_BLHK),
    weight_TNHK=rows_first(choices.weight_BLHK),
    dropped_TNHK=~rows_first(choices.kept_BLHK),
    entropy_TNH=rows_first(choices.entropy_BLH),
  )
