"""The recording of the author's own program: how it was cut to what is committed, and how it is replayed.

tests/recording.npz holds the first three steps of the program that the article describes, run under TensorFlow 1.0.1
and Keras 1.2.2 on a CPU: every initial weight, the batches, the noise and the losses. Of the weights after step 1 it
holds 500 elements of each kernel, drawn with seed 0, and all others. It was made from the full recording of 20 steps:

    python tests/recording.py cut original_seed1.npz tests/recording.npz

Replay up to 10 steps of it on stock layers, and write the losses and the weights after step 1:

    TF_ENABLE_ONEDNN_OPTS=0 python tests/recording.py replay tests/recording.npz replayed.npz
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STEPS, ELEMENTS = 3, 500
# What each array of get_weights() is, layer by layer.
NORMALIZED = ["kernel", "bias", "gamma", "beta", "mean", "variance"]
KINDS = {"g": NORMALIZED * 4 + ["kernel", "bias"], "d": ["kernel", "bias"] + NORMALIZED * 3 + ["kernel", "bias"]}


class Replay(NamedTuple):
    losses: np.ndarray  # (steps, 2): dloss, gloss
    weights: dict[str, list[np.ndarray]]  # after step 1, by network, "g" and "d"; as recorded: kernels (..., in, out)
    samples: np.ndarray | None  # of the full recording: those after step 20


def cut(source: Path, target: Path) -> None:
    full, rng = np.load(source), np.random.default_rng(0)
    kept = {key: full[key][:STEPS] for key in ("images", "z", "losses")}
    for network, kinds in KINDS.items():
        for i, kind in enumerate(kinds):
            kept[f"{network}_init_{i:02}"] = full[f"{network}_init_{i:02}"]
            after = full[f"{network}_step1_{i:02}"].ravel()
            if kind == "kernel":
                index = np.sort(rng.choice(after.size, ELEMENTS, replace=False)).astype(np.int32)
                kept[f"{network}_index_{i:02}"], after = index, after[index]
            kept[f"{network}_step1_{i:02}"] = after
    np.savez_compressed(target, **kept)


def after_step_1(recording, network: str) -> list[tuple[np.ndarray | slice, np.ndarray]]:
    """Of each array of weights, in the order of get_weights(): which elements of it are recorded, and their values."""
    found = []
    for i in range(len(KINDS[network])):
        index = f"{network}_index_{i:02}"
        found.append((recording[index] if index in recording else slice(None), recording[f"{network}_step1_{i:02}"]))
    return found


def transposed(network: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """Kernels of transposed convolutions are (rows, columns, in, out) in Keras 1, (..., out, in) in Keras 2."""
    return [weight.swapaxes(2, 3) if network == "g" and weight.ndim == 4 else weight for weight in weights]


@contextlib.contextmanager
def articles_networks(convert: Callable = lambda network: network) -> Iterator[dict]:
    """The article's pair by "g" and "d", in a graph and a session of its own. convert: what to make of both first."""
    import models
    from tf1 import keras, session_config, tf

    with tf.Graph().as_default(), tf.Session(config=session_config()) as sess:
        keras.backend.set_session(sess)
        yield {"g": convert(models.article_generator()), "d": convert(models.article_discriminator())}


def replay(recording, networks: dict, gan: Callable | None = None, steps: int | None = None) -> Replay:
    """Train the article's networks, from the recorded weights, on what the recording was fed."""
    import dcgan_keras
    from tf1 import keras, tf

    sess = keras.backend.get_session()
    gan_feed = (gan or dcgan_keras.gan)(networks["g"], networks["d"], batch_size=len(recording["images"][0]))
    sess.run(tf.global_variables_initializer())
    for name, network in networks.items():
        initial = [recording[f"{name}_init_{i:02}"] for i in range(len(KINDS[name]))]
        network.set_weights(transposed(name, initial))
    losses = []
    fed = zip(recording["images"][:steps], recording["z"][:steps], strict=True)
    for step, (images, noise) in enumerate(fed):
        losses.append(gan_feed(sess, np.float32(images) / 255 - np.float32(0.5), noise))
        if step == 0:
            weights = {name: transposed(name, network.get_weights()) for name, network in networks.items()}
    samples = networks["g"].predict(recording["sample_z"]) if "sample_z" in recording and not steps else None
    return Replay(np.array(losses), weights, samples)


def main(task: str, source: str, target: str) -> None:
    if task == "cut":
        cut(Path(source), Path(target))
        return
    from test_layers import with_stock_layers

    with articles_networks(with_stock_layers) as networks:
        done = replay(np.load(source), networks, steps=10)
    named = {f"{name}_{i:02}": array for name, arrays in done.weights.items() for i, array in enumerate(arrays)}
    np.savez(target, losses=done.losses, **named)


if __name__ == "__main__":
    main(*sys.argv[1:])
