import json
import shutil
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, SHARED, bad_input
from PIL import Image

import command
import models
from dcgan_keras import article_losses, gan
from reproduce import console, diagrams, figures
from reproduce.diagrams import Application, Loss, Run
from tf1 import keras, set_seed, tf
from training.generator import load_generator

layers = keras.layers

# Reading the graph.

ONE_PASS = [
    Run(
        [Application("G", "noise"), Application("D", "real"), Application("D", 0)],
        [Loss([1, 2], ["D"]), Loss([2], ["G"])],
    )
]


def small_pair():
    generator = keras.Sequential([layers.InputLayer((3,)), layers.Dense(5, activation="tanh")])
    discriminator = keras.Sequential(
        [layers.InputLayer((5,)), layers.Dense(4, activation="tanh"), layers.Dense(1, activation="sigmoid")]
    )
    return generator, discriminator


def test_the_articles_step_is_one_run_with_g_once_and_d_twice(graph):
    assert diagrams.read_step(gan, models.article_generator(), models.article_discriminator()) == ONE_PASS


def test_networks_of_dense_layers_are_read_the_same(graph):
    assert diagrams.read_step(gan, *small_pair()) == ONE_PASS


def by_turns(generator, discriminator, wrong=False):
    """A recipe of three runs; if `wrong`, D's own loss updates G too."""
    noise, images = keras.Input(generator.input_shape[1:]), keras.Input(discriminator.input_shape[1:])
    fake = keras.Input(discriminator.input_shape[1:])
    generated = generator(noise)
    dloss, _ = article_losses(discriminator(fake), discriminator(images))
    _, gloss = article_losses(discriminator(generated), tf.constant([[0.5]]))
    if wrong:
        dloss, _ = article_losses(discriminator(generated), discriminator(images))
    both = discriminator.trainable_weights + generator.trainable_weights
    update_d = tf.train.AdamOptimizer().minimize(dloss, var_list=both if wrong else discriminator.trainable_weights)
    update_g = tf.train.MomentumOptimizer(0.1, 0.5).minimize(gloss, var_list=generator.trainable_weights)

    def feed(sess, image_batch, noise_batch):
        pictures = sess.run(generated, {noise: noise_batch})
        _, d = sess.run([update_d, dloss], {images: image_batch, fake: pictures, noise: noise_batch})
        return [d, sess.run((gloss, update_g), {noise: noise_batch})[0]]

    return feed


def test_a_recipe_by_turns_is_read_as_it_is(graph):
    assert diagrams.read_step(by_turns, *small_pair()) == [
        Run([Application("G", "noise")], []),
        Run([Application("D", "generated"), Application("D", "real")], [Loss([0, 1], ["D"])]),
        Run([Application("G", "noise"), Application("D", 0)], [Loss([1], ["G"])]),
    ]


def test_a_wrong_recipe_is_read_as_it_is_too(graph):
    _, second, _ = diagrams.read_step(by_turns, *small_pair(), wrong=True)
    assert [loss.updates for loss in second.losses] == [["D", "G"]]
    assert Counter(application.network for application in second.applications) == {"G": 1, "D": 2}


def test_keras_own_training_is_heard(graph):
    """`train_on_batch` and `predict_on_batch` go past `sess.run`."""

    def recipe(generator, discriminator):
        discriminator.compile("sgd", "binary_crossentropy")

        def feed(sess, images, noise):
            discriminator.train_on_batch(generator.predict_on_batch(noise), np.zeros((len(images), 1)))

        return feed

    assert diagrams.read_step(recipe, *small_pair()) == [
        Run([Application("G", "noise")], []),
        Run([Application("D", "generated")], [Loss([0], ["D"])]),
    ]


def test_the_two_model_recipe_computes_more(graph):
    two_model = pytest.importorskip("two_model").two_model
    runs = diagrams.read_step(two_model, *small_pair(), losses=article_losses)
    applied = Counter(application.network for run in runs for application in run.applications)
    assert applied == {"G": 2, "D": 3}
    assert [loss.updates for run in runs for loss in run.losses] == [["D"], ["D"], ["G"]]
    assert diagrams.times(runs) == "G × 2, D × 3"  # noqa: RUF001


