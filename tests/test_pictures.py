import numpy as np
import pytest
from broken import memory_within
from PIL import Image

from training import pictures


def tiles(number, channels=3, size=4):
    """Pictures of one colour each: the first is 10, the second 20 ..."""
    return np.stack([np.full((size, size, channels), 10 * (i + 1), np.uint8) for i in range(number)])


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_images_row_by_row_with_a_black_pixel_between(channels):
    picture = np.asarray(pictures.grid(tiles(5, channels), columns=3)).reshape(9, 14, channels)
    assert picture[0, ::5, 0].tolist() == [10, 20, 30] and picture[5, ::5, 0].tolist() == [40, 50, 0]
    assert not picture[4].any() and not picture[:, 4].any() and not picture[5:, 10:].any()


def test_grid_is_about_square_and_enlarged_without_smoothing():
    picture = np.asarray(pictures.grid(tiles(16), scale=3))
    assert picture.shape == (57, 57, 3)
    assert set(np.unique(picture)) == {0, *range(10, 170, 10)}


def test_numbers_are_below_the_tiles_and_tell_them_apart():
    tiles_with_numbers = pictures.numbered(tiles(2, channels=1, size=8), [1, 10], scale=4)
    assert tiles_with_numbers.shape == (2, 8 * 4 + 12, 8 * 4, 1)
    assert (tiles_with_numbers[:, :32] == np.uint8([10, 20]).reshape(2, 1, 1, 1)).all()
    first, second = tiles_with_numbers[:, 32:].astype(bool).sum(axis=(1, 2, 3))
    assert 0 < first < second  # "10" has more ink than "1"


def test_a_png_carries_its_settings_and_the_same_pixels(tmp_path):
    picture = pictures.grid(tiles(4))
    pictures.save_png(picture, tmp_path / "a.png", {"seeds": [1, 2], "model": "article"})
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.text == {"seeds": "[1, 2]", "model": "article"}
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(picture))


def test_rows_carry_their_names(tmp_path):
    plain = np.asarray(pictures.grid(tiles(6, size=16), columns=3, scale=2))
    named = np.asarray(pictures.named_rows(tiles(6, size=16), ["a", "frog"], columns=3, scale=2))
    np.testing.assert_array_equal(named[:, -plain.shape[1] :], plain)
    margin = named[:, : -plain.shape[1]]
    ink = [(margin[top : top + 32] > 128).sum() for top in (0, 34)]  # rows are 16 pixels and a gap, enlarged twice
    assert 0 < ink[0] < ink[1]
    long = pictures.named_rows(tiles(2, channels=1), ["x" * 255, "y"], columns=1)
    assert long.mode == "L" and long.width < 400


def test_gif_repeats_frames_in_order_with_their_pixels_and_times(tmp_path):
    """Frames come one at a time, from memory or from files; of few colours, so that the palette has all of them."""
    frames = []
    for shift in range(4):
        image = np.zeros((40, 30, 3), np.uint8)
        image[..., 0], image[:, :, 1] = (np.arange(40) * 3 + shift)[:, np.newaxis], 90
        frames.append(Image.fromarray(image))
    pictures.save_png(frames[2], tmp_path / "frame.png")
    given = iter([*frames[:2], tmp_path / "frame.png", frames[3]])
    pictures.save_gif(given, tmp_path / "a.gif", milliseconds=50, last=300)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 4 and animation.info["loop"] == 0
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert animation.info["duration"] == (300 if number == 3 else 50)
            np.testing.assert_array_equal(np.asarray(animation.convert("RGB")), np.asarray(frame))
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.long
def test_a_gif_of_120_large_frames_takes_little_memory(tmp_path):
    """A frame is a byte per pixel; all as RGB and their copies would be far more than that."""
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    with memory_within(2e8):
        tiles = (np.roll(noise, shift, axis=0).repeat(10, axis=0).repeat(10, axis=1) for shift in range(120))
        pictures.save_gif(map(Image.fromarray, tiles), tmp_path / "a.gif")
