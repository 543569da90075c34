import math

import pytest
from conftest import bad_input, tiny_pair

import memory
import models
from command import InputError

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


def test_what_is_available_is_the_smallest_of_all_limits(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "max").write_text("4096000\n")
    (tmp_path / "current").write_text("1000000\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUPS", [(tmp_path, "max", "current")])
    assert memory.available() == 3_096_000
    (tmp_path / "max").write_text("max\n")
    assert memory.available() == 5000 * 1024
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.available() == math.inf


def test_a_pair_that_does_not_fit_is_refused_with_both_figures(graph, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1.5 * GIB)
    pair = networks("dcgan64")
    memory.check(*pair, 8)
    with pytest.raises(InputError, match=r"[34]\.\d GiB.*batch 128.*1\.5 GiB.*smaller --batch-size"):
        memory.check(*pair, 128)


def test_where_the_other_allocator_will_do_it_is_named(graph, monkeypatch):
    pair = networks("dcgan64")
    have = (memory.needed(*pair, 8, memory.SYSTEM_ALLOCATOR) + memory.needed(*pair, 8, memory.ITS_OWN)) / 2
    monkeypatch.setattr(memory, "available", lambda: have)
    monkeypatch.setattr(memory, "OVERHEAD", memory.ITS_OWN)
    with pytest.raises(
        InputError, match=r"with TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1 in the environment, 1\.\d GiB will do"
    ):
        memory.check(*pair, 8)
    monkeypatch.setattr(memory, "OVERHEAD", memory.SYSTEM_ALLOCATOR)
    memory.check(*pair, 8)


def test_the_command_refuses_before_it_writes(dcgan, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0.1 * GIB)
    line = bad_input(dcgan("--dataset", "shapes", "--model", "tiny", "--out", "run"))
    assert "0.1 GiB are available: no batch is small enough" in line
    assert not (tmp_path / "run").exists()