# Drawing.


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_drawing_has_a_box_for_each_pass_and_update():
    found = Counter(texts(diagrams.architecture(ONE_PASS, "title")))
    assert found["G"] == 1 and found["D"] == 2 and found["D_loss"] == 1 and found["G_loss"] == 1
    assert found["update $W_D$"] == 1 and found["update $W_G$"] == 1
    assert any("1 call" in text and "D × 2" in text for text in found)  # noqa: RUF001


def test_the_concept_has_each_network_once():
    found = Counter(texts(diagrams.concept(ONE_PASS, "title")))
    assert found["G"] == 1 and found["D"] == 1
    assert found["updates $W_D$"] == 1 and found["updates $W_G$"] == 1


def test_the_same_drawing_is_the_same_file(tmp_path):
    contents = []
    for _ in range(2):
        diagrams.save(diagrams.architecture(ONE_PASS, "title"), tmp_path / "a.svg")
        contents.append((tmp_path / "a.svg").read_bytes())
    assert contents[0] == contents[1]
    assert ET.fromstring(contents[0]).tag.endswith("svg")


# The article's figure.


def gaps(picture):
    """Where the black lines are, rows and columns, in pixels before enlargement."""
    dark = ~picture[::3, ::3].any(axis=-1)
    return np.flatnonzero(dark[:, :96].all(axis=1)).tolist(), np.flatnonzero(dark[:120].all(axis=0)).tolist()


def test_layout_is_that_of_the_articles_figure():
    tiles = np.full((32, 32, 32, 3), 200, np.uint8)
    ours = np.asarray(figures.article_layout(tiles))
    assert ours.shape == (495, 693, 3)
    assert gaps(ours) == ([32, 65, 98, 131, 164], [32, 65, 98, 131, 164, 197, 230])
    assert not ours[396:, 297:].any() and ours[396:491, 198:294].all()  # 31 tiles: four rows of seven, and three
    path = SHARED / "figures" / "gan_cifar_32.png"
    if path.exists():
        theirs = np.asarray(Image.open(path).convert("RGB"))[348 : 348 + 495, 8 : 8 + 693]
        assert gaps(theirs) == gaps(ours)
        assert (theirs == np.repeat(np.repeat(theirs[::3, ::3], 3, axis=0), 3, axis=1)).all()


def article_weights(path, paint=None, seed=0):
    """Write weights of the article's G; with `paint` (r, g, b) in (-1, 1), every pixel of its pictures is that."""
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        set_seed(seed)
        generator = models.article_generator()
        sess.run(tf.global_variables_initializer())
        if paint:
            *_, kernel, bias = weights = generator.get_weights()
            generator.set_weights([*weights[:-2], 0 * kernel, np.arctanh(paint).astype(bias.dtype)])
        generator.save_weights(path, save_format="h5")


@pytest.fixture
def finished(tmp_path):
    """The folder of a run of 12,000 steps with three generators, the newest painting 0.3 red, -0.1 green, -0.3 blue."""
    folder = tmp_path / "run"
    folder.mkdir()
    article_weights(folder / "generator.h5", (0.3, -0.1, -0.3))
    for step in (5000, 10_000):
        article_weights(folder / f"generator_{step:06d}.h5", (-0.3, 0.4, step / 100_000))
    rows = "".join(f"{step},{0.5 + step / 1e5},{3 - step / 1e5}\n" for step in range(1, 12_001))
    (folder / "losses.csv").write_text("step,dloss,gloss\n" + rows)
    return folder


def test_the_articles_contrast_and_colours_and_the_true_ones(finished):
    shown, true = figures.samples(finished / "generator.h5", "article", seed=0)
    assert shown.shape == true.shape == (31, 32, 32, 3)
    # 0.5 x + 0.5, red and blue exchanged; and x + 0.5
    assert shown.reshape(-1, 3).tolist() == [[round(255 * v) for v in (0.35, 0.45, 0.65)]] * (31 * 32 * 32)
    assert true.reshape(-1, 3).tolist() == [[round(255 * v) for v in (0.8, 0.4, 0.2)]] * (31 * 32 * 32)


def test_tile_k_is_seed_k(tmp_path, graph):
    article_weights(tmp_path / "g.h5")
    _, true = figures.samples(tmp_path / "g.h5", "article", seed=2)
    generator = load_generator(tmp_path / "g.h5", "article")
    np.testing.assert_array_equal(true[5:6], generator.pictures(generator.noise([7])))
    assert (true[5] != true[6]).any()


