"""The examples start the project's command. None of them is run here."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

import dcgan_keras
from tf1 import distributed

EXAMPLES = ROOT / "examples"


def test_the_image_has_every_module_that_its_commands_import(tmp_path):
    for line in (EXAMPLES / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            *patterns, target = line.split()[1:]
            for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
                if path.is_dir():
                    shutil.copytree(path, tmp_path / target)
                else:
                    shutil.copy(path, tmp_path / target)
    program = "import dcgan_keras, generate; print(dcgan_keras.__file__)"
    environment = {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stdout == f"{tmp_path / 'dcgan_keras.py'}\n", result.stderr


def tfjob():
    specs = yaml.safe_load((EXAMPLES / "tfjob.yaml").read_text())["spec"]["tfReplicaSpecs"]
    return [(specs[kind]["replicas"], specs[kind]["template"]["spec"]["containers"][0]) for kind in ("Chief", "Worker")]


def vertex():
    pools = yaml.safe_load((EXAMPLES / "vertex.yaml").read_text())["workerPoolSpecs"]
    return [(pool["replicaCount"], pool["containerSpec"]) for pool in pools]


@pytest.mark.parametrize("job", [tfjob, vertex])
def test_a_job_starts_one_chief_and_workers_with_a_command_that_divides_among_them(job):
    (chiefs, chief), (workers, worker) = job()
    arguments = dcgan_keras.parse(chief["args"])
    assert chiefs == 1 and worker["args"] == chief["args"]
    assert arguments.batch_size == 32 * (chiefs + workers)


def test_the_vertex_command_line_is_a_shell_script():
    subprocess.run(["bash", "-n", EXAMPLES / "vertex.sh"], check=True)


@pytest.mark.parametrize("task", [{"type": "chief", "index": 0}, {"type": "worker", "index": 2}])
def test_what_both_services_put_into_TF_CONFIG_is_understood(task):
    """Both services add fields of their own."""
    addresses = {
        "chief": ["dcgan-keras-chief-0.default.svc:2222"],
        "worker": [f"dcgan-keras-worker-{i}.default.svc:2222" for i in range(3)],
    }
    config = {"cluster": addresses, "task": {**task, "trial": "1"}, "environment": "cloud", "job": "{}"}
    found = distributed.task_of(json.dumps(config))
    assert found.name == f"{task['type']} {task['index']}" and len(found.names) == 4
