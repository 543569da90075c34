"""`.ci/run` finds the README's commands and runs them, also where a virtual environment is laid out as on Windows."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT


@pytest.mark.skipif(os.name != "posix", reason="the programs that stand in for the real ones are shell scripts")
@pytest.mark.parametrize(("system", "folder", "python"), [("", "bin", "python3"), ("Windows_NT", "Scripts", "python")])
def test_the_script_runs_the_readmes_commands(system, folder, python, tmp_path):
    for name in (".ci/run", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    programs = [f"{venv}/{folder}/{name}" for venv in (".venv", ".venv-test") for name in ("pip", "python", "ruff")]
    for name in (*programs, f"path/{python}"):  # each writes down how it was called
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name.removeprefix("path/")} $*"\n')
        path.chmod(0o700)

    def called(*arguments):
        environment = {"PATH": f"{tmp_path / 'path'}:{os.environ['PATH']}", "OS": system}
        command = ["bash", tmp_path / ".ci" / "run", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    venv, pip, tests, *lint = called()
    assert venv == f"{python} -m venv .venv-test"
    assert pip == f".venv-test/{folder}/pip install -q -r tests/requirements.txt"
    assert tests.startswith(f".venv-test/{folder}/python -m pytest ")
    assert lint == [f".venv-test/{folder}/ruff format --check .", f".venv-test/{folder}/ruff check ."]
    venv, pip, training = called("run")
    assert venv == f"{python} -m venv .venv" and pip == f".venv/{folder}/pip install -q -r requirements.txt"
    assert training.startswith(f".venv/{folder}/python dcgan_keras.py --dataset faces ")