def test_models_with_classes_show_them_in_turn(tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        keras.backend.set_session(sess)
        generator = models.MODELS["acgan28"].generator(10)
        sess.run(tf.global_variables_initializer())
        generator.save_weights(tmp_path / "g.h5", save_format="h5")
    shown, true = figures.samples(tmp_path / "g.h5", "acgan28", seed=0)
    assert shown.shape == true.shape == (31, 28, 28, 1)
    assert np.asarray(figures.article_layout(true)).shape == (5 * 29 * 3, 7 * 29 * 3)


def test_the_states_of_a_run_are_those_near_the_authors_and_the_newest(finished):
    run = figures.Run(finished)
    assert [(step, path.name) for step, path in run.states()] == [
        (10_000, "generator_010000.h5"),
        (12_000, "generator.h5"),
    ]
    (finished / "run.json").write_text(json.dumps({"step": 11_500}))  # the losses are beyond the last weights
    assert figures.Run(finished).states()[-1] == (11_500, finished / "generator.h5")
    (finished / "run.json").unlink()
    for step in (12_000, 26_000, 47_000, 49_000, 60_000):
        (finished / f"generator_{step:06d}.h5").touch()
    (finished / "losses.csv").rename(finished / "losses_of_the_first.csv")
    console.write_spans(console.spans([(step, 1.0, 1.0) for step in range(1, 60_001)]), finished / console.SUMMARY)
    assert [step for step, _ in figures.Run(finished).states()] == [10_000, 26_000, 49_000, 60_000]
    assert figures.Run(finished).kept[-1][1].name == "generator_060000.h5"  # of the same step as generator.h5


# The charts.

QUALITY = """pictures,step,samples,frechet,precision,recall
"real, held out",,100,0.1,0.8,0.7
generator_002000.h5,2000,100,3.5,0.4,0.2
generator_001000.h5,1000,100,7.5,0.3,0.1
"""


def test_losses_are_drawn_as_the_median_of_each_block(finished):
    (gloss,), (dloss,) = (axes.lines for axes in figures.losses_chart(console.read_spans(finished)).axes)
    assert dloss.get_xdata()[:2].tolist() == [125.5, 375.5] and len(gloss.get_xdata()) == 48
    assert dloss.get_ydata()[0] == pytest.approx(0.5 + 125.5e-5)


def test_the_quality_of_both_runs_is_in_one_chart(tmp_path):
    (tmp_path / "a.csv").write_text(QUALITY)
    (tmp_path / "b.csv").write_text(QUALITY.replace("7.5", "6.5"))
    frechet, precision, recall = figures.quality_chart({"a": tmp_path / "a.csv", "b": tmp_path / "b.csv"}).axes
    one, other, floor = frechet.lines
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([1000, 2000], [7.5, 3.5])
    assert list(other.get_ydata()) == [6.5, 3.5] and set(floor.get_ydata()) == {0.1}
    assert [text.get_text() for text in frechet.get_legend().get_texts()] == ["a", "b", "real pictures: 0.1"]
    assert list(precision.lines[0].get_ydata()) == [0.3, 0.4] and list(recall.lines[1].get_ydata()) == [0.1, 0.2]


def test_speed_is_the_median(tmp_path):
    speeds = {"article": {"median": 16, "min": 14, "max": 19}, "two_model": {"median": 8.5, "min": 8, "max": 9}}
    variants = {name: {"steps_per_second": speed, "rounds": 3} for name, speed in speeds.items()}
    (tmp_path / "b.json").write_text(json.dumps({"machine": "x", "results": {"32": variants}}))
    axes = figures.speed_chart(tmp_path / "b.json").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [16, 8.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["article, batch 32", "two_model, batch 32"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": {}}', '{"results": {"32": {"article": 3}}}'])
def test_tables_that_are_none_are_refused(text, tmp_path):
    (tmp_path / "table").write_text(text)
    for draw, made_by in ((figures.speed_chart, "benchmark"), (figures.read_quality, "evaluate")):
        with pytest.raises(command.InputError, match=made_by):
            draw(tmp_path / "table")


# The command.


@pytest.fixture
def run(run_here):
    return lambda *arguments: run_here(figures.main, *arguments)


FIGURES = {
    *("gan_cifar_32.png", "gan_cifar_32_true_contrast.png", "history_010000.png", "history_010000_true_contrast.png"),
    *(
        "history_strip.png",
        "console.md",
        "console.csv",
        "losses.png",
        "gan_concept.svg",
        "one_pass.svg",
        "two_model.svg",
    ),
}


def test_every_figure_of_a_run_is_made_and_nothing_of_another(run, finished, tmp_path):
    """What is committed under samples/ is of other runs; only the benchmark is of none."""
    (tmp_path / "samples" / "learning_rate_1e-4").mkdir(parents=True)
    for committed in ("cifar10_quality.csv", "learning_rate_1e-4/quality.csv"):
        (tmp_path / "samples" / committed).write_text(QUALITY)
    result = run("--run", finished, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == FIGURES
    assert "no quality.png" in result.stdout and "no speed.png" in result.stdout
    assert (tmp_path / "out" / "console.md").read_text() in result.stdout
    with Image.open(tmp_path / "out" / "history_010000_true_contrast.png") as picture:
        assert picture.getpixel((0, 0)) == (51, 230, 153) and "generator_010000.h5 sha256" in picture.text["weights"]
    with Image.open(tmp_path / "out" / "history_strip.png") as picture:
        assert picture.getpixel((picture.width - 9, 9)) == (51, 230, 153)  # 10,000 steps above 12,000
        assert picture.getpixel((picture.width - 9, 70)) == (204, 102, 51)


def test_another_run_and_the_best_weights_are_shown_beside(run, finished, tmp_path):
    for folder in (finished, tmp_path / "faster"):
        folder.mkdir(exist_ok=True)
        (folder / "quality.csv").write_text(QUALITY)
    article_weights(tmp_path / "faster" / "generator_000300.h5", (0.1, 0.1, 0.1))
    console.write_spans(console.spans([(1, 1.0, 1.0)]), tmp_path / "faster" / console.SUMMARY)
    best = finished / "generator_005000.h5"
    result = run("--run", finished, "--others", tmp_path / "faster", "--best", best, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    more = {f"gan_cifar_32_{name}{what}.png" for name in ("faster", "best") for what in ("", "_true_contrast")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == FIGURES | more | {"quality.png", "last_console.md"}


def test_tables_are_told_apart_by_run_or_by_file(finished, tmp_path):
    tables = [tmp_path / "learning_rate_2" / "quality.csv", tmp_path / "my_table.csv"]
    tables[0].parent.mkdir()
    for table in tables:
        table.write_text(QUALITY)
    arguments = figures.parse(["--run", str(finished), "--quality", *map(str, tables)])
    assert figures.sources(arguments)[1] == {"learning rate 2": tables[0], "my table": tables[1]}


def test_what_is_committed_is_complete(monkeypatch):
    """Each run has its generators, and each learning rate a table of quality."""
    monkeypatch.chdir(ROOT)
    runs, tables, best = figures.sources(figures.parse([]))
    assert [run.name for run in runs[1:]] == ["then smoothing 0.01", "then smoothing 0", "learning rate 1e-3"]
    assert [step for step, _ in runs[0].states()] == [10_000, 25_000, 50_000, 250_000]
    assert list(tables) == ["learning rate 1e-4", "learning rate 3e-4", "learning rate 1e-3"]
    assert best.is_file()


def test_all_is_made_from_what_is_committed(run, tmp_path):
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    result = run("--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    names = ("learning_rate_1e-3", "then_smoothing_0.01", "then_smoothing_0", "best")
    assert made >= FIGURES | {f"gan_cifar_32_{name}.png" for name in names}
    assert made >= {"quality.png", "speed.png", "last_console.md"}
    assert made >= {f"history_0{thousands}000.png" for thousands in (10, 25, 50)}


def test_bad_input_is_one_line(run, finished, tmp_path):
    assert "--run" in bad_input(run("--run", tmp_path))
    assert "samples/cifar10_generator.h5" in bad_input(run())
    assert "--run" in bad_input(run("--others", finished))
    assert "'run'" in bad_input(run("--run", finished, "--others", finished))
    quality = tmp_path / "q.csv"
    quality.write_text(QUALITY)
    assert "'q'" in bad_input(run("--run", finished, "--quality", quality, quality))
    best = shutil.copytree(finished, tmp_path / "best")
    assert "'best'" in bad_input(run("--run", finished, "--others", best))
