import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, SHARED, bad_input
from PIL import Image
from test_evaluate import tiny_weights

import command
from reproduce import figures, ways
from training import logs

QUALITY = """pictures,step,samples,frechet,precision,recall
"real, held out",,100,0.1,0.8,0.7
generator_002000.h5,2000,100,3.5,0.4,0.2
generator_001000.h5,1000,100,7.5,0.3,0.1
"""


def gaps(picture):
    """Where the black lines are, rows and columns, in pixels before enlargement."""
    dark = ~picture[::3, ::3].any(axis=-1)
    return np.flatnonzero(dark[:, :96].all(axis=1)).tolist(), np.flatnonzero(dark[:120].all(axis=0)).tolist()


def test_layout_is_that_of_the_articles_figure():
    ours = np.asarray(figures.article_layout(np.full((32, 32, 32, 3), 200, np.uint8)))
    assert ours.shape == (495, 693, 3)
    assert gaps(ours) == ([32, 65, 98, 131, 164], [32, 65, 98, 131, 164, 197, 230])
    assert not ours[396:, 297:].any() and ours[396:491, 198:294].all()  # 31 tiles: four rows of seven, and three
    path = SHARED / "figures" / "gan_cifar_32.png"
    if path.exists():
        theirs = np.asarray(Image.open(path).convert("RGB"))[348 : 348 + 495, 8 : 8 + 693]
        assert gaps(theirs) == gaps(ours)
        assert (figures.sixteen_bits(theirs) == theirs).all()  # the author's screenshot has 16-bit colour


def test_sixteen_bit_colour_has_32_64_and_32_levels():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, axis=1)
    rounded = figures.sixteen_bits(grey)
    assert [len(np.unique(channel)) for channel in rounded.T] == [32, 64, 32]
    assert rounded[0].tolist() == [0] * 3 and rounded[255].tolist() == [255] * 3
    assert rounded[100].tolist() == [99, 101, 99]
    assert (figures.sixteen_bits(rounded) == rounded).all()


@pytest.fixture
def finished(dcgan, tmp_path):
    """The folder of a run of 12,000 steps with two generators, the newest painting 0.3 red, -0.1 green, -0.3 blue."""
    folder = tmp_path / "run"
    tiny_weights(folder / "generator.h5", paint=(0.3, -0.1, -0.3))
    tiny_weights(folder / "generator_010000.h5", paint=(-0.3, 0.4, 0.1))
    (folder / "run.json").write_text('{"model": "tiny"}')
    rows = "".join(f"{step},{0.5 + step / 1e5},{3 - step / 1e5},0.5,0.5\n" for step in range(1, 12_001))
    (folder / "losses.csv").write_text(logs.LOSSES + "\n" + rows)
    return folder


@pytest.fixture
def run(run_here):
    return lambda *arguments: run_here(figures.main, *arguments)


def test_a_runs_figures_show_its_samples_and_nothing_of_another_run(run, finished, tmp_path):
    shutil.copytree(ROOT / "samples" / "learning_rate_1e-3", tmp_path / "samples" / "learning_rate_1e-4")
    out = tmp_path / "out"
    result = run("--run", finished, "--out", out)
    assert result.returncode == 0, result.stderr
    names = {f"{name}{kind}.png" for name in ("gan_cifar_32", "history_010000") for kind in ("", "_true_contrast")}
    names |= {"history_strip.png", "console.md", "console.csv", "losses.png"}
    assert {path.name for path in out.iterdir()} == names
    assert "no quality.png" in result.stdout and "no speed.png" in result.stdout
    with Image.open(out / "gan_cifar_32.png") as picture:  # 0.5 x + 0.5, red and blue exchanged, in 16 bits
        assert picture.getpixel((0, 0)) == (90, 113, 165)
    with Image.open(out / "gan_cifar_32_true_contrast.png") as picture:  # x + 0.5
        assert picture.getpixel((0, 0)) == (204, 102, 51) and picture.text["seeds"] == "0-30"
    with Image.open(out / "history_strip.png") as picture:
        assert picture.getpixel((picture.width - 9, 9)) == (51, 230, 153)  # 10,000 steps above 12,000
        assert picture.getpixel((picture.width - 9, 70)) == (204, 102, 51)


