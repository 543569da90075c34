"""A folder of pictures: every format as it should be, broken files refused or skipped, and the cache."""

import functools
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from broken import RGB32, SHORT_AND_LONG, flipped, fuzz, memory_within, mutations, posix, refused
from hypothesis import strategies as st
from PIL import Image

import data
from command import InputError
from sources import folder as reader


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """An empty folder for pictures."""
    path = tmp_path / "pictures"
    path.mkdir()
    return path


@pytest.fixture
def load_folder(folder, cache):
    return functools.partial(data.load, "folder", shape=RGB32, data_dir=folder, cache_dir=cache)


@pytest.fixture
def refuse_folder(folder, cache):
    """`refused` for the folder that `load_folder` reads."""
    return functools.partial(refused, name="folder", shape=RGB32, data_dir=folder, cache_dir=cache)


def left_behind(cache):
    return list(cache.iterdir()) if cache.exists() else []


def save(path, colour="red", size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(image, format="PNG", shape=RGB32, **options):
    return reader.picture(io.BytesIO(encoded(image, format, **options)), shape)


def test_a_picture_is_cropped_to_its_middle_and_resized():
    image = Image.new("RGB", (300, 100), "blue")
    image.paste("red", (100, 0, 200, 100))
    picture = decoded(image)
    assert picture.shape == RGB32 and picture.dtype == np.uint8
    assert (picture[:, 4:-4] == (255, 0, 0)).all()
    assert (decoded(image, shape=(20, 60, 3))[:, :16] == (0, 0, 255)).all()  # a wide model sees the whole


def test_a_picture_for_a_grey_model_is_grey():
    assert decoded(Image.new("RGB", (5, 5), "red"), shape=(8, 8, 1)).tolist() == np.full((8, 8, 1), 76).tolist()


def test_a_large_jpeg_is_decoded_as_exactly_as_a_png():
    x = np.linspace(0, 255, 1024)
    image = Image.fromarray(np.stack(np.broadcast_arrays(x, x[:, None], 128), -1).astype(np.uint8))
    difference = decoded(image).astype(int) - decoded(image, "JPEG", quality=95)
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("mode, format", [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("I;16B", "TIFF")])
def test_16_bits_are_scaled_and_not_clipped(mode, format):
    values = np.full((8, 8), 0x8000, {"I;16": "<u2", "I": "<i4", "I;16B": ">u2"}[mode])
    image = Image.frombytes(mode, (8, 8), values.tobytes())
    assert (decoded(image, format) == 128).all()


@pytest.mark.parametrize("value, expected", [(0.5, 128), (1, 255)])
def test_floats_from_0_to_1_are_read(value, expected):
    assert (decoded(Image.new("F", (4, 4), value), "TIFF") == expected).all()


@pytest.mark.parametrize("mode, value", [("F", 300.0), ("F", -1.0), ("F", float("nan")), ("I", 70_000), ("I", -1)])
def test_values_of_no_known_range_are_refused(mode, value):
    with pytest.raises(InputError, match="neither 8 nor 16 bits"):
        decoded(Image.new(mode, (4, 4), value), "TIFF")


@pytest.mark.parametrize("channels, white", [(3, [255, 255, 255]), (1, [255])])
def test_what_is_transparent_is_white(channels, white):
    shape = (8, 8, channels)
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0])
    images = [
        encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"),
        encoded(Image.new("LA", (4, 4), (0, 0)), "PNG"),
        encoded(palette, "PNG", transparency=0),
        encoded(Image.new("RGB", (4, 4), "red"), "PNG", transparency=(255, 0, 0)),
        encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "WEBP", lossless=True),
    ]
    for content in images:
        assert (reader.picture(io.BytesIO(content), shape) == white).all()


def test_half_transparent_red_is_pink():
    assert (decoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))) == [255, 127, 127]).all()


def test_cmyk_is_read_as_rgb():
    picture = decoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(picture.astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "RGB"])
def test_white_is_white_in_every_mode(mode):
    image = Image.new("RGB", (16, 16), "white").convert(mode)
    assert (decoded(image, "JPEG" if mode == "YCbCr" else "PNG") >= 254).all()


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        picture = decoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (picture == (255, 0, 0)).all(), format


