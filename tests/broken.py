"""What tests of broken input share: one line of refusal, bounded memory, and fuzzing."""

import contextlib
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
from command import InputError

RGB32 = (32, 32, 3)

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions are those of POSIX")


class Runs:
    """Touches /tmp/ran when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/ran",)


def refused(*words, **arguments):
    """Check that `data.load` refuses `arguments` with one printable line that has `words`."""
    with pytest.raises(InputError) as caught:
        data.load(**arguments)
    line = str(caught.value)
    assert line.isprintable(), line
    for word in words:
        assert word in line
    return line


@contextlib.contextmanager
def memory_within(limit):
    """Check that what happens inside never takes more than `limit` bytes above what was taken before."""

    def taken(key):
        return int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) * 1024

    if not Path("/proc/self/clear_refs").exists():
        yield  # not Linux
        return
    Path("/proc/self/clear_refs").write_text("5")  # lets the peak, VmHWM, begin anew
    before = taken("VmRSS:")
    yield
    assert taken("VmHWM:") - before < limit


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


SHORT_AND_LONG = [100, pytest.param(int(os.environ.get("FUZZ_EXAMPLES", "35000")), marks=pytest.mark.long)]


def fuzz(read, contents, examples):
    """Feed `contents` to `read`: only `InputError`, with a printable text, may come out, and memory is bounded."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 100,
        suppress_health_check=list(HealthCheck),
    )
    @given(contents)
    def feed(content):
        try:
            read(content)
        except InputError as error:
            assert str(error).isprintable()

    with warnings.catch_warnings(), memory_within(1e9):
        warnings.simplefilter("error")
        feed()


@st.composite
def mutations(draw, *seeds):
    """One of `seeds` with some bytes replaced, removed, doubled or cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["replace", "insert", "remove", "double", "cut"])):
            case "replace":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "insert":
                content[at:at] = draw(st.binary(max_size=9))
            case "remove":
                del content[at : at + draw(st.integers(1, 99))]
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 99))]
            case "cut":
                del content[at:]
    return bytes(content)
