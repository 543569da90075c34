"""TensorFlow 1's graph mode on today's TensorFlow: `from tf1 import keras, tf`.

Keras 3 cannot build TF1 graphs, so `tf.keras` is made to be Keras 2 (the package tf-keras), which is only possible
before TensorFlow is imported. That is why every module takes both names from here.
"""

import contextlib
import os
import signal
import sys
import threading

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong in an op reaches Python as an exception anyway


@contextlib.contextmanager
def _silent_stderr():
    """TensorFlow's shared libraries greet on file descriptor 2 while they load, before any setting can stop them."""
    sys.stderr.flush()
    stderr = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(devnull)
        os.close(stderr)


@contextlib.contextmanager
def _ended_by_ctrl_c():
    """Ctrl-C while TensorFlow loads ends the process as such: nothing is lost yet, and no traceback helps anyone."""
    if threading.current_thread() is not threading.main_thread():  # where Python lets no signals be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


with _silent_stderr(), _ended_by_ctrl_c():
    import tensorflow.compat.v1 as tf
    import tf_keras

    keras = tf.keras  # loaded on first use, so use it while it is silent
    keras.layers.Layer  # noqa: B018

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_eager_execution()


def session_config(batch_size: int | None = None) -> tf.ConfigProto:
    """How a session should be set up for the step: `tf.Session(config=session_config())`.

    batch_size: that of `gan`'s step, if it is known. Up to 64 pictures, two cores get on best with an op each: to split
    every op between them takes longer than it saves. It counts in the first session of a process alone, which sets up
    the threads for good.
    """
    config = tf.ConfigProto()
    if batch_size and batch_size <= 64 and cores() == 2:
        config.intra_op_parallelism_threads = 1
    config.gpu_options.allow_growth = True  # take a GPU's memory as it is needed, not all at once
    # Grappler's remapper fails on this graph, logs an error, and costs time.
    config.graph_options.rewrite_options.remapping = config.graph_options.rewrite_options.OFF
    return config


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def set_seed(seed: int) -> None:
    """Make the weights of models that are built from here on, and the default graph's random numbers, repeatable."""
    tf_keras.utils.set_random_seed(seed)  # Keras draws a seed for each initializer in Python
    tf.set_random_seed(seed)