def test_all_is_made_from_what_is_committed(run, tmp_path, monkeypatch):
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    drawn = {}

    def samples(weights, model, seed):  # without the networks, which take a minute
        drawn[weights.parent.name, weights.name] = seed
        return np.zeros((31, 32, 32, 3), np.uint8), np.full((31, 32, 32, 3), len(drawn), np.uint8)

    monkeypatch.setattr(figures, "samples", samples)
    result = run("--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    committed = {path.name for path in (ROOT / "samples").iterdir() if path.name.startswith(("gan_", "history_"))}
    charts = {"quality.png", "speed.png", "losses.png", "distances.png"}
    assert made == committed | charts | {"console.md", "console.csv", "last_console.md"}
    assert len(drawn) == 9
    with Image.open(tmp_path / "out" / "history_strip.png") as picture:  # four rows
        assert [picture.getpixel((picture.width - 9, 9 + 66 * row))[0] for row in range(4)] == [1, 3, 5, 9]
    for name in ("console.md", "console.csv", "last_console.md"):
        assert (tmp_path / "out" / name).read_text() == (ROOT / "samples" / name).read_text()


def test_quality_of_two_runs_is_in_one_chart(tmp_path):
    (tmp_path / "a.csv").write_text(QUALITY)
    (tmp_path / "b.csv").write_text(QUALITY.replace("7.5", "6.5"))
    frechet, _, recall = figures.quality_chart({"a": tmp_path / "a.csv", "b": tmp_path / "b.csv"}).axes
    one, other, floor = frechet.lines
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([1000, 2000], [7.5, 3.5])
    assert list(other.get_ydata()) == [6.5, 3.5] and set(floor.get_ydata()) == {0.1}
    assert "not FID; lower is better" in frechet.get_title() and list(recall.lines[1].get_ydata()) == [0.1, 0.2]


def test_speed_is_the_median_with_the_names_of_the_table(tmp_path):
    row = {"steps_per_second": {"median": 16, "quartiles": [14, 19]}}
    rows = {"article": row, "two-model-graph": row}
    (tmp_path / "b.json").write_text(json.dumps({"results": {"32": rows}}))
    axes = figures.speed_chart(tmp_path / "b.json").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [16, 16]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{ways.METHODS[n][0]}, batch 32" for n in rows]
    assert axes.get_title() and [text.get_text() for text in axes.texts] == ["16.0", "16.0"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": {}}', '{"results": {"32": {"article": 3}}}'])
def test_tables_of_another_form_are_refused(text, tmp_path):
    (tmp_path / "table").write_text(text)
    for draw, made_by in ((figures.speed_chart, "benchmark"), (figures.read_quality, "evaluate")):
        with pytest.raises(command.InputError, match=made_by):
            draw(tmp_path / "table")


def test_bad_input_is_one_line(run, finished, tmp_path):
    assert "--run" in bad_input(run("--run", tmp_path))
    assert "samples/cifar10_generator.h5" in bad_input(run())
    assert "--run" in bad_input(run("--others", finished))
    assert "'run'" in bad_input(run("--run", finished, "--others", finished))
    (tmp_path / "b.json").write_text("{}")
    assert "reproduce.benchmark" in bad_input(run("--run", finished, "--benchmark", "b.json"))
    assert not (tmp_path / "figures").exists()
    best = shutil.copytree(finished, tmp_path / "best")
    assert "'best'" in bad_input(run("--run", finished, "--others", best, "--best", best / "generator.h5"))
    runs, *_ = figures.sources(figures.parse(["--run", str(best)]))  # only its name is that of --best
    assert [each.name for each in runs] == ["best"]
