"""What `mhmoe eval` says of a text, without a model."""

import pytest

from configs import base
from mhmoe_jax import cli
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.evals import perplexity
from mhmoe_jax.tasks.language import LanguageEvaluation
from mhmoe_jax.train.config import resolve


@pytest.fixture
def run(monkeypatch):
  """The flag of a run that is not read."""
  monkeypatch.setattr(saved, "newest_step", lambda workdir: 1)
  config = base.get_config().to_dict()
  monkeypatch.setattr(saved, "load_config", lambda workdir, step: config)
  monkeypatch.setattr(
    restore, "load_model", lambda workdir, config, step: (resolve(config), {})
  )
  monkeypatch.setattr(restore, "load_fixed", lambda workdir, cfg, step: {})
  return "--workdir=run"


@pytest.mark.parametrize(("bits", "lines"), [(8.2, 5), (8.0, 4)])
def test_worse_than_a_guess(run, monkeypatch, capsys, bits, lines):
  found = LanguageEvaluation(2.0, bits, 10, 12, None)
  monkeypatch.setattr(perplexity, "evaluate_model", lambda cfg, params, fixed: found)
  assert cli.main(["eval", run, "--text=a.txt"]) == 0
  shown = capsys.readouterr().out.splitlines()
  assert len(shown) == lines
  assert shown[2] == f"bits per byte  {bits:.4f}"
  assert shown[-1].endswith("learned nothing of text of this kind") == (bits > 8)


@pytest.mark.parametrize("text", ["", " "])
def test_no_text(run, capsys, text):
  assert cli.main(["eval", run, f"--text={text}"]) == 1
  error = capsys.readouterr().err
  assert error == f"mhmoe eval: error: --text must name files, got {text!r}.\n"
