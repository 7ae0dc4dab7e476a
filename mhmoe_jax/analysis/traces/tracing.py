"""Runs a model over documents and writes down where every sub-token goes.

Documents are cut into windows of L - 1 tokens, L the length that the model was trained
on, and packed into rows of L as in training: a window begins with the token that begins
documents, as every training window does, and whether a sub-token finds a slot depends
on its row. So every token is once an input, which its routing is of, and once a target,
which its loss is of. The routing of a window's first input and the loss of a document's
end belong to no token and are not recorded.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.analysis.traces.trace import Tokens, TraceMeta
from mhmoe_jax.analysis.traces.trace_writer import TraceWriter
from mhmoe_jax.data import vocabularies
from mhmoe_jax.data.documents import Document
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.train.config import RunConfig

# Of a batch: enough to keep a CPU busy, little enough for any model that fits.
_BATCH_TOKENS = 2**13


class Encoded(NamedTuple):
  """The tokens of a document and the bytes of it that each stands for."""

  tokens: np.ndarray  # int32
  stop: np.ndarray  # int64; each token starts where the one before stops
  texts: list[str]


class Rows(NamedTuple):
  """A batch of the model, and which token each of its inputs is."""

  tokens_BL: np.ndarray  # int32
  positions_BL: np.ndarray  # int32, in the window
  segments_BL: np.ndarray  # int32, 0 on padding
  owner_BL: np.ndarray  # int32, document; -1 where no token is the input
  place_BL: np.ndarray  # int32, position in the document


def describe_model(
  cfg: RunConfig, config: dict, name: str, step: int, data_files: Iterable[str]
) -> TraceMeta:
  """What a trace says about the model of `cfg`.

  Args:
    cfg: of the run.
    config: the same as a dict.
    name: for figures.
    step: of the checkpoint.
    data_files: what is traced.

  Raises:
    ValueError: the model has no MoE layer.
  """
  cfg.need("language", "a trace of text")
  model, layer = cfg.model, cfg.model.layer
  if model.ffn == "dense":
    raise ValueError("a trace needs a model with MoE layers, got model.ffn='dense'.")
  return TraceMeta(
    name=name,
    step=step,
    config=config,
    layers=tuple(model.moe_blocks),
    num_heads=layer.num_heads,
    num_experts=layer.num_experts,
    top_k=layer.top_k,
    vocabulary=cfg.data.vocabulary,
    window=cfg.data.sequence_length - 1,
    data_files=tuple(data_files),
  )


def write_trace(
  path: str,
  meta: TraceMeta,
  cfg: RunConfig,
  params,
  documents: Iterable[Document],
  *,
  max_tokens: int | None = None,
  on_batch: Callable[[int, int], None] = lambda num_tokens, num_bytes: None,
) -> None:
  """Traces documents with a model, on one device and in constant memory.

  Args:
    path: of the trace.
    meta: of `describe_model`.
    cfg: of the run.
    params: of the model.
    documents: what it reads.
    max_tokens: no document is begun after so many; None: all are read.
    on_batch: called with the tokens and the bytes traced so far.

  Raises:
    ValueError: the text is empty, or the vocabulary loses some of it, so that nobody
      can say which bytes a token stands for.
  """
  vocabulary = vocabularies.make_vocabulary(cfg.data.vocabulary)
  token_bytes_V = vocabularies.count_token_bytes(vocabulary)
  L = cfg.data.sequence_length
  B = max(_BATCH_TOKENS // L, 1)
  step = jax.jit(make_trace_step(cfg.model))
  held: dict[int, Encoded] = {}  # documents of which some window is not yet written
  num_tokens = num_bytes = 0

  with TraceWriter(path, meta) as writer:

    def windows():
      fresh, total = [], 0
      for number, document in enumerate(documents):
        if max_tokens is not None and total >= max_tokens:
          break
        held[number] = encode(vocabulary, token_bytes_V, document.text)
        total += len(held[number].tokens)
        fresh.append(document)
        if len(fresh) >= 1_000:
          writer.write_documents(fresh)
          fresh = []
        for first in range(0, len(held[number].tokens), L - 1):
          yield number, first, held[number].tokens[first : first + L - 1]
      writer.write_documents(fresh)

    begin = vocabularies.begin_id(cfg.data.vocabulary)
    for rows in pack(windows(), B, L, begin):
      nll_BL, choices = jax.device_get(
        step(params, rows.tokens_BL, rows.positions_BL, rows.segments_BL)
      )
      tokens = _to_tokens(rows, held, nll_BL, choices)
      writer.write_tokens(tokens)
      num_tokens += len(tokens.loss_T)
      num_bytes += int((tokens.stop_T - tokens.start_T).sum())
      for number in [n for n in held if n < tokens.document_T[-1]]:
        del held[number]
      on_batch(num_tokens, num_bytes)
    if not num_tokens:
      raise ValueError(
        f"a traced text must have at least one token, got none in "
        f"{', '.join(meta.data_files)}."
      )


def make_trace_step(config: TransformerConfig) -> Callable:
  """A pure function of parameters, tokens, positions and segments (B, L).

  It returns the loss of the next input at every place, (B, L), and the `Choices` of
  all MoE layers, (N, B, L, ...), the experts as int16.
  """
  model = Decoder(config, trace=True)

  def trace_step(params, tokens_BL, positions_BL, segments_BL):
    logits_BLV, aux, _ = model.apply(
      {"params": params}, tokens_BL, positions_BL, segments_BL
    )
    targets_BL1 = jnp.roll(tokens_BL, -1, axis=1)[..., None]
    logits_BL1 = jnp.take_along_axis(logits_BLV, targets_BL1, axis=-1)
    nll_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - logits_BL1[..., 0]
    experts = aux.choices.expert_BLHK.astype(jnp.int16)
    return nll_BL, aux.choices._replace(expert_BLHK=experts)

  return trace_step


def encode(vocabulary, token_bytes_V: np.ndarray, text: str) -> Encoded:
  """Tokens of a text and their spans; ValueError if the vocabulary loses some."""
  tokens = np.array(vocabulary.encode(text), np.int32)
  stop = np.cumsum(token_bytes_V[tokens], dtype=np.int64)
  content = text.encode()
  if (tokens.size and stop[-1] != len(content)) or (not tokens.size and content):
    raise ValueError(
      "a traced vocabulary must lose nothing of a text, got tokens for "
      f"{stop[-1] if tokens.size else 0} of the {len(content)} bytes of {text[:40]!r}."
    )
  starts = [0, *stop.tolist()][:-1]
  texts = [_show(content[a:b]) for a, b in zip(starts, stop.tolist(), strict=True)]
  return Encoded(tokens, stop, texts)


def _show(piece: bytes) -> str:
  try:
    return piece.decode()
  except UnicodeDecodeError:  # A part of a character, named as SentencePiece does it.
    return "".join(f"<0x{byte:02X}>" for byte in piece)


def pack(
  windows: Iterable[tuple[int, int, np.ndarray]], B: int, L: int, begin: int = 0
) -> Iterator[Rows]:
  """Fills rows with windows, in order, each behind the token `begin`.

  Args:
    windows: number of the document, place of the first token in it, and the tokens, at
      most L - 1 of them.
    B: rows of a batch; the last one is filled up with empty rows.
    L: length of a row.
  """
  rows = _empty_rows(B, L)
  row = end = segment = 0
  for number, first, tokens in windows:
    if end + len(tokens) + 1 > L:
      row, end, segment = row + 1, 0, 0
    if row == B:
      yield rows
      rows, row = _empty_rows(B, L), 0
    segment += 1
    text = slice(end + 1, end + 1 + len(tokens))
    end = text.stop
    rows.tokens_BL[row, text.start - 1] = begin
    rows.tokens_BL[row, text] = tokens
    rows.positions_BL[row, text] = 1 + np.arange(len(tokens))
    rows.segments_BL[row, text.start - 1 : end] = segment
    rows.owner_BL[row, text] = number
    rows.place_BL[row, text] = first + np.arange(len(tokens))
  if end:
    yield rows


def _empty_rows(B: int, L: int) -> Rows:
  zeros = [np.zeros((B, L), np.int32) for _ in range(3)]
  return Rows(*zeros, *(np.full((B, L), -1, np.int32) for _ in range(2)))


def _to_tokens(rows: Rows, held: dict[int, Encoded], nll_BL, choices) -> Tokens:
  real_BL = rows.owner_BL >= 0
  document_T, position_T = rows.owner_BL[real_BL], rows.place_BL[real_BL]
  texts, starts, stops = [], [], []
  cuts = np.flatnonzero(np.diff(document_T)) + 1
  for part in np.split(np.arange(len(document_T)), cuts):
    # Rows are filled in order, so a batch holds a run of each document's tokens.
    one = held[int(document_T[part[0]])]
    a, b = int(position_T[part[0]]), int(position_T[part[-1]]) + 1
    texts += one.texts[a:b]
    stops.append(one.stop[a:b])
    starts.append(np.concatenate([[one.stop[a - 1] if a else 0], one.stop[a : b - 1]]))

  def rows_first(x_NBL):
    return np.moveaxis(x_NBL, 0, 2)[real_BL]

  return Tokens(
    document_T=document_T,
    position_T=position_T,
    start_T=np.concatenate(starts),
    stop_T=np.concatenate(stops),
    text_T=np.array(texts, object),
    row_T=np.full(len(texts), -1, np.int16),
    column_T=np.full(len(texts), -1, np.int16),
    # What is predicted at a place is the input of the next.
    loss_T=np.roll(nll_BL, 1, axis=1)[real_BL],
    expert_TNHK=rows_first(choices.expert_BLHK),
    weight_TNHK=rows_first(choices.weight_BLHK),
    dropped_TNHK=~rows_first(choices.kept_BLHK),
    entropy_TNH=rows_first(choices.entropy_BLH),
  )
