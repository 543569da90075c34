import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import bad_input

import models
from reproduce import benchmark, ways
from tf1 import keras, tf


def test_the_stock_networks_and_a_steps_multiply_adds_are_the_articles(graph):
    own = models.article_generator(), models.article_discriminator()
    assert benchmark.multiply_adds(own[0]) == [307_200, 4_718_592, 4_718_592, 4_718_592, 1_179_648]
    assert benchmark.multiply_adds(own[1]) == [294_912, 1_228_800, 1_204_224, 1_191_936, 772]
    for ours, theirs in zip(own, ways.stock_networks(keras, tf), strict=True):
        assert [w.shape for w in theirs.weights] == [w.shape for w in ours.weights]
        for our, their in zip(ours.layers, theirs.layers, strict=True):
            ours_config, theirs_config = our.get_config(), their.get_config()
            for key in ("filters", "strides", "padding", "momentum", "epsilon", "alpha", "activation"):
                assert theirs_config.get(key) == ours_config.get(key)


@pytest.mark.parametrize("pair", ways.RACES)
def test_the_pytorch_networks_have_the_same_number_of_weights(pair, graph, monkeypatch):
    torch = pytest.importorskip("torch")
    for name in ("kaiming_uniform_", "uniform_"):  # 655 million weights take a while to draw
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    _, *networks = ways.torch_networks(pair)
    for network, build in zip(networks, models.MODELS[pair][:2], strict=True):
        count = sum(int(np.prod(weight.shape)) for weight in build().trainable_weights)
        assert sum(weight.numel() for weight in network.parameters()) == count


def test_it_waits_for_a_quiet_machine_and_says_so(monkeypatch, capsys):
    loads = iter([(3.7, 0, 0), (0.8, 0, 0), (0.1, 0, 0)])
    monkeypatch.setattr(benchmark.os, "getloadavg", lambda: next(loads), raising=False)
    benchmark.wait_until_quiet(poll=0)
    assert "3.7" in capsys.readouterr().err and not list(loads)


def test_a_ratio_is_of_neighbouring_turns():
    times = {"article": [1.0, 2.0, 4.0], "two-model": [3.0, 4.0, 20.0], ways.RATE: [0.005, 0.01, 0.01]}
    results, floor = benchmark.summary(times, flop=100)
    assert results["two-model"]["ratio"] == {"median": 3.0, "quartiles": [2.5, 4.0]}
    assert results["article"]["steps_per_second"]["median"] == 0.5
    assert floor["flop_per_second"]["median"] == 100 and floor["share"]["median"] == 0.5


def test_quick_races_and_prints_a_table(run_here, tmp_path):
    result = run_here(benchmark.main, "--quick", "--methods", "article", "--json", "b.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "b.json").read_text())
    assert list(report["results"]["2"]) == ["article"] and report["machine"]["load_before"] >= 0
    assert report["results"]["2"]["article"]["ratio"]["median"] == 1
    assert report["floor"]["2"]["flop_per_step"] == pytest.approx(4.70e9 * 2 / 32, rel=1e-3)
    for label in (ways.METHODS["article"][0], "upper limit"):
        assert label in result.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", ways.METHODS)
def test_every_method_takes_a_step(name):
    if "torch" in name:
        pytest.importorskip("torch")
    worker = benchmark.Worker(name, "article", 2)
    assert "unavailable" not in worker.first, worker.first
    assert worker.run(1) > 0
    worker.close()


class Process:
    """In place of a method's process: an article's step takes a second, any other method's two."""

    started, alive = [], set()

    def __init__(self, arguments, env, **options):
        self.name, self.stdin, self.stdout = arguments[3], io.StringIO(), self
        assert not self.alive, "two methods at once"
        assert env["TF_ONEDNN_USE_SYSTEM_ALLOCATOR"] == "1"
        self.started.append(self.name)
        self.alive.add(self)

    def readline(self):
        if steps := self.stdin.getvalue().split():
            return json.dumps(int(steps[-1]) * (1 if self.name == "article" else 2))
        return json.dumps({"device": "CPU", "flop": 1000 if self.name == ways.RATE else None})

    def communicate(self):
        self.alive.discard(self)


def test_methods_that_do_not_fit_into_memory_together_run_one_at_a_time(run_here, monkeypatch):
    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(Popen=Process, PIPE=None, DEVNULL=None))
    monkeypatch.setattr(benchmark, "flop_of_step", lambda pair, batch_size: 250)
    result = run_here(benchmark.main, "--quick", "--pair", "faces200", "--methods", "two-model-graph-own")
    assert result.returncode == 0, result.stderr
    once = ["article", "two-model-graph-own", ways.RATE]
    assert Process.started == once + once + once[::-1] and not Process.alive
    assert "0.50 (0.50 to 0.50) | 2.00 (2.00 to 2.00)" in result.stdout
    assert "2.00 (2.00 to 2.00) | the article's step reaches 50%" in result.stdout


def test_bad_arguments_are_refused_in_one_line(run_here):
    assert "'none'" in bad_input(run_here(benchmark.main, "--methods", "article,none"))
    assert "'keras3'" in bad_input(run_here(benchmark.main, "--pair", "dcgan", "--methods", "keras3"))
    assert "no folder no" in bad_input(run_here(benchmark.main, "--json", "no/folder.json"))
