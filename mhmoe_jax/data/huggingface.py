"""Tokenizers of Hugging Face's folders as vocabularies.

"hf:DIR" is the `tokenizer.model` of a folder, a SentencePiece model, or else its
`tokenizer.json`, which the library tokenizers reads. The ids are the folder's. Its
config.json says which of them ends a document and which begins one: the former too,
where a family has no token of its own for it, as OLMoE.
"""

import hashlib
import json
import shlex
import sys
from typing import Any

from etils import epath

from mhmoe_jax.data.pieces import SentencePieceVocabulary
from mhmoe_jax.data.vocabularies import Vocabulary

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")


def load_huggingface(directory: str) -> Vocabulary:
  """The vocabulary of a folder.

  Raises:
    ValueError: it has no tokenizer, or one that cannot be read, or does not say which
      token ends a document.
  """
  _, end = read_ids(directory)
  path = _find_tokenizer(directory)
  if path.name == "tokenizer.json":
    return HuggingFaceTokenizer(path, end)
  try:
    return HuggingFaceSentencePiece(str(path), end)
  except RuntimeError as error:
    raise ValueError(f"{path} must be a SentencePiece model, got none.") from error


def read_ids(directory: str) -> tuple[int, int]:
  """The tokens that begin and end a document, as config.json has them.

  Raises:
    ValueError: it is not there, or has no end.
  """
  path = epath.Path(directory) / "config.json"
  try:
    about = json.loads(path.read_text())
  except (OSError, ValueError) as error:
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
  digest = hashlib.sha256(_find_tokenizer(directory).read_bytes()).hexdigest()
  return f"hf:sha256 {digest} begins {begin} ends {end}"


def _find_tokenizer(directory: str) -> epath.Path:
  for name in TOKENIZER_FILES[:2]:
    path = epath.Path(directory) / name
    if path.exists():
      return path
  raise ValueError(
    f"vocabulary=hf:DIR needs tokenizer.model or tokenizer.json, got {directory} "
    "without."
  )


def export_vocabulary(name: str, directory: str) -> dict[str, Any]:
  """Writes the files of a vocabulary to a folder.

  Returns:
    What belongs in the config.json beside them.
  """
  out = epath.Path(directory)
  ids = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
  if name == "bytes":
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<pad>"}
    (out / "tokenizer_config.json").write_text(json.dumps(about | special, indent=2))
    (out / "tokenizer.json").write_text(json.dumps(_bytes_tokenizer(special)))
    return ids | {"vocabulary": name}
  if name == "cl100k":
    return ids | {"vocabulary": name, "eos_token_id": 100_258}
  if name.startswith("hf:"):
    source = name.removeprefix("hf:")
    begin, end = read_ids(source)
    for file in TOKENIZER_FILES:
      if (epath.Path(source) / file).exists():
        (epath.Path(source) / file).copy(out / file)
    return {"bos_token_id": begin, "eos_token_id": end}
  path = name.removeprefix("xlmr:")
  epath.Path(path).copy(out / "tokenizer.model")
  kind = name.removesuffix(path)
  end = 2 if kind else SentencePieceVocabulary(path).eos_id
  return ids | {"vocabulary": f"{kind}tokenizer.model", "eos_token_id": end}


class HuggingFaceSentencePiece(SentencePieceVocabulary):
  """A SentencePiece model with its own ids, of which none need pad.

  Args:
    path: of the model.
    end: id after the last token of every document.
  """

  def __init__(self, path: str, end: int):
    super().__init__(path)
    self.eos_id = end

  def _check(self) -> None:
    """Rows are padded by weight and segment, whatever 0 is."""


class HuggingFaceTokenizer(Vocabulary):
  """A tokenizer.json; texts are only text, and no special tokens are added.

  Args:
    path: of the file.
    end: id after the last token of every document.
  """

  unk_id = None  # Whatever the file does with what it does not know.

  def __init__(self, path: epath.Path, end: int):
    try:
      import tokenizers
    except ImportError as error:
      raise ValueError(
        f"{path} needs the package tokenizers, got none: {shlex.quote(sys.executable)} "
        "-m pip install tokenizers"
      ) from error
    definition = path.read_text()
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # The library raises nothing more special.
      raise ValueError(f"{path} must be a tokenizer, got {error}.") from error
    # A text that spells a special token is still only text.
    self._tokenizer.encode_special_tokens = True
    self._bytes = _byte_alphabet() if '"ByteLevel"' in definition else None
    added = self._tokenizer.get_added_tokens_decoder()
    self._special = {token for token, x in added.items() if x.special}
    ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
    self.vocab_size, self.eos_id = 1 + max(ids), end

  def encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def spell(self, token: int) -> bytes:
    piece = self._tokenizer.id_to_token(token) if token >= 0 else None
    if piece is None or token in self._special:
      return b""
    if self._bytes is not None and all(x in self._bytes for x in piece):
      return bytes(self._bytes[x] for x in piece)
    if len(piece) == 6 and piece.startswith("<0x"):
      return bytes.fromhex(piece[3:5])
    return piece.replace("\u2581", " ").encode()


def _bytes_tokenizer(special: dict[str, str]) -> dict[str, Any]:
  """The vocabulary "bytes" as a tokenizer.json: pairs of bytes, of which none merge."""
  byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
  byte_level |= {"trim_offsets": False}
  vocab = {token: i for i, token in enumerate(special.values())}
  vocab |= {character: byte + 3 for character, byte in _byte_alphabet().items()}
  added = [
    {"id": vocab[token], "content": token, "special": True}
    | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for token in special.values()
  ]
  return {
    "version": "1.0",
    "added_tokens": added,
    "pre_tokenizer": byte_level,
    "decoder": byte_level,
    "model": {"type": "BPE", "vocab": vocab, "merges": []},
  }


def _byte_alphabet() -> dict[str, int]:
  """The character that stands for each byte in GPT-2's vocabulary, and those like it.

  Printable ones for themselves, the others for U+0100 and the following, in order.
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  alphabet = {chr(byte): byte for byte in printable}
  return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}
