"""Every notebook runs from top to bottom, and is stored as it ran."""

import os
import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def count_figures(notebook):
  outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
  return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_is_a_notebook():
  assert NOTEBOOKS, FOLDER


@each_notebook
def test_runs(path, tmp_path, monkeypatch):
  # The kernel of the Python that runs the tests, this source tree (installed or not, so
  # that the install cell has nothing to do), and nothing of the user's own set-up.
  monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
  monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
  monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
  monkeypatch.delenv("MPLBACKEND", raising=False)
  # One step on one device: they train to have something to look at.
  monkeypatch.setenv("STEPS", "1")
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
  monkeypatch.setenv("TMPDIR", str(tmp_path))

  notebook = nbformat.read(path, as_version=4)
  for cell in code_cells(notebook):
    cell.outputs = []
  client = nbclient.NotebookClient(
    notebook,
    kernel_name="python3",
    timeout=300,  # seconds, of one cell
    resources={"metadata": {"path": str(FOLDER)}},
  )
  client.execute()  # raises CellExecutionError with the cell and its traceback
  assert count_figures(notebook) >= 1


@each_notebook
def test_is_stored_as_it_ran(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  cells = code_cells(notebook)
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  assert count_figures(notebook) >= 1
  outputs = [output for cell in cells for output in cell.outputs]
  assert all(output.output_type != "error" for output in outputs)
  assert path.stat().st_size < 300_000  # GitHub shows it at once