@pytest.mark.parametrize("orientation, corner", [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_rotation_is_followed(format, orientation, corner):
    image = Image.new("L", (128, 128))
    image.paste(255, (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decoded(image, format, exif=exif)[..., 0]
    quarters = [
        [picture[:16, :16].mean(), picture[:16, 16:].mean()],
        [picture[16:, :16].mean(), picture[16:, 16:].mean()],
    ]
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == corner


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_a_picture_of_one_pixel_is_a_picture(size):
    assert (decoded(Image.new("RGB", size, "red")) == (255, 0, 0)).all()


def png_of(width, height):
    """A small PNG that claims to be of a giant size."""
    content = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zipfile.crc32(bytes(content[12:29])))
    return bytes(content)


def icon_of(png):
    """An icon that claims 16x16 and holds `png`."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


@functools.cache
def good_jpeg():
    return encoded(Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)), "JPEG")


BROKEN_PICTURES = {
    "empty": (b"", "not a picture"),
    "text": (b"<html>404</html>", "not a picture"),
    "cut in the middle": (good_jpeg()[:-200], "truncated"),
    "cut in the head": (good_jpeg()[:20], ""),
    "a PNG cut": (encoded(Image.effect_noise((64, 64), 90), "PNG")[:1000], "truncated"),
    "a bomb of 30,000 x 30,000": (png_of(30_000, 30_000), "pixels"),
    "a bomb of 12,000 x 7,000": (png_of(12_000, 7_000), "12000x7000 pixels are too many"),
    "a bomb in an icon": (icon_of(png_of(12_000, 12_000)), ""),
    "no pixels": (png_of(0, 0), ""),
    "PostScript, which Ghostscript would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not a picture",
    ),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(99), "not a picture"),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("content, reason", BROKEN_PICTURES.values(), ids=BROKEN_PICTURES)
def test_a_broken_picture_is_refused_or_skipped(
    content, reason, skip_bad, folder, cache, load_folder, capsys, refuse_folder
):
    save(folder / "good.png")
    (folder / "broken.jpg").write_bytes(content)
    with memory_within(50e6):
        if skip_bad:
            assert load_folder(skip_bad=True).images.shape == (1, *RGB32)
            lines = capsys.readouterr().err
            assert lines.startswith(f"skipped {folder / 'broken.jpg'}: ") and reason in lines and lines.count("\n") == 1
        else:
            line = refuse_folder()
            assert (
                line.startswith(f"{folder / 'broken.jpg'} cannot be read: ") and reason in line and "--skip-bad" in line
            )
            assert not left_behind(cache)


def test_a_folder_of_pictures(folder, load_folder, capsys):
    colours = {"a.png": "red", "b.JPG": "lime", "c.bmp": "blue"}
    for name, colour in colours.items():
        save(folder / name, colour)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "weights.h5").write_text("not a picture")
    (folder / "._a.png").write_text("hidden")
    save(folder / ".hidden" / "d.png")
    dataset = load_folder()
    assert dataset.name == "folder" and dataset.labels is None and dataset.classes == []
    assert dataset.images.shape == (3, *RGB32) and dataset.images.dtype == np.uint8
    assert np.abs(dataset.images[:, 16, 16].astype(int) - [(255, 0, 0), (0, 255, 0), (0, 0, 255)]).max() < 4
    images, labels = next(data.batches(dataset, 3, (-0.5, 0.5), seed=0))
    assert images.shape == (3, *RGB32) and labels is None
    assert capsys.readouterr() == ("", "")


def test_subfolders_are_classes(folder, load_folder):
    save(folder / "dogs" / "deep" / "1.png", "red")
    save(folder / "cats" / "2.png", "blue")
    save(folder / "cats" / "1.png", "blue")
    (folder / "empty").mkdir()
    dataset = load_folder()
    assert dataset.classes == ["cats", "dogs"]
    assert dataset.labels.tolist() == [0, 0, 1] and dataset.labels.dtype == np.int64
    assert dataset.images[:, 16, 16, 0].tolist() == [0, 0, 255]


def test_labels_stay_with_their_pictures_when_others_are_skipped(folder, load_folder):
    save(folder / "a" / "1.png", "red")
    (folder / "a" / "2.png").touch()
    (folder / "b").mkdir()
    (folder / "b" / "1.png").touch()
    save(folder / "c" / "1.png", "blue")
    dataset = load_folder(skip_bad=True)
    assert dataset.classes == ["a", "c"] and dataset.labels.tolist() == [0, 1]
    assert dataset.images[:, 16, 16, 0].tolist() == [255, 0]


def test_a_picture_beside_the_class_folders_is_reported_or_refused(folder, load_folder, refuse_folder, capsys):
    save(folder / "dogs" / "1.png")
    save(folder / "1.png")
    save(folder / "2.png")
    assert load_folder().labels is None
    assert capsys.readouterr().err == (
        f"the pictures have no class labels, because {folder / '1.png'} and 1 more are in no subfolder\n"
    )
    refuse_folder(f"needs classes, and {folder / '1.png'} and 1 more are in no subfolder; put every", labelled=True)
    (folder / "2.png").unlink()
    refuse_folder(f"{folder / '1.png'} is in no subfolder", labelled=True)
    (folder / "1.png").rename(folder / "dogs" / "2.png")
    assert load_folder(labelled=True).classes == ["dogs"]
    assert capsys.readouterr() == ("", "")


def test_a_stray_picture_that_is_skipped_takes_no_labels_away(folder, load_folder):
    save(folder / "dogs" / "1.png")
    (folder / "1.png").touch()
    assert load_folder(skip_bad=True).classes == ["dogs"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux'")
@pytest.mark.parametrize("name", [b"caf\xe9.png", "日本語.png".encode(), b"a\nb\x1b[31m.png", b" .png", b"-rf.png"])
def test_names_in_any_encoding(name, folder, load_folder, refuse_folder):
    save(folder / "class" / "good.png")
    path = os.path.join(os.fsencode(folder), b"class\xff", name)
    os.mkdir(os.path.dirname(path))
    os.link(folder / "class" / "good.png", path)
    dataset = load_folder()
    assert len(dataset.images) == 2
    assert all(name.isprintable() for name in dataset.classes) and len(dataset.classes) == 2
    os.unlink(path)
    Path(os.fsdecode(path)).touch()
    refuse_folder("cannot be read")


@posix
def test_loops_of_links_end(folder, load_folder):
    save(folder / "a" / "1.png")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to(folder / "a")
    (folder / "c").symlink_to(folder / "c")
    assert len(load_folder().images) == 1


@posix
def test_a_linked_folder_is_followed(folder, tmp_path, load_folder):
    save(tmp_path / "elsewhere" / "1.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    dataset = load_folder()
    assert len(dataset.images) == 1 and dataset.classes == ["link"]


@posix
def test_a_link_that_leads_nowhere_is_a_bad_picture(folder, load_folder, refuse_folder):
    save(folder / "1.png")
    (folder / "2.png").symlink_to("nowhere")
    (folder / "3.png").symlink_to("3.png")
    refuse_folder(
        "2.png (and 1 more) cannot be read: No such file",
    )
    assert len(load_folder(skip_bad=True).images) == 1


def test_bad_pictures_are_counted_and_listed(folder, cache, load_folder, capsys, refuse_folder):
    save(folder / "5.png")
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"broken")
    refuse_folder("0.png (and 2 more) cannot be read", "--skip-bad")
    assert not left_behind(cache)
    for _ in range(2):  # the second time from the cache
        assert len(load_folder(skip_bad=True).images) == 1
        assert [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()] == [
            f"skipped {folder / f'{i}.png'}" for i in range(3)
        ]
    refuse_folder("0.png (and 2 more) cannot be read")  # also from the cache


def no_folder(path):
    path.rmdir()


def an_empty_folder(path):
    pass


def only_other_files(path):
    (path / "notes.txt").touch()


def only_bad_pictures(path):
    (path / "1.png").touch()
    (path / "2.png").touch()


def a_file(path):
    path.rmdir()
    save(path.with_suffix(".png")).rename(path)


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    "make, reason",
    [
        (no_folder, "check --data-dir"),
        (an_empty_folder, "has no pictures"),
        (only_other_files, "has no pictures"),
        (only_bad_pictures, "1.png (and 1 more) cannot be read"),
        (a_file, "check --data-dir"),
    ],
)
def test_a_folder_without_good_pictures_is_refused(make, reason, skip_bad, folder, cache, refuse_folder):
    make(folder)
    refuse_folder(str(folder), reason, skip_bad=skip_bad)
    assert not left_behind(cache)


def test_a_folder_needs_a_name():
    refused("--data-dir", name="folder", shape=RGB32)


@pytest.fixture
def unprivileged():
    """A folder that everybody reaches, and this process without the rights of root."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield path
    finally:
        if root:
            os.seteuid(0)
        for each in path.rglob("*"):
            each.chmod(0o700)
        shutil.rmtree(path)


@posix
def test_what_may_not_be_read_is_refused(unprivileged):
    arguments = {"name": "folder", "shape": RGB32, "data_dir": unprivileged / "in", "cache_dir": unprivileged / "cache"}
    save(unprivileged / "in" / "1.png")
    save(unprivileged / "in" / "2.png").chmod(0)
    refused("2.png cannot be read: Permission denied", "--skip-bad", **arguments)
    assert len(data.load(**arguments, skip_bad=True).images) == 1
    (unprivileged / "in" / "closed").mkdir(0)
    refused("closed cannot be read: Permission denied", **arguments)
    (unprivileged / "in" / "closed").rmdir()
    (unprivileged / "cache").chmod(0o500)
    os.unlink(unprivileged / "in" / "2.png")
    refused("cache", "Permission denied", "XDG_CACHE_HOME", **arguments)


def remove(path):
    path.unlink()


def replace(path):
    save(path, "blue", (7, 7))


def touch(path):
    os.utime(path, ns=(1, 1))


def empty(path):
    path.write_bytes(b"")


def add(path):
    save(path.with_name("9.png"))


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("change", [remove, replace, touch, empty, add])
def test_a_folder_that_changes_while_it_is_read_is_refused(change, skip_bad, folder, cache, monkeypatch, refuse_folder):
    for i in range(3):
        save(folder / f"{i}.png")
    read = reader.picture

    def read_and_change(source, shape):
        if str(source).endswith("1.png"):
            change(folder / "2.png")
        return read(source, shape)

    monkeypatch.setattr(reader, "picture", read_and_change)
    refuse_folder("changed while it was read", skip_bad=skip_bad)
    assert not left_behind(cache)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def count_reads(monkeypatch):
    """A list that grows by one for every picture that is decoded."""
    reads, read = [], reader.picture
    monkeypatch.setattr(reader, "picture", lambda source, shape: reads.append(source) or read(source, shape))
    return reads


def test_pictures_are_decoded_once(folder, cache, load_folder, count_reads):
    save(folder / "1.png", "red")
    save(folder / "2.png", "blue")
    first = load_folder().images[:]
    again = load_folder().images
    np.testing.assert_array_equal(first, again[:])
    assert len(count_reads) == 2
    assert not again.flags.owndata and not again.flags.writeable  # the file itself
    assert len(left_behind(cache)) == 1
    load_folder(shape=(8, 8, 1))
    assert len(count_reads) == 4
    save(folder / "2.png", "lime", (50, 50))
    assert load_folder().images[1, 9, 9].tolist() == [0, 255, 0]
    assert len(count_reads) == 6


def test_another_folder_with_the_same_names_is_another_folder(tmp_path, cache, load_folder):
    for name, colour in (("x", "red"), ("y", "blue")):
        os.utime(save(tmp_path / name / "1.bmp", colour), ns=(1, 1))
    reds = [load_folder(data_dir=tmp_path / name).images[0, 9, 9, 0] for name in "xy"]
    assert reds == [255, 0]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_where_the_system_has_caches(variable, folder, tmp_path, monkeypatch):
    save(folder / "1.png")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    data.load("folder", RGB32, data_dir=folder)
    place = tmp_path / "home" / ("dcgan_keras" if variable == "XDG_CACHE_HOME" else ".cache/dcgan_keras")
    assert [path.suffix for path in place.iterdir()] == [".pictures"]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def cut_by_one_byte(path):
    os.truncate(path, path.stat().st_size - 1)


def flip_first(path):
    path.write_bytes(flipped(path.read_bytes(), 0))


def flip_middle(path):
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))


def flip_last(path):
    path.write_bytes(flipped(path.read_bytes(), -1))


def foreign(path):
    path.write_bytes(b"no cache" * 20_000)


@pytest.mark.parametrize("damage", [empty, cut, cut_by_one_byte, flip_first, flip_middle, flip_last, foreign])
def test_a_damaged_cache_is_made_anew(damage, folder, cache, load_folder, count_reads):
    save(folder / "1.png")
    load_folder()
    damage(*left_behind(cache))
    assert (load_folder().images[0] == (255, 0, 0)).all()
    assert len(count_reads) == 2 and len(left_behind(cache)) == 1


def test_a_start_compares_size_and_time_and_the_checksum_only_when_asked_or_when_they_differ(
    folder, cache, load_folder, count_reads
):
    save(folder / "1.png")
    load_folder()
    (path,) = left_behind(cache)
    times = path.stat().st_mtime_ns
    flip_first(path)
    os.utime(path, ns=(times, times))
    assert load_folder().images[0, 0, 0, 0] == 254  # a flipped bit, for which nothing has looked
    assert load_folder(check_cache=True).images[0, 0, 0, 0] == 255 and len(count_reads) == 2
    times = path.stat().st_mtime_ns
    os.utime(path, (1, 1))
    load_folder()
    assert path.stat().st_mtime_ns == times and len(count_reads) == 2  # so that it is not checked every time


@pytest.mark.parametrize("after", range(5))
def test_interrupted_decoding_goes_on_where_it_stopped(after, folder, cache, load_folder, monkeypatch, capsys):
    for i, colour in enumerate(("red", "lime", "blue", "white")):
        save(folder / f"{i}.png", colour)
    (folder / "1.png").write_bytes(b"broken")
    reads, read = [], reader.picture

    def interrupt(source, shape):
        if len(reads) == after:
            raise KeyboardInterrupt
        reads.append(source)
        return read(source, shape)

    monkeypatch.setattr(reader, "picture", interrupt)
    if after < 4:
        with pytest.raises(KeyboardInterrupt):
            load_folder(skip_bad=True)
        assert capsys.readouterr().err == f"\n{after} of 4 pictures are decoded: rerun the command to resume\n"
        assert [path.suffix for path in left_behind(cache)] == [".interrupted"]
        monkeypatch.setattr(reader, "picture", lambda source, shape: reads.append(source) or read(source, shape))
    images = load_folder(skip_bad=True).images
    assert images[:, 9, 9].tolist() == [[255, 0, 0], [0, 0, 255], [255, 255, 255]]
    assert len(reads) == 4
    assert [path.suffix for path in left_behind(cache)] == [".pictures"]
    monkeypatch.setattr(reader, "picture", read)
    np.testing.assert_array_equal(images, load_folder(skip_bad=True, cache_dir=cache / "anew").images)


def test_an_interrupt_anywhere_in_the_loop_loses_no_picture_and_doubles_none(folder, cache, load_folder):
    """Raised between any two instructions of the loop, as a signal does."""
    for name, colour in (("1.png", "red"), ("3.png", "blue")):
        save(folder / name, colour)
    (folder / "2.png").touch()
    expected = load_folder(skip_bad=True).images[:]
    for at in range(1000):
        left, countdown = cache / str(at), at

        def trace(frame, event, _):
            nonlocal countdown
            if frame.f_code is not reader._append.__code__:
                return None
            frame.f_trace_opcodes = True
            countdown -= event == "opcode"
            if countdown < 0:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            load_folder(skip_bad=True, cache_dir=left)
            finished = True
        except KeyboardInterrupt:
            finished = False
        finally:
            sys.settrace(before)
        for path in left.glob("*.interrupted"):
            with open(path, "rb") as file:
                assert reader._read_note(file, 32 * 32 * 3, check=True)
        np.testing.assert_array_equal(load_folder(skip_bad=True, cache_dir=left).images, expected)
        if finished:
            break
    assert finished and at > 50


def test_a_damaged_interrupted_cache_is_begun_anew(folder, cache, load_folder, monkeypatch):
    save(folder / "1.png")
    save(folder / "2.png", "blue")
    read = reader.picture

    def interrupt(source, shape):
        if source.endswith("2.png"):
            raise KeyboardInterrupt
        return read(source, shape)

    monkeypatch.setattr(reader, "picture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_folder()
    flip_first(*left_behind(cache))
    monkeypatch.setattr(reader, "picture", read)
    assert (load_folder().images[0] == (255, 0, 0)).all()


def test_decoding_that_takes_a_while_shows_a_bar(folder, load_folder, monkeypatch, capsys):
    for i in range(3):
        save(folder / f"{i}.png")
    monkeypatch.setattr(reader, "QUIET", 0)
    load_folder()
    shown = capsys.readouterr().out
    assert shown.startswith("decoding 3 pictures, once\n") and "3/3 [=====" in shown and shown.endswith("\n")
    load_folder()
    assert capsys.readouterr().out == ""


def test_a_full_disk_leaves_nothing_behind(folder, cache, monkeypatch, refuse_folder):
    save(folder / "1.png")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    refuse_folder("No space left on device", "XDG_CACHE_HOME")
    assert not left_behind(cache)


def test_a_disk_that_is_too_small_is_reported_before_any_work(folder, cache, monkeypatch, count_reads, refuse_folder):
    save(folder / "1.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    refuse_folder("GB left", "XDG_CACHE_HOME")
    assert not count_reads and not left_behind(cache)


@pytest.mark.parametrize("name", ["cache", "cache/deep"])
def test_a_cache_that_cannot_be_made_is_refused(name, folder, tmp_path):
    save(folder / "1.png")
    (tmp_path / "cache").write_text("a file")
    refused(
        str(tmp_path / name), "XDG_CACHE_HOME", name="folder", shape=RGB32, data_dir=folder, cache_dir=tmp_path / name
    )


def test_what_a_killed_run_left_is_cleared_and_what_a_living_one_writes_is_not(folder, cache, load_folder):
    save(folder / "1.png")
    cache.mkdir()
    (cache / "old.partial").touch()
    os.utime(cache / "old.partial", (1, 1))
    (cache / "new.partial").touch()
    (cache / "old.interrupted").touch()
    os.utime(cache / "old.interrupted", (1, 1))
    load_folder()
    assert sorted(path.suffix for path in left_behind(cache)) == [".partial", ".pictures"]


@posix
def test_the_cache_is_private(folder, cache, load_folder):
    save(folder / "1.png")
    load_folder()
    assert stat.S_IMODE(left_behind(cache)[0].stat().st_mode) == 0o600


PEAK = """
import sys, threading, time, data
from sources import folder

folder.QUIET = 1e9  # a progress bar would load TensorFlow
peak = 0

def watch():  # not the pages of the cache's file: the system takes them back when it wants to
    global peak
    while True:
        lines = open("/proc/self/status").read().splitlines()
        peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
dataset = data.load("folder", (64, 64, 3), data_dir=sys.argv[1], cache_dir=sys.argv[2])
batches = data.batches(dataset, 50, (-0.5, 0.5), seed=0)
for _ in range(data.batches_per_epoch(dataset, 50)):
    next(batches)
print(peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_folder(tmp_path):
    picture = tmp_path / "picture.bmp"
    Image.effect_noise((64, 64), 90).convert("RGB").save(picture)
    sizes, peaks = (500, 4500), []
    for size in sizes:
        folder = tmp_path / str(size)
        folder.mkdir()
        for i in range(size):
            os.link(picture, folder / f"{i}.bmp")
        run = subprocess.run(
            [sys.executable, "-c", PEAK, folder, tmp_path / "cache"],
            cwd=Path(data.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout) * 1024)
    per_picture = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    assert per_picture < 0.15 * 64 * 64 * 3  # bytes: little more than the name


@functools.cache
def small_pictures():
    noise = Image.effect_noise((9, 9), 90)
    formats = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "ICNS", "PCX", "SGI", "QOI", "DDS"]
    formats += [name for name in ("JPEG2000", "AVIF") if name in Image.SAVE]  # where Pillow was built with them
    colour = [encoded(noise.convert("RGB"), name) for name in formats]
    return [*colour, encoded(noise.convert("P"), "PNG"), encoded(noise, "GIF"), png_of(9, 9)]


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_picture_reader(examples):
    Image.init()
    contents = mutations(*small_pictures()) | st.binary()
    fuzz(lambda content: reader.picture(io.BytesIO(content), (4, 4, 3)), contents, examples)
