"""Broken data as a user meets them: one line that says what is wrong, exit code 2, and nothing left behind."""

import os

import pytest
from conftest import bad_input
from PIL import Image

BATCH = "cifar-10-batches-py/data_batch_1"
TINY = ("--model", "tiny", "--batch-size", "2", "--sample-every", "1")


@pytest.fixture
def folder(tmp_path):
    """A folder "data" with three images."""
    (tmp_path / "data").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("dataset", "name", "content", "words"),
    [
        ("cifar10", BATCH, b"\x80\x02cposix\nsystem\nU\x0etouch /tmp/ran\x85R.", f"{BATCH} is not a CIFAR-10 batch"),
        ("mnist", "mnist.npz", b"<html>404</html>", "mnist.npz is not an MNIST archive"),
        ("folder", "3.png", b"<html>404</html>", "3.png cannot be read: "),
    ],
)
def test_broken_data(dataset, name, content, words, folder, dcgan, tmp_path):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    line = bad_input(dcgan("--dataset", dataset, "--data-dir", "data", *TINY, "--steps", 2))
    assert line.startswith("error: ") and words in line and line.strip().isprintable()
    after = (path for path in tmp_path.rglob("*") if tmp_path / "cache" not in [path, *path.parents])  # keeps its work
    assert {path: path.stat().st_mtime_ns for path in after} == before and not os.path.exists("/tmp/ran")


def test_a_run_in_the_folder_of_its_images_skips_bad_ones_and_is_resumed(folder, dcgan, tmp_path):
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_bytes(b"<html>404</html>")
    for steps in (1, 2):  # the second time beside the samples of the first
        result = dcgan("--dataset", "folder", "--data-dir", ".", "--skip-bad", *TINY, "--steps", steps)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "samples" / "folder" / f"step_{steps:06d}.png").exists()
        skipped = [line.split(":")[0] for line in result.stderr.splitlines() if line.startswith("skipped")]
        assert skipped == [f"skipped {folder / name}" for name in ("empty.png", "text.jpg")]
