"""Whether the training of a pair fits into this machine's memory, and if not, which batch does."""

import contextlib
import math
import os
import sys
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


def available() -> tuple[float, float]:
    """How many bytes this process can get at the moment, and how many there are at most.

    The first is what Linux counts as available. The second is what the machine has at all, or what a container's limit
    leaves: above that, the system kills the process. Both are infinite where the system does not say.
    """
    most = [math.inf]
    for folder, limit, used, cache in CGROUPS:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such group, or "max"
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # Files that were read stay in memory as long as nothing else needs it, and count as used.
            in_use = int((folder / used).read_text()) - int(statistics[cache])
            most.append(int((folder / limit).read_text()) - in_use)
    at_the_moment = math.inf
    try:
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        at_the_moment = int(lines["MemAvailable"].split()[0]) * 1024
        most.append(int(lines["MemTotal"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):  # another system than Linux
        with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows, or a system without these names
            most.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(at_the_moment, *most), min(most)


MEMINFO = Path("/proc/meminfo")
CGROUPS = [  # version 2, version 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]


def largest_batch(
    generator: keras.Model, discriminator: keras.Model, room: float, overhead: float | None = None
) -> int:
    """The largest batch whose training takes at most `room` bytes; 0 where none does."""
    without = needed(generator, discriminator, 0, overhead)
    picture = needed(generator, discriminator, 1, overhead) - without
    return max(0, math.floor((room - without) / picture))


def check(
    generator: keras.Model, discriminator: keras.Model, batch_size: int, workers: int = 1, replicas: int = 1
) -> None:
    """Raises InputError where training needs more memory than there is, and names the `--batch-size` that fits.

    Where there is enough, but other programs have taken it, one line on stderr warns. A GPU's own memory is not judged.
    batch_size: of all workers together, of which this process is one; replicas: the number of their devices.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    need, (now, most) = needed(generator, discriminator, batch_size // workers), available()
    if need <= now:
        return
    room = most if need > most else now
    line = (
        f"training needs about {need / 2**30:.1f} GiB of memory at --batch-size {batch_size}, "
        f"and {room / 2**30:.1f} GiB are available: "
    )
    fits = largest_batch(generator, discriminator, room) * workers // replicas * replicas
    frugal = needed(generator, discriminator, batch_size // workers, SYSTEM_ALLOCATOR)
    advice = [f"--batch-size {fits} fits"] if fits else []
    if frugal <= room and frugal < need:
        advice.append(f"with {SETTING}=1 in the environment, {frugal / 2**30:.1f} GiB will do")
    line += ", or ".join(advice) or "no batch is small enough"
    if need > most:
        raise InputError(line)
    print(f"warning: {line}", file=sys.stderr)
