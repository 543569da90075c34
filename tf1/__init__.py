"""TensorFlow 1's graph mode on today's TensorFlow: `from tf1 import keras, tf`.

Keras 3 cannot build TF1 graphs, so `tf.keras` is made to be Keras 2 (the package tf-keras), which is only possible
before TensorFlow is imported. That is why every module takes both names from here.
"""

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

os.environ["TF_USE_LEGACY_KERAS"] = "1"
# oneDNN's convolutions, which TensorFlow leaves off on processors without AVX-512: up to 2.8 times as fast with AVX2.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong in an op reaches Python as an exception anyway

CRASHES = (signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)


@contextlib.contextmanager
def _greetings_hidden() -> Iterator[None]:
    """Keep file descriptor 2 in a file, and print that only where the import fails or the process crashes.

    TensorFlow's shared libraries greet while they are loaded, before any setting can stop them. But what a library says
    before it aborts (about a processor without AVX, for example) has to be seen.
    """
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(tempfile.TemporaryFile())
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        stack.callback(os.dup2, stderr, 2)
        os.dup2(kept.fileno(), 2)

        def show() -> None:
            os.dup2(stderr, 2)
            kept.seek(0)
            os.write(2, kept.read())

        if os.name == "posix":
            stack.enter_context(_before_a_crash(show))
        try:
            yield
        except BaseException:
            show()
            raise


@contextlib.contextmanager
def _before_a_crash(show: Callable[[], None]) -> Iterator[None]:
    """Call `show` where C code aborts or crashes. Python's own signal handlers would run only after the C code."""
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)

    def crashed(number: int) -> None:
        libc.signal(number, before[number])
        show()
        os.kill(os.getpid(), number)  # now ends the process as it would have ended

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(crashed)
    before = {number: libc.signal(number, ctypes.cast(handler, ctypes.c_void_p)) for number in CRASHES}
    try:
        yield
    finally:
        for number, previous in before.items():
            libc.signal(number, previous)


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C while TensorFlow loads ends the process as such: nothing is lost yet, and no traceback helps anyone."""
    if threading.current_thread() is not threading.main_thread():  # where Python lets no signals be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# KERAS_HOME is where Keras looks for the user's keras.json. It must have no effect here: another data format or
# precision would make other networks.
with _greetings_hidden(), _ended_by_ctrl_c(), mock.patch.dict(os.environ, KERAS_HOME=os.devnull):
    import tensorflow.compat.v1 as tf
    import tf_keras

    keras = tf.keras  # loaded on first use, so use it while the greetings are hidden
    keras.layers.Layer  # noqa: B018

tf.logging.set_verbosity(tf.logging.ERROR)
tf.disable_eager_execution()


def session_config(batch_size: int | None = None, size: Sequence[int] = (32, 32)) -> tf.ConfigProto:
    """The fastest configuration of a session: `tf.Session(config=session_config())`.

    batch_size: of every step, if it is known; size: height and width of its images. Up to 64 images of 32x32, two cores
    are fastest with one op each: splitting an op between them costs more than it saves. Only the first session of a
    process sets up its threads, for good.
    """
    config = tf.ConfigProto()
    if batch_size and batch_size * size[0] * size[1] <= 64 * 32 * 32 and cores() == 2:
        config.intra_op_parallelism_threads = 1
    config.gpu_options.allow_growth = True  # take a GPU's memory as needed, not all at once
    # Grappler's remapper fails on this graph, logs an error, and costs time.
    config.graph_options.rewrite_options.remapping = config.graph_options.rewrite_options.OFF
    return config


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def set_seed(seed: int) -> None:
    """Make the initial weights of models built from now on, and the default graph's random numbers, repeatable."""
    tf_keras.utils.set_random_seed(seed)  # Keras draws a seed for each initializer in Python
    tf.set_random_seed(seed)
