import math

import pytest
from conftest import bad_input, tiny_pair

import models
from command import InputError
from training import memory

GIB = 2**30


def networks(name):
    pair = models.MODELS[name]
    return pair.generator(), pair.discriminator()


def test_outputs_of_layers_are_counted(graph):
    pair = tiny_pair()
    # Dense 48, normalized, rectified, reshaped; enlarged to 32x32x3 and tanh; the input is a layer of its own or none
    assert memory.layer_outputs(pair["generator"]()) - 4 * 48 - 2 * 32 * 32 * 3 in (0, 5)


def test_need_grows_with_the_batch_and_is_near_what_was_measured(graph):
    small, large = (memory.needed(*networks("dcgan64"), batch) for batch in (8, 128))
    assert 1.0 * GIB < small < 1.6 * GIB  # a run at batch 8 took 1.24 GiB
    assert large > small + GIB


def test_the_faces_need_more_than_twenty_gib_or_another_allocator(graph):
    pair = networks("faces200")
    assert 20 * GIB < memory.needed(*pair, 2, memory.ITS_OWN) < 25 * GIB
    assert 15.6 * GIB < memory.needed(*pair, 2, memory.SYSTEM_ALLOCATOR) < 19 * GIB  # 300 steps took 15.6 GiB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 GiB, 8 of them available, and the files of a container on it, which has no limit yet."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable:    {8 * 2**20} kB\n")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "current").write_text(f"{7 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {GIB}\nfile {6 * GIB}\ninactive_file {6 * GIB}\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUPS", [(tmp_path, "max", "current", "inactive_file")])
    return tmp_path


def test_what_is_available_is_the_smallest_of_all_limits(machine):
    assert memory.available() == (8 * GIB, 16 * GIB)
    (machine / "max").write_text(f"{4 * GIB}\n")
    assert memory.available() == (3 * GIB, 3 * GIB)
    (machine / "meminfo").unlink()  # another system
    (machine / "max").write_text("max\n")
    assert math.inf >= memory.available()[0] > 2**20


def test_the_page_cache_of_a_container_is_available(machine, graph):
    (machine / "max").write_text(f"{8 * GIB}\n")
    assert memory.available() == (7 * GIB, 7 * GIB)
    memory.check(*networks("dcgan64"), 32)


def test_without_a_word_from_the_system_nothing_is_refused(machine, graph, monkeypatch):
    (machine / "meminfo").unlink()
    monkeypatch.delattr(memory.os, "sysconf")  # Windows
    assert memory.available() == (math.inf, math.inf)
    memory.check(*networks("dcgan64"), 10**6)


def test_a_pair_that_does_not_fit_is_refused_with_the_batch_that_does(graph, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (1.5 * GIB, 1.5 * GIB))
    pair = networks("dcgan64")
    memory.check(*pair, 8)
    with pytest.raises(
        InputError, match=r"[34]\.\d GiB.*--batch-size 128.*1\.5 GiB.*: --batch-size \d+ fits"
    ) as caught:
        memory.check(*pair, 128)
    fits = int(str(caught.value).split("--batch-size ")[2].split()[0])
    assert memory.needed(*pair, fits) <= 1.5 * GIB < memory.needed(*pair, fits + 1)
    memory.check(*pair, fits)


def test_the_batch_that_fits_is_that_of_all_workers_and_divides_among_their_devices(graph, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (1.5 * GIB, 1.5 * GIB))
    pair = networks("dcgan64")
    alone = memory.largest_batch(*pair, 1.5 * GIB)
    memory.check(*pair, 2 * alone, workers=2, replicas=2)
    with pytest.raises(InputError, match=f"--batch-size {2 * alone // 6 * 6} fits"):
        memory.check(*pair, 600, workers=2, replicas=6)


def test_memory_that_other_programs_have_taken_is_a_warning(graph, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda: (1.5 * GIB, 64 * GIB))
    memory.check(*networks("dcgan64"), 128)
    line = capsys.readouterr().err
    assert (
        line.startswith("warning: training needs about") and line.count("\n") == 1 and "1.5 GiB are available" in line
    )


def test_where_the_other_allocator_will_do_it_is_named(graph, monkeypatch):
    pair = networks("dcgan64")
    have = (memory.needed(*pair, 8, memory.SYSTEM_ALLOCATOR) + memory.needed(*pair, 8, memory.ITS_OWN)) / 2
    monkeypatch.setattr(memory, "available", lambda: (have, have))
    monkeypatch.setattr(memory, "OVERHEAD", memory.ITS_OWN)
    with pytest.raises(
        InputError, match=r"with TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1 in the environment, 1\.\d GiB will do"
    ):
        memory.check(*pair, 8)
    monkeypatch.setattr(memory, "OVERHEAD", memory.SYSTEM_ALLOCATOR)
    memory.check(*pair, 8)


def test_the_command_refuses_before_it_writes(dcgan, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (0.1 * GIB, 0.1 * GIB))
    line = bad_input(dcgan("--dataset", "faces", "--model", "tiny", "--out", "run"))
    assert "0.1 GiB are available: no batch is small enough" in line
    assert not (tmp_path / "run").exists()
