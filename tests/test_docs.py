"""What README, docs and configs tell a reader to type, is typed."""

import pathlib
import re
import subprocess

from ml_collections import ConfigDict
import pytest

from configs import base, base_finetune, base_masked
from mhmoe_jax import cli
from tests import reader

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").glob("*.md")),
  *sorted((ROOT / "experiments").glob("2*/README.md")),
]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
each_page = pytest.mark.parametrize(
  "page", PAGES, ids=lambda path: str(path.relative_to(ROOT))
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A model of a few parameters, trained for two steps."""
  workdir = tmp_path_factory.mktemp("trained") / "run"
  config = ["--config", str(ROOT / "configs/tiny.py"), "--workdir", str(workdir)]
  assert cli.main(["train", *config, *reader.SMALL]) == 0
  return workdir


@pytest.fixture
def typist(tmp_path, monkeypatch, trained):
  reader.furnish(tmp_path)
  monkeypatch.chdir(tmp_path)
  return reader.Reader(monkeypatch, trained)


@each_page
def test_commands(page, typist):
  for line in reader.commands(page.read_text()):
    typist.type(line)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_configs(path, typist):
  for line in re.findall(r"^ *(mhmoe .*)", path.read_text(), re.MULTILINE):
    typist.type(line)


@each_page
def test_python(page, typist):
  """The Python of a page is one program, where `config` is a config file's."""
  blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
  exec(compile("\n".join(blocks), str(page), "exec"), {"config": base.get_config()})


def names_of(table, prefix=""):
  """Of all settings and tables of them, with dots."""
  for key, value in table.items():
    yield prefix + key
    if isinstance(value, ConfigDict):
      yield from names_of(value, f"{prefix}{key}.")


@each_page
def test_settings_exist(page):
  """Dotted names in prose, `data.streams` or `--config.mesh.data=2`, are settings."""
  tables = "model|moe|data|objective|optimizer|mesh|train"
  known = {*names_of(base.get_config()), *names_of(base_masked.get_config())}
  for task in ("vqa", "nlvr", "captioning"):
    known |= {*names_of(base_finetune.tune(base_masked.get_config(), task))}
  known |= {name.removeprefix("model.") for name in known if ".moe." in name}
  text = page.read_text()
  named = re.findall(r"--config\.([a-z_.]+)", text)
  named += re.findall(rf"`((?:{tables})\.[a-z_.]+)(?:=[^`]*)?`", text)
  files = (".py", ".md", ".json", ".jsonl", ".raw", ".txt")
  assert [x for x in named if x not in known and not x.endswith(files)] == []


@each_page
def test_links(page):
  """Links into the repository lead somewhere, to the heading too."""
  for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
    if "://" in target:
      continue
    path, _, heading = target.partition("#")
    path = page.parent / path if path else page
    assert path.exists(), target
    if heading:
      titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
      anchors = [re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles]
      assert heading in anchors, target


def test_the_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_a_wrong_command_is_seen(typist):
  for line in (
    "mhmoe train --config configs/tiny.py --workdir x --config.model.widht=3",
    "mhmoe train --config configs/tiny.py --workdir x --config.model.embed_dim=33",
    "mhmoe plan --config configs/paper1/english.py:mhmoe_9",
    "mhmoe sample --workdir runs/none",
    "mhmoee help",
    "pip install seqioo",
    "pip install 'mhmoe_jax[trian]'",
    "make trian",
    "python experiments/pod/run.py",
    "python experiments/2612_multimodal/report.py --results x",
    "tensorboard --logdir runs/none",
  ):
    with pytest.raises((AssertionError, subprocess.CalledProcessError)):
      typist.type(line)
