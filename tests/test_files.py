import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import ROOT, bad_input
from test_survival import TINY, step_of
from test_training import SHORT

import command
from training import folder as files


def test_replacing_gives_the_whole_new_file_or_keeps_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), command.replacing(path) as beside:
        beside.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    with command.replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_files_are_sorted_by_step_and_foreign_ones_left_alone(tmp_path):
    for name in ("999500", "1000000", "000500", "best", "5_copy"):
        (tmp_path / f"checkpoint_{name}.h5").touch()
    assert [step_of([path]) for path in files.checkpoints(tmp_path)] == [500, 999500, 1000000]


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        RuntimeError("Unable to close file (errno = 5, error message = 'Input/output error')"),
        OSError("Can't write data (file write failed: errno = 5,\n error message = 'Input/output error')"),
    ],
)
def test_however_a_library_tells_of_a_failed_write_it_is_one_line(error, tmp_path):
    line = r"run can no longer be written \(Input/output error\); there is no"
    with pytest.raises(command.RunError, match=line), files.writing(tmp_path / "run"):
        raise error


def test_a_folder_that_gets_another_name_while_its_lock_is_taken_is_refused(tmp_path, monkeypatch):
    flock = files.fcntl.flock

    def late(descriptor, operation):
        (tmp_path / "run").rename(tmp_path / "run.1")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").touch()
        flock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with pytest.raises(command.InputError, match="another run is writing"), files.locked(tmp_path / "run"):
        pass


def test_a_killed_run_leaves_no_lock_behind(dcgan, tmp_path):
    holder = f"import files, time, pathlib\nwith files.locked(pathlib.Path({str(tmp_path / 'run')!r})):\n"
    holder += "    print('locked', flush=True)\n    time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", holder], cwd=ROOT, stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"locked\n"
        assert "another run is writing to run" in bad_input(dcgan(*TINY, "--steps", 1))
        run.kill()
    assert dcgan(*TINY, "--steps", 1).returncode == 0


def test_a_second_run_into_the_same_folder_is_refused(tmp_path, dcgan):
    with files.locked(tmp_path / "run"):
        assert "another run is writing to run" in bad_input(dcgan(*SHORT, "--steps", 2))


def without(monkeypatch, **modules):
    """files.py as it is where these modules are None, or others."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("files_elsewhere", ROOT / "files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_on_windows_the_lock_is_msvcrt_s(tmp_path, monkeypatch):
    taken = set()

    def locking(descriptor, mode, size):
        assert (mode, size) == (2, 1)
        if taken:
            raise PermissionError(13, "Permission denied")
        taken.add(descriptor)

    windows = without(monkeypatch, fcntl=None, msvcrt=types.SimpleNamespace(LK_NBLCK=2, locking=locking))
    windows.WINDOWS = True
    with windows.locked(tmp_path / "run"):
        with pytest.raises(command.InputError, match="another run is writing"), windows.locked(tmp_path / "run"):
            pass
        with windows.replacing(tmp_path / "run" / "file") as beside:
            beside.write_text("content")
    taken.clear()
    assert windows.set_aside(tmp_path / "run") == tmp_path / "run.1"
    assert (tmp_path / "run.1" / "file").read_text() == "content"


def test_a_system_with_neither_lock_goes_without(tmp_path, monkeypatch):
    elsewhere = without(monkeypatch, fcntl=None, msvcrt=None)
    with elsewhere.locked(tmp_path / "run"), elsewhere.locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("name", [".", "..", "run/.."])
def test_a_folder_without_a_name_of_its_own_is_not_renamed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(command.InputError, match="would have to be renamed"):
        files.set_aside(Path(name))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
