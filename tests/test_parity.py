"""The step computes what the author's program computed: parity with a recording of it (see recording.py).

The first three steps are committed, so this runs everywhere. Where the full recording of 20 steps lies beside the
project, it is replayed in their place.
"""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SHARED
from recording import KINDS, Replay, after_step_1, articles_networks, cut, replay

import dcgan_keras

COMMITTED = ROOT / "tests" / "recording.npz"
FULL = SHARED / "golden" / "original_seed1.npz"
SOURCE = FULL if FULL.exists() else COMMITTED
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the full recording is not beside the project")
RECORDING = np.load(SOURCE)


@pytest.fixture(scope="module")
def networks():
    with articles_networks() as networks:
        yield networks


@pytest.fixture(scope="module")
def replayed(networks):
    return replay(RECORDING, networks)


def check(replayed, later, of_d):
    """later: the tolerance of the losses in steps 3 to 10. After that, two float32 runs of a GAN drift apart.

    of_d: how far the trained weights of D may be from the recording after step 1.
    """
    error = np.abs(replayed.losses / RECORDING["losses"][: len(replayed.losses)] - 1).max(axis=1)
    assert error[0] < 1e-6 and error[1] < 1e-4 and (error[2:10] < later).all()
    errors = {}
    for network, kinds in KINDS.items():
        arrays = zip(kinds, replayed.weights[network], after_step_1(RECORDING, network), strict=True)
        for kind, ours, (index, theirs) in arrays:
            errors.setdefault((network, kind), []).append(np.abs(ours.ravel()[index] - theirs.ravel()))
    errors = {key: np.concatenate(parts) for key, parts in errors.items()}
    # Not the biases: those before a batch normalization have a gradient of zero, and Adam moves them by rounding alone.
    # Single elements of G may be off by the whole step, where Adam turns a gradient of about zero the other way.
    of_g_and_d = {net: np.concatenate([errors[net, kind] for kind in ("kernel", "gamma", "beta")]) for net in "gd"}
    assert of_g_and_d["d"].size > 2000 and of_g_and_d["d"].max() < of_d
    assert of_g_and_d["d"].mean() < 2e-7 and of_g_and_d["g"].mean() < 1e-6
    for network in "gd":
        assert errors[network, "mean"].max() < 1e-5
        assert errors[network, "variance"].max() < 1e-3  # unbiased here, biased in Keras 1


def test_the_step_agrees_with_the_recording(replayed):
    # How the sums of the fast layers are split depends on the threads, which the first session of a process sets.
    check(replayed, later=2e-2, of_d=2e-5)


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
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_step_breaks_parity(change, networks):
    """The same checks on the program of `gan()` with one mistake in it."""
    source = inspect.getsource(dcgan_keras.gan)
    for right, wrong in WRONG[change]:
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    names = dict(vars(dcgan_keras))
    exec(source, names)
    replayed = replay(RECORDING, networks, gan=names["gan"], steps=2)
    with pytest.raises(AssertionError):
        check(replayed, later=2e-2, of_d=2e-5)


@needs_full
def test_samples_after_twenty_steps_agree_with_the_recording(replayed):
    assert replayed.samples.shape == RECORDING["samples_step20"].shape
    assert np.abs(replayed.samples - RECORDING["samples_step20"]).mean() < 0.01


@needs_full
def test_what_is_committed_is_cut_from_the_full_recording(tmp_path):
    cut(FULL, tmp_path / "cut.npz")
    committed, again = np.load(COMMITTED), np.load(tmp_path / "cut.npz")
    assert committed.files == again.files
    for name in committed:
        np.testing.assert_array_equal(committed[name], again[name])


@pytest.mark.long
def test_stock_layers_without_onednn_agree_more_closely(tmp_path):
    """The processor's own order of sums, in a process of its own: TensorFlow reads the variable while it loads."""
    command = [sys.executable, "tests/recording.py", "replay", SOURCE, tmp_path / "replayed.npz"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}, check=True, timeout=300)
    found = np.load(tmp_path / "replayed.npz")
    weights = {name: [found[f"{name}_{i:02}"] for i in range(len(kinds))] for name, kinds in KINDS.items()}
    check(Replay(found["losses"], weights, None), later=1e-2, of_d=1e-5)
