import errno
import os
import subprocess
import sys

import pytest
from conftest import ROOT, gone_console

import command


def leave(body, **options):
    code = f"import command\ndef main():\n    {body}\ncommand.run(main)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, **{"capture_output": True, **options})


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return 7", 7, ""),
        ("raise command.InputError('no\\n  such thing caf\\udce9')", 2, "error: no such thing caf\\udce9\n"),
        ("raise command.RunError('cannot go on')", 1, "error: cannot go on\n"),
        ("raise OSError(28, 'no space left', 'file')", 1, "error: [Errno 28] no space left: 'file'\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(body, code, stderr):
    result = leave(body)
    assert (result.returncode, result.stderr) == (code, stderr)


def test_errors_of_the_program_itself_keep_their_traceback():
    assert "Traceback" in leave("return 1 / 0").stderr


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "many", ""])
def test_at_least_refuses_what_is_no_whole_number_from_one_on(text, capsys):
    parser = command.Parser(prog="it")
    parser.add_argument("--n", type=command.at_least(1))
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args([f"--n={text}"])
    assert leaving.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("it: argument --n: ") and stderr.count("\n") == 1


def test_a_file_on_a_system_that_cannot_sync_is_written(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    with command.replacing(tmp_path / "file") as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "whole"


@pytest.mark.skipif(os.name != "posix", reason="terminals and pipes of POSIX")
@pytest.mark.parametrize(
    "kind", ["a reader that ends", "a terminal that hangs up", "a full pipe that waits", "a full pipe"]
)
def test_what_a_console_does_not_take_is_dropped(kind, monkeypatch):
    monkeypatch.setattr(command, "STALLED", 0.1)
    console = command.Console(open(gone_console(kind), "w"))  # noqa: SIM115
    for _ in range(20):
        print("x" * 1000, file=console, flush=True)
    console.leave().close()


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed as in POSIX")
def test_a_closed_console_is_no_file_that_is_opened_later(tmp_path):
    body = f"file = open(r'{tmp_path / 'file'}', 'w'); print('text'); print('text', file=command.sys.stderr); return 3"
    closed = {"capture_output": False, "preexec_fn": lambda: [os.close(number) for number in (0, 1, 2)]}
    assert leave(body, **closed).returncode == 3
    assert (tmp_path / "file").read_text() == ""
