"""SentencePiece models as vocabularies."""

from etils import epath
import sentencepiece

from mhmoe_jax.data.vocabularies import Vocabulary


class SentencePieceVocabulary(Vocabulary):
  """A SentencePiece model with its own ids, of which 0 pads.

  Args:
    path: of the model, local or gs://.

  Raises:
    ValueError: its pad id is not 0, or it has no eos id.
    OSError: the file cannot be read.
    RuntimeError: it is not a model.
  """

  def __init__(self, path: str):
    self.path = path
    self.tokenizer = sentencepiece.SentencePieceProcessor()
    self.tokenizer.LoadFromSerializedProto(epath.Path(path).read_bytes())
    self._check()
    self.vocab_size = self.tokenizer.get_piece_size()
    self.eos_id, self.unk_id = self.tokenizer.eos_id(), self.tokenizer.unk_id()

  def _check(self) -> None:
    # Targets are padded with 0, so 0 must not be a token of text.
    pad_id, eos_id = self.tokenizer.pad_id(), self.tokenizer.eos_id()
    if pad_id != 0 or eos_id < 1:
      raise ValueError(
        "A SentencePiece model must have pad id 0 and an eos id, got "
        f"pad_id={pad_id}, eos_id={eos_id} in {self.path}."
      )

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text)

  def spell(self, token: int) -> bytes:
    tokenizer = self.tokenizer
    if not 0 <= token < tokenizer.get_piece_size():
      return b""
    is_special = tokenizer.is_control(token) or tokenizer.is_unknown(token)
    if is_special or tokenizer.is_unused(token):
      return b""
    piece = tokenizer.id_to_piece(token)
    if tokenizer.is_byte(token):  # "<0xE4>"
      return bytes.fromhex(piece[3:5])
    # SentencePiece writes a space as U+2581.
    return piece.replace("\u2581", " ").encode()
