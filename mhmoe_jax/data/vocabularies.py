"""Vocabularies of tokens, and how many bytes of text each token stands for.

Losses per token of two vocabularies cannot be compared, bits per byte can:
loss / log(2) * tokens / bytes. `count_token_bytes` supplies the bytes.
"""

import hashlib

from google.protobuf.message import DecodeError
import numpy as np

from mhmoe_jax.data import huggingface
from mhmoe_jax.data.bpe import TiktokenVocabulary, load_cl100k
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.xlmr import OFFSET, XlmrVocabulary

_XLMR = "xlmr:"


def begin_id(name: str) -> int:
  """The token before the first of every document: pad, but for "hf:DIR"."""
  if name.startswith(huggingface.PREFIX):
    return huggingface.read_ids(name.removeprefix(huggingface.PREFIX))[0]
  return 0


def make_vocabulary(name: str) -> seqio.Vocabulary:
  """Returns the vocabulary of a name: "bytes", "cl100k", "xlmr:PATH" or a path.

  The vocabulary "bytes" has 259 tokens: pad 0, eos 1, unk 2, then byte b at b + 3.
  "cl100k" is GPT-4's, from a file that bpe.py finds or downloads. "xlmr:PATH" is the
  SentencePiece model at the path, with the ids of fairseq (xlmr.py), a path alone the
  model with its own; "hf:DIR" the tokenizer of a folder of Hugging Face's.

  Raises:
    ValueError: the file is not there or not a model, or its pad id is not 0, or it has
      no eos id.
  """
  if name == "bytes":
    return seqio.ByteVocabulary()
  if name == "cl100k":
    return load_cl100k()
  if name.startswith(huggingface.PREFIX):
    return huggingface.load_huggingface(name.removeprefix(huggingface.PREFIX))
  is_xlmr, path = name.startswith(_XLMR), name.removeprefix(_XLMR)
  make = XlmrVocabulary if is_xlmr else seqio.SentencePieceVocabulary
  try:
    vocabulary = make(path)
    tokenizer = vocabulary.tokenizer
  except (tf.errors.OpError, DecodeError, RuntimeError) as error:
    raise _no_vocabulary(name, error) from None
  if is_xlmr:
    return vocabulary
  # Targets are padded with 0, so 0 must not be a token of text.
  pad_id, eos_id = tokenizer.pad_id(), tokenizer.eos_id()
  if pad_id != 0 or eos_id < 1:
    raise ValueError(
      "A SentencePiece model must have pad id 0 and an eos id, got "
      f"pad_id={pad_id}, eos_id={eos_id} in {name}."
    )
  return vocabulary


def identify_vocabulary(name: str) -> str:
  """Returns what tells a vocabulary from others: its name, or its file's SHA-256.

  Raises:
    ValueError: the file is not there.
  """
  if name in ("bytes", "cl100k"):
    return name
  if name.startswith(huggingface.PREFIX):
    return huggingface.identify(name.removeprefix(huggingface.PREFIX))
  kind = _XLMR if name.startswith(_XLMR) else ""
  try:
    with tf.io.gfile.GFile(name.removeprefix(_XLMR), "rb") as file:
      return f"{kind}sha256 {hashlib.sha256(file.read()).hexdigest()}"
  except tf.errors.OpError as error:
    raise _no_vocabulary(name, error) from None


def count_token_bytes(vocabulary: seqio.Vocabulary) -> np.ndarray:
  """Returns token_bytes_V: the UTF-8 bytes of text that each token stands for.

  pad, eos, unk and other control tokens stand for none. The sum over an encoded text is
  exactly its length for "bytes", "cl100k" and models of tokenizer.py. Another
  SentencePiece model may normalise the text or emit unk; then it is the length of what
  is left.

  Returns:
    (V,) int32, V = vocabulary.vocab_size.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    bytes_V = np.ones(vocabulary.vocab_size, np.int32)
    bytes_V[[vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id]] = 0
    return bytes_V
  if isinstance(vocabulary, TiktokenVocabulary | huggingface.HuggingFaceTokenizer):
    return vocabulary.count_bytes()
  tokenizer = vocabulary.tokenizer
  pieces = range(tokenizer.get_piece_size())
  bytes_V = np.array([_piece_bytes(tokenizer, piece) for piece in pieces], np.int32)
  # The ids before XLM-R's pieces, and behind them, stand for nothing, as <unk> does.
  return (
    np.pad(bytes_V, (OFFSET, 1)) if isinstance(vocabulary, XlmrVocabulary) else bytes_V
  )


def _no_vocabulary(name: str, error: Exception) -> ValueError:
  return ValueError(
    "vocabulary must be 'bytes', 'cl100k', 'xlmr:PATH' or a SentencePiece model's path,"
    f" got vocabulary={name!r} ({type(error).__name__})."
  )


def _piece_bytes(tokenizer, token: int) -> int:
  is_special = tokenizer.is_control(token) or tokenizer.is_unknown(token)
  if is_special or tokenizer.is_unused(token):
    return 0
  if tokenizer.is_byte(token):
    return 1
  # SentencePiece writes a space as U+2581, which has three bytes.
  return len(tokenizer.id_to_piece(token).replace("\u2581", " ").encode())
