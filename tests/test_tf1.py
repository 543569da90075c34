"""What `from tf1 import keras, tf` sets up."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

import tf1


@pytest.mark.parametrize(
    ("cores", "batch_size", "size", "threads"),
    [
        *((2, 32, 32, 1), (2, 64, 32, 1), (2, 65, 32, 0), (2, 16, 64, 1), (2, 32, 64, 0)),
        *((2, None, 32, 0), (1, 32, 32, 0), (8, 32, 32, 0)),
    ],
)
def test_on_two_cores_ops_of_a_small_batch_are_not_split(cores, batch_size, size, threads, monkeypatch):
    monkeypatch.setattr(tf1, "cores", lambda: cores)
    assert (
        tf1.session_config(batch_size, (size, size)).intra_op_parallelism_threads == threads
    )  # 0: as many as there are cores


def import_tf1(program, path, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), **environment}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)


ENDS = {  # how a library may end an import, and the exit code
    "os.abort()": -6,
    "import ctypes; ctypes.string_at(0)": -11,
    "os.kill(os.getpid(), 4)": -4,
    "raise ImportError('broken')": 1,
}


@pytest.mark.skipif(os.name != "posix", reason="the signals are POSIX's")
@pytest.mark.parametrize("end", ENDS)
def test_what_a_library_prints_before_it_ends_the_import_is_shown(end, tmp_path):
    """TensorFlow is a module that prints one line, as a shared library would, and ends."""
    (tmp_path / "tensorflow").mkdir()
    program = f"import os\nos.write(2, b'no AVX here\\n')\n{end}\n"
    (tmp_path / "tensorflow" / "__init__.py").write_text(program)
    result = import_tf1("import tf1", tmp_path)
    assert result.returncode == ENDS[end] and result.stderr.startswith("no AVX here\n")
    assert ("ImportError: broken" in result.stderr) == (ENDS[end] == 1)


def test_the_console_stays_clean_and_the_users_keras_json_has_no_effect(tmp_path):
    (tmp_path / ".keras").mkdir()
    settings = {"image_data_format": "channels_first", "floatx": "bfloat16", "epsilon": 1}
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    program = """
from tf1 import keras
print(keras.backend.image_data_format(), keras.backend.floatx(), keras.backend.epsilon())
"""
    result = import_tf1(program, tmp_path, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert (result.stdout, result.stderr) == ("channels_last float32 1e-07\n", "")
