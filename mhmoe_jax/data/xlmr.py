"""XLM-R's vocabulary: a SentencePiece model with the ids of fairseq.

fairseq puts <s> 0, <pad> 1, </s> 2 and <unk> 3 before the pieces and <mask> behind
them; in XLM-R's `sentencepiece.bpe.model` <unk> is 0, <s> 1, </s> 2, and pieces begin
at 3. So a piece is one higher than in the model, and 250,000 pieces make 250,002 ids.

All ids are fairseq's; what differs is which of them training uses. Rows are padded with
0, fairseq's <s>, and not with its <pad>, which never occurs: the feed pads every
vocabulary with 0, by weight and segment, not by id. 0 is also the first input of every
segment, as <s> begins a sentence there; it is no target, as no text has it. </s> ends a
document. <mask> never occurs.

XLM-R's model normalises (NFKC), joins spaces and line ends, and spells what it does not
know <unk>. So bytes are those of the normalised text without what is unknown.
"""

from mhmoe_jax.data.pieces import SentencePieceVocabulary

EOS, UNK = 2, 3
OFFSET = 1  # of pieces, from the model to fairseq


class XlmrVocabulary(SentencePieceVocabulary):
  """A SentencePiece model of fairseq's kind.

  Args:
    path: of the model, local or gs://.

  Raises:
    ValueError: the special tokens of the model are not those of fairseq.
    OSError: the file cannot be read.
    RuntimeError: it is not a model.
  """

  def __init__(self, path: str):
    super().__init__(path)
    self.vocab_size += OFFSET + 1  # <mask> is last
    self.eos_id, self.unk_id = EOS, UNK

  def _check(self) -> None:
    tokenizer = self.tokenizer
    special = (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id())
    if special != (0, 1, 2):
      raise ValueError(
        "The SentencePiece model of xlmr:PATH must have unk id 0, bos id 1 and eos id "
        f"2, got {special[0]}, {special[1]} and {special[2]} in {self.path}."
      )

  def encode(self, text: str) -> list[int]:
    return [token + OFFSET if token else UNK for token in super().encode(text)]

  def spell(self, token: int) -> bytes:
    # In the model, what is behind <unk> is <s> and </s>, which spell nothing either.
    return super().spell(token - OFFSET)
