"""Whether a pair fits into this machine's memory, told before it is tried."""

import math
import os
from pathlib import Path

from command import InputError
from tf1 import keras, tf

FLOAT = 4  # bytes
TENSORFLOW = 6e8  # bytes that the program takes without a network
# As measured: what TensorFlow copies on the way, and what the allocator that goes with oneDNN keeps for later. The
# system's does not, but it is a little slower for small networks.
SYSTEM_ALLOCATOR, ITS_OWN = 1.15, 1.5
SETTING = "TF_ONEDNN_USE_SYSTEM_ALLOCATOR"
OVERHEAD = SYSTEM_ALLOCATOR if os.environ.get(SETTING) == "1" else ITS_OWN


def needed(generator: keras.Model, discriminator: keras.Model, batch_size: int, overhead: float | None = None) -> float:
    """About how many bytes the training of a pair takes at its peak, on a CPU.

    All weights; Adam's two moments of each; the gradients, which D has for the real and for the generated batch and
    then their sum; what the layers put out, once in G's pass and twice in D's, kept for the gradients, and as much
    again for these.
    """
    weights = parameters(generator.weights) + parameters(discriminator.weights)
    moments = 2 * (parameters(generator.trainable_weights) + parameters(discriminator.trainable_weights))
    gradients = parameters(generator.trainable_weights) + 3 * parameters(discriminator.trainable_weights)
    outputs = 2 * batch_size * (layer_outputs(generator) + 2 * layer_outputs(discriminator))
    return TENSORFLOW + (overhead or OVERHEAD) * FLOAT * (weights + moments + gradients + outputs)


def parameters(weights: list[tf.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def layer_outputs(model: keras.Model) -> int:
    """How many numbers all layers of a model put out for one picture."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += layer_outputs(layer)
        else:
            shapes = layer.output_shape if isinstance(layer.output_shape, list) else [layer.output_shape]
            total += sum(math.prod(shape[1:]) for shape in shapes)
    return total


def available() -> float:
    """How many bytes this process may still take: what Linux counts as available, or less in a container's limit."""
    limits = [math.inf]
    for folder, limit, used in CGROUPS:
        try:
            limits.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    try:
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):  # another system than Linux
        pass
    return min(limits)


MEMINFO = Path("/proc/meminfo")
CGROUPS = [
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
]


def check(generator: keras.Model, discriminator: keras.Model, batch_size: int) -> None:
    """Raises InputError, with both figures, where the pair will not fit. A GPU's own memory is not judged."""
    need, have = needed(generator, discriminator, batch_size), available()
    if need > have and not tf.config.list_physical_devices("GPU"):
        frugal = needed(generator, discriminator, batch_size, SYSTEM_ALLOCATOR)
        if frugal < have:
            advice = f"with {SETTING}=1 in the environment, {frugal / 2**30:.1f} GiB will do"
        elif needed(generator, discriminator, 1) < have:
            advice = "choose a smaller --batch-size or --model"
        else:
            advice = "no batch is small enough"
        raise InputError(
            f"training needs about {need / 2**30:.1f} GiB of memory at batch {batch_size}, "
            f"and {have / 2**30:.1f} GiB are available: {advice}"
        )
