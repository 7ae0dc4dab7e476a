import re

import pytest

from mhmoe_jax.analysis.figures.tokens import show_tokens
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace

SPAN = r'<span title="([^"]*)" style="background:(#[0-9a-f]{6})">([^<]*)</span>'


@pytest.fixture
def trace():
  # Two documents, two layers of two heads.
  documents = [Document("en", "a<\n"), Document("en", "b")]
  experts = [[[[0], [1]], [[e], [3]]] for e in (0, 1, 0, 2)]
  return make_trace(experts, num_experts=4, documents=documents)


def test_tokens_have_the_colour_of_their_expert(trace):
  found = re.findall(SPAN, show_tokens(trace, layer=1, head=0))
  notes, colours, texts = zip(*found, strict=True)
  assert texts == ("a", "&lt;", "⏎\n", "b")
  assert colours[0] == colours[2]
  assert len(set(colours)) == 3
  assert notes[1] == "experts 1 | 3, loss 1.00"
  (other,) = {colour for _, colour, _ in re.findall(SPAN, show_tokens(trace, 1, 1))}
  assert other not in colours


def test_documents_are_apart_and_the_key_has_what_is_shown(trace):
  made = show_tokens(trace, 1, 0, first=1, count=2)
  assert "<hr>" not in made
  assert re.findall(r"> (\d) </span>", made) == ["0", "1"]
  assert show_tokens(trace, 1, 0).count("<hr>") == 1


@pytest.mark.parametrize("place", [{"layer": 2}, {"head": -1}, {"first": 4}])
def test_places_that_are_not_there(trace, place):
  (name, value) = next(iter(place.items()))
  with pytest.raises(ValueError, match=rf"^{name} must be in \[0, \d\), got .*{value}"):
    show_tokens(trace, **({"layer": 0, "head": 0} | place))
