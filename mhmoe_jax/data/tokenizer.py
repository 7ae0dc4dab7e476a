"""Training of SentencePiece models that lose nothing.

No normalisation, no spaces added or collapsed; line ends are tokens, and what the model
has no piece for is spelt in bytes. So decoding gives the text back, and the counts of
`count_token_bytes` sum to its bytes: bits per byte are exact.

One exception: SentencePiece writes a space as U+2581. That character itself therefore
becomes U+2582, its neighbour, which has three bytes like it.
"""

from collections.abc import Iterable, Iterator
import io
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from mhmoe_jax.data.files import check_writable, writing
from mhmoe_jax.data.quiet import tf

# A normalisation of one rule: U+2581 becomes U+2582.
_RULES = "2581\t2582\n"
# SentencePiece passes over sentences longer than its limit, so longer lines are cut: a
# character has at most four bytes.
_LINE_CHARACTERS = 2**16
_LINE_BYTES = 4 * _LINE_CHARACTERS


def train_sentencepiece(texts: Iterable[str], vocab_size: int, path: str) -> None:
  """Trains a SentencePiece model and writes it to a file.

  Byte-pair encoding, which counts and does not search in floating point: the same texts
  give the same file anywhere. pad is 0, eos 1 and unk 2, as seqio wants them.

  Args:
    texts: what to learn from, of any length; held in memory.
    vocab_size: tokens of the model. Three are special, 256 are bytes, one is the line
      end, the others are characters and pieces of the texts.
    path: where to write the model, local or gs://.

  Raises:
    ValueError: the texts are empty, or vocab_size is too small for their characters or
      too large for their number of pieces; or the path cannot be written.
  """
  check_writable(path)  # Not after minutes.
  # First, because SentencePiece would make an error of its own of one in the texts.
  lines = list(_lines(texts))
  if not lines:
    raise ValueError("texts must hold some text, got 0 lines.")
  model = io.BytesIO()
  try:
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
      rules.write(_RULES)
      rules.flush()
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_tsv=rules.name,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        user_defined_symbols=["\n"],
        max_sentence_length=_LINE_BYTES,
        minloglevel=2,
      )
  except RuntimeError as error:
    # "INTERNAL: file(line) [condition] what is wrong"
    reason = str(error).rpartition("] ")[2]
    raise ValueError(
      f"vocab_size must suit the texts, got vocab_size={vocab_size}. SentencePiece: "
      f"{reason}"
    ) from None
  proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
  # The name of a temporary file, another one each time.
  proto.normalizer_spec.ClearField("normalization_rule_tsv")
  with writing(path):
    with tf.io.gfile.GFile(path + ".begun", "wb") as file:
      file.write(proto.SerializeToString(deterministic=True))
    tf.io.gfile.rename(path + ".begun", path, overwrite=True)


def _lines(texts: Iterable[str]) -> Iterator[str]:
  for text in texts:
    for line in text.splitlines(keepends=True):
      for start in range(0, len(line), _LINE_CHARACTERS):
        yield line[start : start + _LINE_CHARACTERS]
