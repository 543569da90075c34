import time

import numpy as np
import pytest
from PIL import Image
from test_survival import TINY, crashed
from test_training import SHORT

from tf1 import tf
from training import logs
from training import run as training


@pytest.mark.parametrize(
    "rest", [b"3,1.5", b"3,1.5,2", b"3,1.5,2.5,3\n", b"\0\xff\n", b"3," + b"9" * 200_000, b"three,1,2\n", b"\n"]
)
def test_a_line_of_the_losses_that_is_cut_or_damaged_ends_them(rest, tmp_path):
    (tmp_path / "losses.csv").write_bytes(b"step,dloss,gloss\n1,1,2\n2,1,2\n" + rest)
    assert list(logs.read_losses(tmp_path / "losses.csv")) == [(1, 1, 2), (2, 1, 2)]


def test_tensorboard_gets_losses_samples_and_the_graph(dcgan, tmp_path):
    dcgan(*SHORT, "--steps", 4)
    (file,) = (tmp_path / "run").glob("events.out.*")
    scalars, images, graphs = {}, [], 0
    for event in tf.train.summary_iterator(str(file)):
        graphs += bool(event.graph_def)
        for value in event.summary.value:
            if value.HasField("image"):
                images.append(event.step)
            else:
                scalars.setdefault(value.tag, []).append((event.step, np.float32(value.simple_value)))
    rows = list(logs.read_rows(tmp_path / "run" / "losses.csv"))
    assert scalars["D(x)"] == [(row[0], np.float32(row[3])) for row in rows]
    assert scalars["D(G(z))"] == [(row[0], np.float32(row[4])) for row in rows]
    assert scalars["dloss"] == [(step, np.float32(dloss)) for step, dloss, *_ in rows]
    assert scalars["gloss"] == [(step, np.float32(gloss)) for step, _, gloss, *_ in rows]
    assert images == [0, 3, 4] and graphs == 1


def test_a_run_that_was_killed_before_its_film_makes_it_when_it_is_run_again(dcgan, tmp_path, monkeypatch):
    film = training.make_film
    monkeypatch.setattr(training, "make_film", lambda out: crashed())
    assert dcgan(*TINY, "--steps", 2).returncode == 130
    monkeypatch.setattr(training, "make_film", film)
    result = dcgan(*TINY, "--steps", 2)
    assert result.returncode == 0 and "is at step 2 already" in result.stdout
    with Image.open(tmp_path / "run" / "progress.gif") as made:
        assert made.n_frames == 2


def test_a_run_of_the_version_before_has_no_scores_and_goes_on(tmp_path, graph):
    (tmp_path / "losses.csv").write_text("step,dloss,gloss\n1,1,2\n2,3,4\n3,5,6\n")
    with logs.Logs(tmp_path, 2, graph, per_epoch=2) as log:
        log.losses(3, [0.1, 0.2, 0.3, 0.4])
    assert (tmp_path / "losses.csv").read_text() == (
        "step,dloss,gloss,real,generated\n1,1,2,,\n2,3,4,,\n3,0.1,0.2,0.3,0.4\n"
    )
    assert list(logs.read_rows(tmp_path / "losses.csv"))[1:] == [(2, 3, 4, None, None), (3, 0.1, 0.2, 0.3, 0.4)]
    assert (tmp_path / "epochs.csv").read_text() == "epoch,dloss,gloss\n1,2,3\n"


def test_epochs_have_the_mean_losses_whether_resumed_or_not(tmp_path, graph):
    values = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for folder, parts in (("whole", [(0, 20)]), ("pieces", [(0, 4), (4, 13), (13, 20)])):
        (tmp_path / folder).mkdir()
        for first, last in parts:
            with logs.Logs(tmp_path / folder, first, graph, per_epoch=6) as log:
                for step in range(first, last):
                    log.losses(step + 1, list(values[step]))
    whole = (tmp_path / "whole" / "epochs.csv").read_bytes()
    assert whole == (tmp_path / "pieces" / "epochs.csv").read_bytes()
    rows = np.array(list(logs.read_losses(tmp_path / "whole" / "epochs.csv")))
    np.testing.assert_allclose(rows[:, 1:], values[:18, :2].reshape(3, 6, 2).mean(1), rtol=1e-6)


def test_the_film_is_bounded_in_frames_and_size_and_says_so(tmp_path, capsys):
    for step in range(200):
        Image.new("RGB", (1281, 640), (step, 0, 0)).save(tmp_path / f"step_{step:06d}.png")
    logs.make_film(tmp_path)
    with Image.open(tmp_path / "progress.gif") as film:
        assert film.n_frames == logs.MOST_FRAMES and max(film.size) == logs.LARGEST_FRAME
        assert film.convert("RGB").getpixel((5, 5))[0] == 0
        film.seek(film.n_frames - 1)
        assert film.convert("RGB").getpixel((5, 5))[0] == 199
    assert capsys.readouterr().out.strip().endswith("progress.gif has 120 of 200 samples, 50% of their size")


def test_collapsed_samples_are_reported_once(capsys):
    rng = np.random.default_rng(0)
    real = rng.integers(256, size=(1, 64, 8, 8, 1), dtype=np.uint8)
    watch = logs.Warnings(real, "article")
    for step in range(0, 3000, 500):
        watch.samples(step, real[0] // 2)
    assert capsys.readouterr().err == ""
    for step in range(3000, 9000, 500):
        watch.samples(step, np.repeat(real[0, :1], 64, axis=0))
    err = capsys.readouterr().err
    assert err.startswith("warning: the samples have collapsed at step 3500") and err.count("\n") == 1


def test_collapsed_rows_of_classes_are_reported(capsys):
    real = np.random.default_rng(0).integers(256, size=(3, 20, 8, 8, 1), dtype=np.uint8)
    watch = logs.Warnings(real, "bce")
    for step in (500, 1000):
        watch.samples(step, np.repeat(real[:, :1], 8, axis=1).reshape(24, 8, 8, 1))
    assert "the samples of a class have collapsed" in capsys.readouterr().err


@pytest.mark.parametrize(("loss", "score"), [("article", 1e-14), ("minimax", 1e-3)])
def test_a_vanished_gradient_is_reported_once(loss, score, capsys):
    watch = logs.Warnings(np.zeros((1, 2, 2, 2, 1), np.uint8), loss)
    for step in range(200):
        watch.scores(step, 0.3 if step % 49 == 0 else score)
    assert capsys.readouterr().err == ""
    for step in range(200, 400):
        watch.scores(step, score)
    err = capsys.readouterr().err
    assert err.startswith("warning: D is sure") and "--loss bce" in err and err.count("\n") == 1
    logs.Warnings(np.zeros((1, 2, 2, 2, 1), np.uint8), "bce").scores(1, 0.0)


def test_an_epoch_costs_the_same_however_long_the_run_is(tmp_path, graph):
    """Epochs of one step, as a folder with a single batch has them."""
    seconds = []
    for start in (0, 50_000):
        rows = "".join(f"{step},0.5,1.5\n" for step in range(1, start + 1))
        (tmp_path / "losses.csv").write_text("step,dloss,gloss\n" + rows)
        with logs.Logs(tmp_path, start, graph, per_epoch=1) as log:
            began = time.process_time()
            for step in range(start + 1, start + 401):
                log.losses(step, [0.1, 0.2, 0.3, 0.4])
            log.flush()
            seconds.append(time.process_time() - began)
        assert len(list(logs.read_losses(tmp_path / "epochs.csv"))) == start + 400
    assert seconds[1] < 3 * seconds[0] + 0.1
