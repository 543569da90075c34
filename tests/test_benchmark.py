import json

import numpy as np
import pytest
from conftest import bad_input

import models
from reproduce import benchmark, ways
from tf1 import keras, tf


def test_a_steps_multiply_adds_are_those_of_the_articles_networks(graph):
    assert benchmark.multiply_adds(models.article_generator()) == [307_200, 4_718_592, 4_718_592, 4_718_592, 1_179_648]
    discriminator = models.article_discriminator()
    assert benchmark.multiply_adds(discriminator) == [294_912, 1_228_800, 1_204_224, 1_191_936, 772]
    assert benchmark.flop_of_step("article", 32) == pytest.approx(4.70e9, rel=1e-3)


def test_a_ratio_is_of_neighbouring_turns():
    times = {"article": [1.0, 2.0, 4.0], "two-model": [3.0, 4.0, 20.0], ways.RATE: [1.0, 2.0, 2.0]}
    results, floor = benchmark.summary(times, flop_of_rate=200, flop=100)
    assert results["two-model"]["ratio"] == {"median": 3.0, "quartiles": [2.5, 4.0]}
    assert results["article"]["steps_per_second"]["median"] == 0.5
    assert floor["flop_per_second"]["median"] == 100 and floor["share"]["median"] == 0.5


def test_the_stock_networks_are_the_articles(graph):
    own = models.article_generator(), models.article_discriminator()
    for ours, theirs in zip(own, ways.stock_networks(keras, tf), strict=True):
        assert [w.shape for w in theirs.get_weights()] == [w.shape for w in ours.get_weights()]
        for our, their in zip(ours.layers, theirs.layers, strict=True):
            ours_config, theirs_config = our.get_config(), their.get_config()
            for key in ("filters", "strides", "padding", "momentum", "epsilon", "alpha", "activation"):
                assert theirs_config.get(key) == ours_config.get(key)


@pytest.mark.parametrize("pair", ways.RACES)
def test_the_pytorch_networks_have_the_same_number_of_weights(pair, graph):
    pytest.importorskip("torch")
    _, *networks = ways.torch_networks(pair)
    for network, build in zip(networks, models.MODELS[pair][:2], strict=True):
        count = sum(int(np.prod(weight.shape)) for weight in build().trainable_weights)
        assert sum(weight.numel() for weight in network.parameters()) == count


def test_it_waits_for_a_quiet_machine_and_says_so(monkeypatch, capsys):
    loads = iter([(3.7, 0, 0), (0.8, 0, 0), (0.1, 0, 0)])
    monkeypatch.setattr(benchmark.os, "getloadavg", lambda: next(loads), raising=False)
    benchmark.wait_until_quiet(poll=0)
    assert "3.7" in capsys.readouterr().err and not list(loads)


def test_quick_races_two_methods_and_prints_a_table(run_here, tmp_path):
    result = run_here(benchmark.main, "--quick", "--methods", "two-model-graph", "--json", "b.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "b.json").read_text())
    assert list(report["results"]["2"]) == ["article", "two-model-graph"] and report["machine"]["load_before"] >= 0
    assert report["results"]["2"]["article"]["ratio"]["median"] == 1
    for label in (ways.METHODS["two-model-graph"][0], "the floor"):
        assert label in result.stdout


def test_bad_arguments_are_refused_in_one_line(run_here):
    assert "'none'" in bad_input(run_here(benchmark.main, "--methods", "article,none"))
    assert "'keras3'" in bad_input(run_here(benchmark.main, "--pair", "dcgan", "--methods", "keras3"))
    assert "no folder no" in bad_input(run_here(benchmark.main, "--json", "no/folder.json"))
