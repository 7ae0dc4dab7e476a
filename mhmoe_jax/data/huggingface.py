"""Tokenizers of Hugging Face's folders, as seqio vocabularies.

"hf:DIR" is the `tokenizer.model` of a folder, a SentencePiece model, or else its
`tokenizer.json`, which the library tokenizers reads. The ids are the folder's. Its
config.json says which of them ends a document and which begins one: the former too,
where a family has no token of its own for it, as OLMoE.
"""

from collections.abc import Iterable
import hashlib
import json
import os
from typing import Any

import numpy as np

from mhmoe_jax.data.quiet import seqio, tf

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
PREFIX = "hf:"


def load_huggingface(directory: str) -> seqio.Vocabulary:
  """The vocabulary of a folder.

  Raises:
    ValueError: it has no tokenizer, or does not say which token ends a document.
  """
  begin, end = read_ids(directory)
  model, tokenizer = (os.path.join(directory, name) for name in TOKENIZER_FILES[:2])
  if tf.io.gfile.exists(model):
    return HuggingFaceSentencePiece(model, begin, end)
  if tf.io.gfile.exists(tokenizer):
    return HuggingFaceTokenizer(tokenizer, begin, end)
  raise _no_tokenizer(directory)


def read_ids(directory: str) -> tuple[int, int]:
  """The tokens that begin and end a document, as config.json has them.

  Raises:
    ValueError: it is not there, or has no end.
  """
  path = os.path.join(directory, "config.json")
  try:
    with tf.io.gfile.GFile(path) as file:
      about = json.load(file)
  except (tf.errors.OpError, ValueError) as error:
    raise ValueError(
      f"vocabulary=hf:DIR needs {path}, which says what ends a document, got "
      f"{type(error).__name__}."
    ) from None
  begin, end = about.get("bos_token_id"), about.get("eos_token_id")
  if isinstance(end, list) and end:
    end = end[0]
  begin = end if begin is None else begin
  if type(begin) is not int or type(end) is not int:
    raise ValueError(
      f"eos_token_id of {path} must be the number of a token, got bos_token_id="
      f"{about.get('bos_token_id')}, eos_token_id={about.get('eos_token_id')}."
    )
  return begin, end


def identify(directory: str) -> str:
  """What tells a folder's vocabulary from others."""
  begin, end = read_ids(directory)
  for name in TOKENIZER_FILES[:2]:
    path = os.path.join(directory, name)
    if tf.io.gfile.exists(path):
      with tf.io.gfile.GFile(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
      return f"hf:sha256 {digest} begins {begin} ends {end}"
  raise _no_tokenizer(directory)


def export_vocabulary(name: str, directory: str) -> dict[str, Any]:
  """Writes the files of a vocabulary to a local folder.

  Returns:
    What belongs in the config.json beside them.
  """
  ids = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
  if name == "bytes":
    # ByT5 has the same ids.
    about = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}
    with open(os.path.join(directory, "tokenizer_config.json"), "w") as file:
      json.dump(about, file, indent=2)
    return ids | {"vocabulary": name}
  if name == "cl100k":
    return ids | {"vocabulary": name, "eos_token_id": 100_258}
  if name.startswith(PREFIX):
    source = name.removeprefix(PREFIX)
    begin, end = read_ids(source)
    for file in TOKENIZER_FILES:
      path = os.path.join(source, file)
      if tf.io.gfile.exists(path):
        tf.io.gfile.copy(path, os.path.join(directory, file))
    return {"bos_token_id": begin, "eos_token_id": end}
  path = name.removeprefix("xlmr:")
  tf.io.gfile.copy(path, os.path.join(directory, "tokenizer.model"))
  kind = name.removesuffix(path)
  tokenizer = seqio.SentencePieceVocabulary(path).tokenizer
  end = tokenizer.eos_id()
  return ids | {"vocabulary": f"{kind}tokenizer.model", "eos_token_id": end}


def _no_tokenizer(directory: str) -> ValueError:
  return ValueError(
    f"vocabulary=hf:DIR needs tokenizer.model or tokenizer.json, got {directory} "
    "without."
  )


class HuggingFaceSentencePiece(seqio.SentencePieceVocabulary):
  """A SentencePiece model with the ids that begin and end documents.

  Args:
    path: of the model.
    begin: id before the first token of every document.
    end: id after the last.
  """

  def __init__(self, path: str, begin: int, end: int):
    super().__init__(path)
    self._begin, self._end = begin, end

  @property
  def bos_id(self) -> int:
    return self._begin

  @property
  def eos_id(self) -> int:
    return self._end


class HuggingFaceTokenizer(seqio.Vocabulary):
  """A tokenizer.json; texts are only text, and no special tokens are added.

  Args:
    path: of the file.
    begin: id before the first token of every document.
    end: id after the last.
  """

  def __init__(self, path: str, begin: int, end: int):
    super().__init__()
    self._begin, self._end, self._path = begin, end, path
    try:
      import tokenizers
    except ImportError as error:
      raise ValueError(
        f"{path} needs the package tokenizers (pip install tokenizers), got none."
      ) from error
    with tf.io.gfile.GFile(path) as file:
      self._definition = file.read()
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(self._definition)
    except Exception as error:  # The library raises nothing more special.
      raise ValueError(f"{path} must be a tokenizer, got {error}.") from error
    # A text that spells a special token is still only text.
    self._tokenizer.encode_special_tokens = True

  @property
  def bos_id(self) -> int:
    return self._begin

  @property
  def eos_id(self) -> int:
    return self._end

  @property
  def unk_id(self) -> None:
    """Whatever the file does with what it does not know."""
    return None

  @property
  def _base_vocab_size(self) -> int:
    return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

  def count_bytes(self) -> np.ndarray:
    """Returns the bytes of each token, (V,) int32; none for special and unused ids."""
    bytes_V = np.zeros(self.vocab_size, np.int32)
    added = self._tokenizer.get_added_tokens_decoder()
    byte_level = '"ByteLevel"' in self._definition
    for piece, token in self._tokenizer.get_vocab(with_added_tokens=False).items():
      if token in added and added[token].special:
        continue
      # A byte-level alphabet has one character for each byte.
      is_byte = len(piece) == 6 and piece.startswith("<0x")
      text = piece.replace("\u2581", " ").encode()
      bytes_V[token] = 1 if is_byte else len(piece if byte_level else text)
    return bytes_V

  def _encode(self, s: str) -> list[int]:
    return self._tokenizer.encode(s, add_special_tokens=False).ids

  def _decode(self, ids: Iterable[int]) -> str:
    return self._tokenizer.decode([int(i) for i in ids if i < self._base_vocab_size])

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text):
      # Eager TensorFlow passes an array, a graph bytes.
      text = np.asarray(text, object).item()
      return np.array(self._encode(text.decode()), np.int32)

    # Without state, or an iterator over it could not be saved.
    tokens = tf.numpy_function(
      encode, [tf.convert_to_tensor(s)], tf.int32, stateful=False
    )
    return tf.ensure_shape(tokens, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(tokens):
      return self._decode(tokens.tolist()).encode()

    return tf.numpy_function(decode, [ids], tf.string, stateful=False)

  def __eq__(self, other) -> bool:
    return (
      isinstance(other, HuggingFaceTokenizer)
      and self._definition == other._definition
      and (self._begin, self._end) == (other._begin, other._end)
    )

  def __hash__(self) -> int:
    return hash(self._definition)
