"""The workflow is well formed and runs the README's commands; no system but this one has run it."""

import os
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_the_workflow_runs_the_readmes_commands_on_every_system_and_python():
    workflow = yaml.load(WORKFLOW.read_text(), yaml.BaseLoader)  # "on" is no boolean here
    assert workflow["on"] == ["push", "pull_request"]
    (job,) = workflow["jobs"].values()
    matrix = job["strategy"]["matrix"]
    assert [name.split("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert job["runs-on"] == "${{ matrix.os }}" and job["defaults"]["run"]["shell"] == "bash"
    checkout, python, *commands = job["steps"]
    assert checkout["uses"].startswith("actions/checkout@") and python["uses"].startswith("actions/setup-python@")
    assert python["with"]["python-version"] == "${{ matrix.python }}"
    assert [step["run"] for step in commands] == [".ci/run", ".ci/run run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.skipif(os.name != "posix", reason="the programs that stand in for the real ones are shell scripts")
@pytest.mark.parametrize(("system", "folder", "python"), [("", "bin", "python3"), ("Windows_NT", "Scripts", "python")])
def test_the_script_runs_the_readmes_commands(system, folder, python, tmp_path):
    """With programs that write down how they were called."""
    for name in (".ci/run", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for venv in (".venv", ".venv-test"):
        for program in ("pip", "python", "ruff"):
            path = tmp_path / venv / folder / program
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('#!/bin/sh\necho "${0#./} $*"\n')
            path.chmod(0o700)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / python).write_text(f'#!/bin/sh\necho "{python} $*"\n')
    (tmp_path / "path" / python).chmod(0o700)

    def called(*arguments):
        environment = {"PATH": f"{tmp_path / 'path'}:{os.environ['PATH']}", "OS": system}
        command = ["bash", tmp_path / ".ci" / "run", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    venv, pip, tests, *lint = called()
    assert venv == f"{python} -m venv .venv-test"
    assert pip.startswith(f".venv-test/{folder}/pip install ") and "requirements-test.txt" in pip
    assert tests.startswith(f".venv-test/{folder}/python -m pytest ")
    assert lint == [f".venv-test/{folder}/ruff format --check .", f".venv-test/{folder}/ruff check ."]
    venv, pip, training = called("run")
    assert venv == f"{python} -m venv .venv" and pip.startswith(f".venv/{folder}/pip install ")
    assert training.startswith(f".venv/{folder}/python dcgan_keras.py --dataset faces ")
