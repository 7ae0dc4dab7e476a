import lzma

import pytest

from mhmoe_jax.analysis.statistics import words


def test_lists(tmp_path):
  path = tmp_path / "homographs.tsv.xz"
  row = 'train\tlead\tlead_nou\tHe said "lead" is heavy.\t9\t13\n'
  path.write_bytes(
    lzma.compress(b"split\thomograph\twordid\tsentence\tstart\tend\n" + row.encode())
  )
  (made,) = words.load_homographs(str(path))
  sentence, start, stop, word, sense = made
  assert sentence.encode()[start:stop] == b"lead"
  assert (word, sense) == ("lead", "lead_nou")

  path = tmp_path / "senses.tsv"
  path.write_text("lemma\tpos\tn_senses\nBank\tn\t10\nbank\tv\t8\nin situ\tr\t1\n")
  assert words.load_sense_counts(str(path)) == {"bank": 18}
  with pytest.raises(ValueError, match="a word list must have the columns homograph"):
    words.load_homographs(str(path))

  path = tmp_path / "friends.tsv"
  path.write_text("split\tes\tpt\tlabel\na\tpaquete\tpacote\t0\na\tatrio\tátrio\t1\n")
  friends, cognates = words.load_false_friends(str(path))
  assert (friends, cognates) == ([("paquete", "pacote")], [("atrio", "átrio")])
