"""The notebook runs from its first cell to its last, and carries its outputs.

`python tests/test_notebook.py` runs it in full and saves it with the outputs.
"""

import base64
import io
import subprocess
import sys

import nbformat
import numpy as np
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = ROOT / "examples" / "fast_gan_in_keras.ipynb"


def execute(notebook):
    """Run it in the folder it is in, as Jupyter does."""
    resources = {"metadata": {"path": NOTEBOOK.parent}}
    return NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def png(cell):
    (output,) = [output for output in cell.outputs if output.output_type == "execute_result"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))


def text(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_it_is_valid_and_its_outputs_are_those_of_one_full_run():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert "step 1000: " in text(cells[-3])
    before, after = png(cells[-2]), png(cells[-1])
    assert after.std() > 1.5 * before.std()


def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    short = nbformat.read(NOTEBOOK, 4)
    (parameters,) = [cell for cell in short.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = parameters.source.replace("steps = 1000", "steps = 2")
    for cell in code(short):
        cell.outputs = []
    cells = code(execute(short))
    assert "step 2: " in text(cells[-3])
    assert (png(cells[-2]) != png(cells[-1])).any()


FIRST_CELL = """
import sys, types, nbformat
if {in_colab}:
    sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.path = [path for path in sys.path if path]
exec(nbformat.read({notebook!r}, 4).cells[1].source)
import command
print(command.__file__)
"""


def first_cell(folder, answer="", in_colab=True):
    """Run the first cell in an empty folder, as Colab does."""
    run = [sys.executable, "-c", FIRST_CELL.format(in_colab=in_colab, notebook=str(NOTEBOOK))]
    return subprocess.run(run, cwd=folder, input=f"{answer}\n", capture_output=True, text=True, timeout=60)


def test_in_colab_the_first_cell_clones_the_project(tmp_path):
    repository, empty = tmp_path / "repository", tmp_path / "empty"
    repository.mkdir(), empty.mkdir()
    for path in (*ROOT.glob("*.py"), ROOT / "requirements.txt"):
        (repository / path.name).write_bytes(path.read_bytes())
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    result = first_cell(empty, answer=repository.as_uri())
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith(str(empty / "project" / "command.py"))
    assert "installing" not in result.stdout  # the tests' environment has everything


def test_elsewhere_without_the_project_the_first_cell_says_so(tmp_path):
    result = first_cell(tmp_path, in_colab=False)
    assert result.returncode == 1 and "examples/" in result.stderr and not list(tmp_path.iterdir())


if __name__ == "__main__":
    executed = execute(nbformat.read(NOTEBOOK, 4))
    for each in (output for cell in executed.cells for output in cell.get("outputs", [])):
        if "image/png" in each.get("data", {}):
            each.data.pop("image/jpeg", None)  # Pillow shows an image as both
    nbformat.write(executed, NOTEBOOK)
