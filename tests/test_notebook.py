"""The notebook runs from its first cell to its last, and carries its outputs.

`python tests/test_notebook.py` runs it in full and saves it with the outputs.
"""

import base64
import io
import subprocess
import sys
import zipfile

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = ROOT / "examples" / "fast_gan_in_keras.ipynb"


def execute(notebook):
    """Run it in the folder it is in, as Jupyter does."""
    resources = {"metadata": {"path": NOTEBOOK.parent}}
    return NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()


def png(cell):
    (output,) = [output for output in cell.outputs if output.output_type == "execute_result"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))


def text(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, 4)


def test_it_is_a_valid_notebook_with_every_output(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert "step 300: " in text(code[-3])
    before, after = png(code[-2]), png(code[-1])
    assert before.shape == after.shape == (526, 526, 3)  # 8 by 8 pictures of 32 pixels, lines between, enlarged twice
    assert after.std() > 1.5 * before.std()


def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    short = nbformat.from_dict(notebook)
    (parameters,) = [cell for cell in short.cells if "parameters" in cell.metadata.get("tags", [])]
    assert "steps = 300" in parameters.source
    parameters.source = "steps = 3"
    for cell in short.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    code = [cell for cell in execute(short).cells if cell.cell_type == "code"]
    assert text(code[4]).splitlines() == [
        "two models: G × 2, D × 3 in 4 calls of the session",  # noqa: RUF001
        "one pass: G × 1, D × 2 in 1 call of the session",  # noqa: RUF001
    ]
    assert "step 3: " in text(code[-3])
    assert (png(code[-2]) != png(code[-1])).any()


FIRST_CELL = """
import sys, types, nbformat
colab, files = types.ModuleType("google.colab"), types.ModuleType("google.colab.files")
colab.files, files.upload = files, lambda: {{"project.zip": b""}}
if {in_colab}:
    sys.modules.update({{"google.colab": colab, "google.colab.files": files}})
sys.path = [path for path in sys.path if path]
exec(nbformat.read({notebook!r}, 4).cells[1].source)
import command
print(command.__file__)
"""


def first_cell(folder, answer="", in_colab=True):
    """Run the first cell in an empty folder, as Colab does."""
    program = FIRST_CELL.format(in_colab=in_colab, notebook=str(NOTEBOOK))
    run = [sys.executable, "-c", program]
    return subprocess.run(run, cwd=folder, input=f"{answer}\n", capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("way", ["git", "zip"])
def test_in_colab_the_first_cell_gets_the_project(way, tmp_path):
    project, empty = tmp_path / "dcgan", tmp_path / "empty"
    project.mkdir(), empty.mkdir()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("requirements*.txt")]:
        (project / path.name).write_bytes(path.read_bytes())
    if way == "git":
        for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"]):
            subprocess.run(["git", *words], cwd=project, check=True)
    else:
        with zipfile.ZipFile(empty / "project.zip", "w") as archive:
            for path in project.iterdir():
                archive.write(path, f"dcgan/{path.name}")
    result = first_cell(empty, answer=project.as_uri() if way == "git" else "")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith(
        str(empty / "project" / ("" if way == "git" else "dcgan") / "command.py")
    )
    assert "installing" not in result.stdout  # the tests' environment has everything


def test_elsewhere_without_the_project_the_first_cell_says_so(tmp_path):
    result = first_cell(tmp_path, in_colab=False)
    assert result.returncode == 1 and "examples/" in result.stderr and not list(tmp_path.iterdir())


if __name__ == "__main__":
    executed = execute(nbformat.read(NOTEBOOK, 4))
    for each in (output for cell in executed.cells for output in cell.get("outputs", [])):
        if "image/png" in each.get("data", {}):
            each.data.pop("image/jpeg", None)  # Pillow shows a picture as both
    nbformat.write(executed, NOTEBOOK)
