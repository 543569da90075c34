"""The step computes what the author's program computed: parity with a recording of it (see recording.py).

The first three steps are committed, so this runs everywhere. Where the full recording of 20 steps lies beside the
project, it is replayed as well.
"""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SHARED
from recording import KINDS, after_step_1, replay

import dcgan_keras

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
    error = np.abs(ours / recorded[: len(ours)] - 1).max(axis=1)
    assert error[0] < 1e-6
    assert error[1] < 1e-4
    assert (error[2:10] < later).all()


def check_weights_after_step_1(recording, weights, of_d):
    """of_d: how far the trained weights of D may be from the recording."""
    errors = {network: {} for network in "gd"}
    for network, by_kind in errors.items():
        arrays = zip(KINDS[network], weights[network], after_step_1(recording, network), strict=True)
        for kind, ours, (index, theirs) in arrays:
            by_kind.setdefault(kind, []).append(np.abs(ours.ravel()[index] - theirs.ravel()))
    errors = {network: {kind: np.concatenate(e) for kind, e in kinds.items()} for network, kinds in errors.items()}
    # Not the biases: those before a batch normalization have a gradient of zero, and Adam moves them by rounding alone.
    # Single elements of G may be off by the whole step, where Adam turns a gradient of about zero the other way.
    trained = ("kernel", "gamma", "beta")
    assert sum(errors["d"][kind].size for kind in trained) > 2000
    for kind in trained:
        assert errors["d"][kind].max() < of_d, kind
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


WRONG = {
    "G's update first": [
        ("update_wd = optimizer.apply_gradients(", "update_wd = lambda: optimizer.apply_gradients("),
        (
            "with tf.control_dependencies([dloss if alternating else update_wd]):",
            "with tf.control_dependencies([dloss]):",
        ),
        (
            "train_step = [",
            "with tf.control_dependencies([update_wg]):\n        update_wd = update_wd()\n    train_step = [",
        ),
    ],
    "an optimizer each": [
        ("grad_loss_wg = optimizer", "optimizer = adam(learning_rate, beta1=beta1)\n    grad_loss_wg = optimizer")
    ],
    "D's gradient reversed": [("compute_gradients(dloss,", "compute_gradients(-dloss,")],
    "G's gradient reversed": [("compute_gradients(gloss,", "compute_gradients(-gloss,")],
    "bn_updates lost": [("[update_wd, update_wg, bn_updates]", "[update_wd, update_wg]")],
    "smoothing lost": [("losses(gscore, rscore)", "losses(gscore, rscore, smoothing=0)")],
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_step_breaks_parity(change):
    """The same checks on the program of `gan()` with one mistake in it."""
    source = inspect.getsource(dcgan_keras.gan)
    for right, wrong in WRONG[change]:
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    names = dict(vars(dcgan_keras))
    exec(source, names)
    recording = np.load(COMMITTED)
    replayed = replay(recording, gan=names["gan"], steps=2)
    with pytest.raises(AssertionError):
        check_losses(replayed.losses, recording["losses"])
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
