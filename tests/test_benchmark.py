import json

import pytest
from conftest import ROOT, bad_input

import models
from command import InputError, RunError
from reproduce import benchmark, ways, worker
from tf1 import keras


def test_a_steps_multiply_adds_are_those_of_the_articles_networks(graph):
    generator, discriminator = models.article_generator(), models.article_discriminator()
    assert benchmark.multiply_adds(generator) == [307_200, 4_718_592, 4_718_592, 4_718_592, 1_179_648]
    assert benchmark.multiply_adds(discriminator) == [294_912, 1_228_800, 1_204_224, 1_191_936, 772]
    assert benchmark.multiply_adds_of_step(generator, discriminator) == pytest.approx(73.5e6, rel=1e-3)
    assert benchmark.flop_of_step(32) == pytest.approx(4.70e9, rel=1e-3)


def test_multiply_adds_of_other_layers(graph):
    layers = keras.layers
    inner = keras.Sequential([layers.InputLayer((6,)), layers.Dense(4), layers.BatchNormalization()])
    model = keras.Sequential([layers.InputLayer((5,)), layers.Dense(6), inner, layers.Reshape((2, 2)), layers.Dense(3)])
    assert benchmark.multiply_adds(model) == [30, 24, 2 * 2 * 3]
    with pytest.raises(InputError, match="not known"):
        benchmark.multiply_adds(keras.Sequential([layers.InputLayer((4, 5)), layers.LSTM(3)]))


def test_a_ratio_is_of_turns_next_to_each_other():
    times = {"article": [1.0, 2.0, 4.0], "two-model": [3.0, 4.0, 20.0], ways.RATE: [1.0, 2.0, 2.0]}
    results, floor = benchmark.summary(times, flop=ways.MATRIX**3)
    assert results["two-model"]["ratio"] == {"median": 3.0, "min": 2.0, "max": 5.0}
    assert results["article"]["steps_per_second"] == {"median": 0.5, "min": 0.25, "max": 1.0}
    assert floor["share"] == {"median": 0.5, "min": 0.25, "max": 0.5}


class Turn:
    """A worker that writes down its turns."""

    def __init__(self, name, turns):
        self.name, self.turns = name, turns

    def run(self, steps):
        self.turns.append(self.name)
        return {"seconds": steps}


def test_variants_take_turns_forwards_and_backwards_after_a_warm_up():
    turns = []
    times = benchmark.take_turns([Turn(name, turns) for name in "abc"], steps=3, rounds=2, seconds=0)
    assert "".join(turns) == "abc" + "abc" + "cba"
    assert times == {name: [1.0, 1.0] for name in "abc"}


def test_quick_measures_everything_and_prints_a_table(run_command, tmp_path):
    result = run_command(
        "reproduce/benchmark.py", "--quick", "--variants", "two-model-graph", "--json", "b.json", PYTHONPATH=str(ROOT)
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["unavailable"] == {"2": {}}
    results = report["results"]["2"]
    assert list(results) == ["article", "two-model-graph"]
    assert results["article"]["ratio"] == {"median": 1, "min": 1, "max": 1}
    assert results["two-model-graph"]["ratio"]["min"] > 0
    assert report["outside_device"]["2"]["share"] > 0
    assert report["floor"]["2"]["share"]["median"] > 0
    assert report["growth"][0]["peak_bytes"] > 1e8
    assert report["first_step_seconds"] > 0
    for label in ("the article's step", "two-model, TF1 graph mode, stock layers", "the floor", "peak memory"):
        assert label in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--variants", "article,none"], "'none'"), (["--json", "no/folder.json"], "no folder no")]
)
def test_bad_arguments_are_refused_in_one_line(arguments, named, run_command):
    assert named in bad_input(run_command("reproduce/benchmark.py", *arguments, PYTHONPATH=str(ROOT)))


def test_a_way_that_does_not_start_is_left_out(monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 1)
    with worker.Worker("slow", "timeit", "-n", 10**12, "pass") as slow:  # says nothing for an hour
        assert slow.unavailable() == "it had not made two steps after 1 seconds"
    with (
        worker.Worker("none", "timeit", "no python") as none,
        pytest.raises(RunError, match="none ended with exit code 1"),
    ):
        none.unavailable()
