"""The step computes what the author's program computed: parity with a recording of it (see recording.py).

The first three steps are committed, so this runs everywhere. Where the full recording of 20 steps lies beside the
project, it is replayed as well.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SHARED
from recording import KINDS, after_step_1, replay

COMMITTED = ROOT / "tests" / "recording.npz"
FULL = SHARED / "golden" / "original_seed1.npz"


def name_of(path):
    return path.stem


@pytest.fixture(scope="module", params=[COMMITTED, FULL], ids=name_of)
def recording(request):
    if not request.param.exists():
        assert request.param != COMMITTED
        pytest.skip("the full recording of the author's program is not beside the project; its first steps are tested")
    return np.load(request.param)


@pytest.fixture(scope="module")
def replayed(recording):
    return replay(recording)


def check_losses(ours, recorded, later=1e-2):
    """later: the tolerance of steps 3 to 10. After that, two float32 runs of a GAN drift apart."""
    error = np.abs(ours / recorded - 1).max(axis=1)
    assert error[0] < 1e-6
    assert error[1] < 1e-4
    assert error[2:10].max() < later


def check_weights_after_step_1(recording, weights, of_d):
    """of_d: how far the trained weights of D may be from the recording."""
    errors = {network: {} for network in "gd"}
    for network, by_kind in errors.items():
        arrays = zip(KINDS[network], weights[network], after_step_1(recording, network), strict=True)
        for kind, ours, (index, theirs) in arrays:
            by_kind.setdefault(kind, []).append(np.abs(ours.ravel()[index] - theirs.ravel()))
    errors = {network: {kind: np.concatenate(e) for kind, e in kinds.items()} for network, kinds in errors.items()}
    # Not the biases: those before a batch normalization have a gradient of zero, and Adam moves them by rounding alone.
    trained = ("kernel", "gamma", "beta")
    assert sum(errors["d"][kind].size for kind in trained) > 2000
    for kind in trained:
        assert errors["d"][kind].max() < of_d, kind
        assert errors["g"][kind].max() < 2.4e-4, kind  # Adam may turn a gradient of about zero the other way
    assert np.concatenate([errors["d"][kind] for kind in trained]).mean() < 2e-7
    assert np.concatenate([errors["g"][kind] for kind in trained]).mean() < 1e-6
    for network in "gd":
        assert errors[network]["mean"].max() < 1e-5
        assert errors[network]["variance"].max() < 1e-3  # unbiased here, biased in Keras 1


def test_losses_agree_with_the_recording(recording, replayed):
    # How the sums of the fast layers are split depends on the threads, which the first session of a process sets.
    check_losses(replayed.losses, recording["losses"], later=2e-2)


def test_weights_after_one_step_agree_with_the_recording(recording, replayed):
    check_weights_after_step_1(recording, replayed.weights, of_d=2e-5)


@pytest.mark.parametrize("recording", [FULL], indirect=True, ids=name_of)
def test_samples_after_twenty_steps_agree_with_the_recording(recording, replayed):
    assert replayed.samples.shape == recording["samples_step20"].shape
    assert np.abs(replayed.samples - recording["samples_step20"]).mean() < 0.01


def test_stock_layers_without_onednn_agree_more_closely(tmp_path):
    """The processor's own order of sums, in a process of its own: TensorFlow reads the variable while it loads."""
    source = FULL if FULL.exists() else COMMITTED
    command = [sys.executable, "tests/recording.py", "replay", source, tmp_path / "replayed.npz"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}, check=True, timeout=300)
    found, recording = np.load(tmp_path / "replayed.npz"), np.load(source)
    weights = {name: [found[f"{name}_{i:02}"] for i in range(len(kinds))] for name, kinds in KINDS.items()}
    check_losses(found["losses"], recording["losses"])
    check_weights_after_step_1(recording, weights, of_d=1e-5)
