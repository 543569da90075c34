import numpy as np
import pytest
from PIL import Image
from test_survival import TINY, crashed
from test_training import SHORT

import logs
import training
from tf1 import tf


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
    rows = list(logs.read_losses(tmp_path / "run" / "losses.csv"))
    assert scalars["dloss"] == [(step, np.float32(dloss)) for step, dloss, _ in rows]
    assert scalars["gloss"] == [(step, np.float32(gloss)) for step, _, gloss in rows]
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
