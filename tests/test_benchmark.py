import json
import math

import pytest
from conftest import ROOT, bad_input

import models
from reproduce import benchmark
from tf1 import keras, tf


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
    with pytest.raises(benchmark.InputError, match="not known"):
        benchmark.multiply_adds(keras.Sequential([layers.InputLayer((4, 5)), layers.LSTM(3)]))


def test_the_stock_networks_are_the_articles(graph):
    stock = benchmark.stock_networks(keras, tf)
    for ours, theirs in zip((models.article_generator(), models.article_discriminator()), stock, strict=True):
        assert [w.shape for w in theirs.get_weights()] == [w.shape for w in ours.get_weights()]
        assert len(theirs.layers) == len(ours.layers)
        for our, their in zip(ours.layers, theirs.layers, strict=True):
            assert "layers" not in type(their).__module__.split(".")[:1]
            theirs_config, ours_config = their.get_config(), our.get_config()
            for key in ("filters", "strides", "padding", "momentum", "epsilon", "alpha", "activation"):
                assert theirs_config.get(key) == ours_config.get(key)


def test_a_ratio_is_of_turns_next_to_each_other():
    times = {"article": [1.0, 2.0, 4.0], "two-model": [3.0, 4.0, 20.0], benchmark.RATE: [1.0, 2.0, 2.0]}
    results, floor = benchmark.summary(times, flop=benchmark.MATRIX**3)
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
    assert report["unavailable"] == {"2": {}, "4": {}}
    for size in ("2", "4"):
        assert list(report["results"][size]) == ["article", "two-model-graph"]
        assert report["results"][size]["article"]["ratio"] == {"median": 1, "min": 1, "max": 1}
        assert report["results"][size]["two-model-graph"]["ratio"]["min"] > 0
        assert report["outside_device"][size]["share"] > 0
        assert report["floor"][size]["share"]["median"] > 0
    assert report["growth"][0]["peak_bytes"] > 1e8
    assert report["first_step_seconds"] > 0
    for label in ("the article's step", "two-model, TF1 graph mode, stock layers", "the floor", "peak memory"):
        assert label in result.stdout


def test_quick_measures_jobs_of_one_and_two_processes(run_command, tmp_path):
    result = run_command("reproduce/benchmark.py", "--quick", "--workers", 2, "--json", "b.json", PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    one, two = json.loads((tmp_path / "b.json").read_text())["jobs"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["bytes_per_step"], two["bytes_per_step"]) == (0, sum(REDUCED))
    assert [*map(int, two["all_reduces_ms"])] == sorted(REDUCED) and two["all_reduces_per_step"] == len(REDUCED)
    assert two["in_all_reduce_ms"] > 0 and two["reduce_one_ms"]["min"] > 0
    assert f"{sum(REDUCED):,}" in result.stdout


# D's gradients, G's gradients, and the moving averages with both losses and the wish to stop: float32.
REDUCED = [4 * 395_405, 4 * 696_507, 4 * (720 + 672 + 3)]


def ring_seconds(replicas, latency, bandwidth):
    """What docs/scaling.md says of the three all-reduces of a step."""
    rounds = 2 * (replicas - 1)
    return sum(rounds * latency + rounds / replicas * size / bandwidth for size in REDUCED)


def rows(page, first):
    """The cells of a Markdown table of docs/scaling.md, found by the beginning of its head."""
    lines = page[page.index(first) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_what_the_page_on_scaling_works_out_follows_from_its_figures():
    page = (ROOT / "docs" / "scaling.md").read_text()
    reduced = [int(cells[2].replace(",", "")) for cells in rows(page, "| all-reduce |")]
    assert reduced == [*REDUCED, sum(REDUCED)]
    links = {}
    for name, gbytes, microseconds, _ in rows(page, "| link |"):
        links[name] = float(microseconds) * 1e-6, float(gbytes) * 1e9
    launch, picture = 961 * 5e-6, 147e6 / 3e12
    for name in ("961 operations", "5 µs", "147 million", "3 TFLOP/s"):
        assert name in page
    worked_out = rows(page, "| replicas |")
    assert {cells[1] for cells in worked_out} == links.keys()
    for replicas, name, milliseconds, share32, share128, hidden in worked_out:
        seconds = ring_seconds(int(replicas), *links[name])
        assert float(milliseconds) == pytest.approx(1000 * seconds, abs=0.005)
        for share, size in ((share32, 32), (share128, 128)):
            step = launch + size * picture
            assert share == f"{100 * step / (step + seconds):.0f}%"
        needed = max(1, (9 * seconds - launch) / picture)
        assert int(hidden.replace(",", "")) == math.ceil(needed)


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--variants", "article,none"], "'none'"), (["--json", "no/folder.json"], "no folder no")]
)
def test_bad_arguments_are_refused_in_one_line(arguments, named, run_command):
    assert named in bad_input(run_command("reproduce/benchmark.py", *arguments, PYTHONPATH=str(ROOT)))
