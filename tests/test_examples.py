"""The examples are well formed, and say what the command and the job understand. None of them is run here."""

import json
import re
import shlex
import subprocess

import pytest
import yaml
from conftest import ROOT

import dcgan_keras
from tf1 import cluster

EXAMPLES = ROOT / "examples"
DOCKERFILE = (EXAMPLES / "Dockerfile").read_text()


def understood(arguments):
    """The command takes them."""
    assert dcgan_keras.parse(arguments).dataset == "cifar10"


def test_the_image_has_every_module_that_its_commands_load():
    lines = [shlex.split(line) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert {line[0] for line in lines} == {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}
    patterns = [name for line in lines if line[0] == "COPY" for name in line[1:-1]]
    copied = {path for pattern in patterns for path in ROOT.glob(pattern)}
    copied |= {path for folder in copied for path in folder.glob("*.py")}
    assert json.loads(re.search(r"ENTRYPOINT (.*)", DOCKERFILE)[1]) == ["python", "dcgan_keras.py"]
    reading, needed = {ROOT / "dcgan_keras.py", ROOT / "generate.py"}, set()
    while reading:
        needed.add(path := reading.pop())
        for package, names in re.findall(
            r"^ *(?:from|import) ([\w.]+)(?: import (.+))?", path.read_text(), re.MULTILINE
        ):
            modules = [package, *(f"{package}.{name}" for name in re.findall(r"\w+", names))]
            files = {ROOT / f"{module.replace('.', '/')}{end}" for module in modules for end in (".py", "/__init__.py")}
            reading |= {file for file in files if file.is_file()} - needed
    assert needed <= copied, needed - copied
    assert ROOT / "memory.py" in needed and ROOT / "datasets" / "shapes.py" in needed  # it does follow the imports


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
    devices = sum(spec["replicas"] for spec in replicas.values())
    assert dcgan_keras.parse(chief["args"]).batch_size == 32 * devices
    writable = [mount["mountPath"] for mount in chief["volumeMounts"] if not mount.get("readOnly")]
    assert str(dcgan_keras.parse(chief["args"]).out).startswith(tuple(writable))


def test_the_vertex_job_starts_a_chief_and_workers_with_the_same_command():
    first, second = yaml.safe_load((EXAMPLES / "vertex.yaml").read_text())["workerPoolSpecs"]
    assert first["replicaCount"] == 1
    assert first["containerSpec"] == second["containerSpec"] and first["machineSpec"] == second["machineSpec"]
    understood(first["containerSpec"]["args"])
    devices = first["replicaCount"] + second["replicaCount"]
    assert dcgan_keras.parse(first["containerSpec"]["args"]).batch_size == 32 * devices


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
    addresses = {
        "chief": ["dcgan-keras-chief-0.default.svc:2222"],
        "worker": [f"dcgan-keras-worker-{i}.default.svc:2222" for i in range(3)],
    }
    config = {"cluster": addresses, "task": {**task, "trial": "1"}, "environment": "cloud", "job": "{}"}
    found = cluster.task_of(json.dumps(config))
    assert found.name == f"{task['type']} {task['index']}" and len(found.names) == 4
