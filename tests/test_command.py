import subprocess
import sys

import pytest
from conftest import ROOT

import command


def leave(body):
    code = f"import command\ndef main():\n    {body}\ncommand.run(main)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return 0", 0, ""),
        ("return 7", 7, ""),
        ("raise command.InputError('no\\n  such thing')", 2, "error: no such thing\n"),
        ("raise command.RunError('cannot go on')", 1, "error: cannot go on\n"),
        ("raise OSError(28, 'no space left', 'file')", 1, "error: [Errno 28] no space left: 'file'\n"),
        ("raise command.InputError('caf\\udce9')", 2, "error: caf\\udce9\n"),
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
