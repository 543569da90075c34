"""The examples are well formed, and say what the command and the job understand. None of them is run here."""

import json
import re
import shlex
import subprocess

import pytest
import yaml
from conftest import ROOT

import dcgan_keras
import distributed

EXAMPLES = ROOT / "examples"
DOCKERFILE = (EXAMPLES / "Dockerfile").read_text()


def understood(arguments):
    """The command takes them."""
    assert dcgan_keras.parse(arguments).dataset == "cifar10"


def test_the_image_has_every_module_that_the_command_loads():
    lines = [shlex.split(line) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert {line[0] for line in lines} == {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}
    copied = [name for line in lines if line[0] == "COPY" for name in line[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert json.loads(re.search(r"ENTRYPOINT (.*)", DOCKERFILE)[1]) == ["python", "dcgan_keras.py"]
    own = {path.stem: [path] for path in ROOT.glob("*.py")}
    own |= {path.parent.name: [*path.parent.glob("*.py")] for path in ROOT.glob("*/__init__.py")}
    needed, reading = set(), ["dcgan_keras"]
    while reading:
        needed.add(module := reading.pop())
        text = "".join(path.read_text() for path in own[module])
        found = re.findall(r"^ *(?:import|from) (\w+)", text, re.MULTILINE)
        reading += own.keys() & set(found) - needed
    modules = {name if (ROOT / name).is_dir() else f"{name}.py" for name in needed}
    assert set(copied) - {"requirements.txt"} == modules


def test_the_images_tensorflow_is_the_projects():
    version = re.search(r"^tensorflow(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert f'ARG TENSORFLOW="tensorflow{version}"' in DOCKERFILE
    assert f"tensorflow[and-cuda]{version}" in DOCKERFILE


def test_the_tfjob_starts_a_chief_and_workers_with_the_same_command():
    job = yaml.safe_load((EXAMPLES / "tfjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    replicas = job["spec"]["tfReplicaSpecs"]
    assert replicas.keys() == {"Chief", "Worker"} and replicas["Chief"]["replicas"] == 1
    containers = []
    for spec in replicas.values():
        assert spec["restartPolicy"] == "OnFailure"  # so an end with exit code 1 is no end of the job
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "tensorflow"
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        containers.append(container)
    chief, worker = containers
    assert chief["args"] == worker["args"] and chief["image"] == worker["image"]
    understood(chief["args"])
    writable = [mount["mountPath"] for mount in chief["volumeMounts"] if not mount.get("readOnly")]
    assert str(dcgan_keras.parse(chief["args"]).out).startswith(tuple(writable))


def test_the_vertex_job_starts_a_chief_and_workers_with_the_same_command():
    first, second = yaml.safe_load((EXAMPLES / "vertex.yaml").read_text())["workerPoolSpecs"]
    assert first["replicaCount"] == 1
    assert first["containerSpec"] == second["containerSpec"] and first["machineSpec"] == second["machineSpec"]
    understood(first["containerSpec"]["args"])


def test_the_vertex_command_line():
    script = EXAMPLES / "vertex.sh"
    subprocess.run(["bash", "-n", script], check=True)
    words = shlex.split(script.read_text().replace("\\\n", " "), comments=True)
    command = words[words.index("gcloud") :]
    assert command[:4] == ["gcloud", "ai", "custom-jobs", "create"]
    options = dict(word.removeprefix("--").split("=", 1) for word in command[4:])
    assert options["config"] == "$(dirname $0)/vertex.yaml"
    assert options.keys() == {"project", "region", "display-name", "network", "config"}


@pytest.mark.parametrize("task", [{"type": "chief", "index": 0}, {"type": "worker", "index": 2}])
def test_what_both_services_put_into_TF_CONFIG_is_understood(task):
    """Both add fields of their own, and Kubeflow's task may be named in a cluster whose addresses are services."""
    cluster = {
        "chief": ["dcgan-keras-chief-0.default.svc:2222"],
        "worker": [f"dcgan-keras-worker-{i}.default.svc:2222" for i in range(3)],
    }
    config = {"cluster": cluster, "task": {**task, "trial": "1"}, "environment": "cloud", "job": "{}"}
    found = distributed.task_of(json.dumps(config))
    assert found.name == f"{task['type']} {task['index']}" and len(found.names) == 4
