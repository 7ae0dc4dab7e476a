"""A config file is a program: from anywhere, and what it gets wrong is one line."""

import pytest

from mhmoe_jax import cli

MISTAKES = {
  "def get_config(:": "{path}, line 1: invalid syntax.",
  "": "{path} must define get_config(), which returns a ConfigDict.",
  "def get_config():\n  return None": (
    "get_config() of {path} must return a ConfigDict, got NoneType."
  ),
  "def get_config():\n  return {}": (
    "get_config() of {path} must return a ConfigDict, got dict."
  ),
  "def get_config():\n  return nme": (
    "{path}, line 2: NameError: name 'nme' is not defined"
  ),
  "import nothing_there": (
    "{path}, line 1: ModuleNotFoundError: No module named 'nothing_there'"
  ),
  "def get_config():\n  return 1 / 0": (
    "{path}, line 2: ZeroDivisionError: division by zero"
  ),
  "def get_config():\n  return [][1]": (
    "{path}, line 2: IndexError: list index out of range"
  ),
  "def get_config():\n  return {}['a']": "{path}, line 2: KeyError: a",
  "def get_config():\n  return 1 + ''": (
    "{path}, line 2: TypeError: unsupported operand type(s) for +: 'int' and 'str'"
  ),
  "def get_config():\n  raise ValueError('a < b, got a=2.')": "a < b, got a=2.",
  "def get_config():\n  return open('/nowhere/x')": "No such file or directory",
  "from configs import base\n"
  "def get_config():\n"
  "  config = base.get_config()\n"
  "  config.modle = 3\n"
  "  return config": 'Did you mean "model" instead of "modle"?',
  "def get_config(row):\n  return row": "get_config() missing 1 required positional",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_config_file(tmp_path, capsys, text):
  path = tmp_path / "mine.py"
  path.write_text(text)
  workdir = tmp_path / "run"
  assert cli.main(["train", f"--config={path}", f"--workdir={workdir}"]) == 1
  (line,) = capsys.readouterr().err.splitlines()[-1:]
  assert line.startswith("mhmoe train: error: ")
  assert MISTAKES[text].format(path=path) in line
  assert len(line) < 300
  assert not workdir.exists()


def test_nothing_is_left_of_the_config_file_before(tmp_path, capsys):
  before, path = tmp_path / "before.py", tmp_path / "mine.py"
  before.write_text("def get_config():\n  return 1 / 0")
  path.write_text("")
  for name in (before, path):
    assert cli.main(["train", f"--config={name}", f"--workdir={tmp_path}/run"]) == 1
  assert f"{path} must define get_config()" in capsys.readouterr().err


def test_a_flag_of_no_key(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text("from configs import base\nget_config = base.get_config")
  for flag, line in {
    "--config.optimizer.lerning_rate=1": (
      "--config.optimizer.lerning_rate must name a key of the config, got "
      "'lerning_rate'. Did you mean \"learning_rate\"?"
    ),
    "--config.optimizer.rates.router=0.5": (
      "--config.optimizer.rates.router must name a key of the config, got 'router'. "
      "Give rates whole: --config.optimizer.rates=\"{'router': ...}\"."
    ),
    "-config.optimiser.eps=2": (
      "-config.optimiser.eps must name a key of the config, got 'optimiser'. "
      'Did you mean "optimizer"?'
    ),
    "--config.optimiser.eps=1": (
      "--config.optimiser.eps must name a key of the config, got 'optimiser'. "
      'Did you mean "optimizer"?'
    ),
  }.items():
    assert cli.main(["train", f"--config={path}", f"--workdir={tmp_path}/r", flag]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"mhmoe train: error: {line}"


def test_of_two_flags_that_may_be_wrong_both_are_named(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text("from configs import base\nget_config = base.get_config")
  flags = ["--config.train.seed=1", "--config.model.seed=2"]
  assert cli.main(["train", f"--config={path}", f"--workdir={tmp_path}/r", *flags]) == 1
  expected = (
    "--config.train.seed or --config.model.seed must name a key of the config, got "
    "'seed'."
  )
  assert expected in capsys.readouterr().err


def test_a_key_that_the_config_lacks_has_its_line(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text(
    "from configs import base\n\n\ndef get_config():\n  config = base.get_config()\n"
    "  config.optimizer.head_rate = 20.0\n  return config\n"
  )
  assert cli.main(["train", f"--config={path}", f"--workdir={tmp_path}/r"]) == 1
  assert f"{path}, line 6: " in capsys.readouterr().err


def test_a_key_that_the_file_lacks_is_not_the_flag_s(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text("def get_config():\n  return {}['model']")
  flags = [f"--config={path}", f"--workdir={tmp_path}/r", "--config.model.remat=none"]
  assert cli.main(["train", *flags]) == 1
  assert f"{path}, line 2: KeyError: model" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["none.py", "", "."])
def test_no_config_file(tmp_path, monkeypatch, capsys, path):
  monkeypatch.chdir(tmp_path)
  assert cli.main(["train", f"--config={path}", "--workdir=run"]) == 1
  error = capsys.readouterr().err
  assert f"--config must name a file, got '{path}'." in error
  assert error.count("\n") == 1


def test_an_empty_workdir_is_none(tmp_path, capsys):
  """As `--workdir=$RUN` gives, which would fill the working folder."""
  path = tmp_path / "mine.py"
  path.write_text("from configs import base\nget_config = base.get_config")
  assert cli.main(["train", f"--config={path}", "--workdir="]) == 1
  assert "train needs --workdir" in capsys.readouterr().err


def test_home_is_found_behind_an_equals_sign(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert cli.main(["sample", "--workdir=~/run"]) == 1
  assert f"no checkpoint under {tmp_path}/run/checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
  "verb", ["eval", "export", "harness", "routing trace", "train", "sample", "plan"]
)
def test_help_needs_no_run(verb, capsys):
  with pytest.raises(SystemExit) as stopped:
    cli.main([*verb.split(), "--help"])
  assert stopped.value.code == 0
  assert "--[no]help" in capsys.readouterr().out


def test_help_of_several_verbs(capsys):
  assert cli.main(["routing", "--help"]) == 0
  assert "routing report  --trace" in capsys.readouterr().out
