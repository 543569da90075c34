"""A folder of images: every format as it should be, broken files refused or skipped, and the cache."""

import functools
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from broken import RGB32, SHORT_AND_LONG, fuzz, memory_within, mutations, posix, refused
from conftest import ROOT
from hypothesis import strategies as st
from PIL import Image

import data
from command import InputError
from sources import folder as reader
from sources.image_file import decode


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """An empty folder for images."""
    path = tmp_path / "images"
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
    return decode(io.BytesIO(encoded(image, format, **options)), shape)


def test_an_image_is_cropped_to_its_middle_and_resized():
    image = Image.new("RGB", (300, 100), "blue")
    image.paste("red", (100, 0, 200, 100))
    pixels = decoded(image)
    assert pixels.shape == RGB32 and pixels.dtype == np.uint8
    assert (pixels[:, 4:-4] == (255, 0, 0)).all()
    assert (decoded(image, shape=(8, 8, 1))[:, 2:-2] == 76).all()  # grey
    assert (decoded(image, shape=(20, 60, 3))[:, :16] == (0, 0, 255)).all()  # a wide model sees the whole


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


def test_floats_from_0_to_1_are_read():
    assert [decoded(Image.new("F", (4, 4), value), "TIFF").max() for value in (0, 0.5, 1)] == [0, 128, 255]


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
        assert (decode(io.BytesIO(content), shape) == white).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK"])
def test_colours_are_right_in_every_mode(mode):
    image = Image.new("RGB", (16, 16), "white" if mode in "1L" else "red").convert(mode)
    pixels = decoded(image, "JPEG" if mode in ("YCbCr", "CMYK") else "PNG")
    assert np.abs(pixels.astype(int) - (255 if mode in "1L" else (255, 0, 0))).max() < 8


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        pixels = decoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (pixels == (255, 0, 0)).all(), format


@pytest.mark.parametrize("orientation, corner", [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_rotation_is_followed(format, orientation, corner):
    image = Image.new("L", (128, 128))
    image.paste(255, (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(image, format, exif=exif)[..., 0]
    quarters = [
        [pixels[:16, :16].mean(), pixels[:16, 16:].mean()],
        [pixels[16:, :16].mean(), pixels[16:, 16:].mean()],
    ]
    assert np.unravel_index(np.argmax(quarters), (2, 2)) == corner


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_an_image_of_one_pixel_is_an_image(size):
    assert (decoded(Image.new("RGB", size, "red")) == (255, 0, 0)).all()


def chunk(name, content, crc=None):
    crc = zlib.crc32(name + content) if crc is None else crc
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(values, size=None, *others):
    """A PNG of 16 bits per channel, which Pillow does not write in colour: (height, width, channels)."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header), *others, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of(width, height):
    """A small PNG that claims to be of a giant size."""
    return png(np.zeros((1, 1, 1)), (width, height))


def icon_of(png):
    """An icon that claims 16x16 and holds `png`."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_images_of_10_or_12_bits_in_16_are_scaled_by_the_depth_that_all_of_them_show(
    bits, channels, folder, load_folder, capsys
):
    levels = (0.1, 0.5, 1, 0.01)  # of white; the first is dark, which must not make it brighter than the others
    for i, level in enumerate(levels):
        values = np.full((8, 8, channels), round(level * (2**bits - 1)))
        if channels in (2, 4):
            values[..., -1] = 65535  # opaque
        (folder / f"{i}.png").write_bytes(png(values))
    save(folder / "8.png", (10, 20, 30))  # of 8 bits
    for _ in range(2):  # the second time from the cache
        images = load_folder().images
        assert np.abs(images[:4, 4, 4, 1] - np.array(levels) * 255).max() <= 1
        assert images[4, 4, 4].tolist() == [10, 20, 30]
    assert (f"scaled as {bits}-bit" in capsys.readouterr().out) == (bits in (10, 12, 14))


def test_a_deeper_image_that_comes_or_goes_changes_how_the_others_are_scaled(folder, load_folder):
    (folder / "1.png").write_bytes(png(np.full((8, 8, 1), 4095)))
    assert (load_folder().images == 255).all()
    (folder / "2.png").write_bytes(png(np.full((8, 8, 1), 65535)))
    assert load_folder().images[:, 4, 4, 0].tolist() == [16, 255]
    (folder / "2.png").unlink()
    assert (load_folder().images == 255).all()


def tiff(values, order, packed):
    """A TIFF of 16 bits per channel, which Pillow does not write in colour: (height, width, 3)."""
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if packed else pixels
    height, width, _ = values.shape
    tags = {256: width, 257: height, 258: 122, 259: 8 if packed else 1, 262: 2, 273: 128, 277: 3, 278: height}
    tags[279] = len(pixels)
    entries = [struct.pack(f"{order}HHII", tag, *((3, 3) if tag == 258 else (4, 1)), tags[tag]) for tag in tags]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + b"".join(entries) + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + pixels


@pytest.mark.parametrize("packed", [False, True])
def test_colours_of_12_bits_in_a_tiff_are_scaled(packed, folder, load_folder):
    for i, order in enumerate("<>"):
        (folder / f"{i}.tif").write_bytes(tiff(np.full((8, 8, 3), (4095, 2048, 0)), order, packed))
    assert (load_folder().images == (255, 128, 0)).all()


UPSIDE_DOWN = Image.new("L", (128, 64))
UPSIDE_DOWN.paste(255, (0, 0, 64, 64))


def is_turned(content):
    pixels = decode(io.BytesIO(content), (32, 64, 1))
    return pixels[:, :28].max() < 64 and pixels[:, 36:].min() > 192


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x0100, 2, b"abc\0"),  # the width is a text
        (0x010E, 11, struct.pack("<f", 0.5)),  # the description is a float
        (0x011A, 2, b"300\0"),  # the resolution is a text
        (0x0110, 4, b"\xff" * 4),  # the camera is a number
    ],
)
def test_an_exif_tag_of_a_wrong_type_does_not_matter_and_the_orientation_is_followed(tag, kind, value, format):
    entries = struct.pack("<HHI4s", tag, kind, 4 if kind == 2 else 1, value) + struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    assert is_turned(encoded(UPSIDE_DOWN, format, exif=exif))


BAD_EXIF = [b"", b"Exif\0\0II*\0", b"Exif\0\0II*\0" + b"\xff" * 40, b"Exif\0\0" + b"A" * 60_000]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("options", [{"icc_profile": bytes(2_000_000)}, *({"exif": exif} for exif in BAD_EXIF)])
def test_exif_data_or_a_colour_profile_that_cannot_be_read_do_not_matter(options, format):
    pixels = decoded(Image.new("RGB", (64, 64), "red"), format, **options)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 8


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


HUGE = zlib.compress(bytes(80_000_000))
METADATA = {  # of a PNG or a JPEG file
    "a profile of 2 MB": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2_000_000))),
    "an empty profile": chunk(b"iCCP", b""),
    "a packed text of 80 MB": chunk(b"iTXt", b"a\0\1\0\0\0" + HUGE) + chunk(b"zTXt", b"a\0\0" + HUGE),
    "a text packed by no method": chunk(b"zTXt", b"a\0\x09text"),
    "a text of a wrong CRC": chunk(b"tEXt", b"a\0text", crc=1),
    "short numbers": chunk(b"gAMA", b"1") + chunk(b"cHRM", b"1") + chunk(b"sRGB", b"") + chunk(b"pHYs", b"1"),
    "half an animation": chunk(b"acTL", b"1") + chunk(b"fcTL", bytes(26)),
    "EXIF data of a wrong CRC": chunk(b"eXIf", b"II*\0", crc=1),
    "half a profile": segment(0xE2, b"ICC_PROFILE\0\2\1half"),
    "a short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "short JFIF": segment(0xE0, b"JFIF"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "a short index of pictures": segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + b"\xff" * 20),
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_that_are_wrong_or_huge_do_not_matter_and_the_orientation_is_followed(metadata):
    exif = Image.Exif()
    exif[0x0112] = 3
    format, at = ("JPEG", 2) if metadata[0] == 0xFF else ("PNG", 33)  # behind the header
    content = encoded(UPSIDE_DOWN, format, exif=exif)
    assert is_turned(content[:at] + metadata + content[at:])


def test_a_photo_of_200_megapixels_is_read_and_as_little_of_it_as_needed():
    content = encoded(Image.new("L", (16_320, 12_240), 200), "JPEG", quality=30)
    with memory_within(300e6):
        assert np.abs(decode(io.BytesIO(content), RGB32) - 200.0).max() <= 1


@functools.cache
def good_jpeg():
    return encoded(Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)), "JPEG")


BROKEN_IMAGES = {
    "empty": (b"", "not an image"),
    "text": (b"<html>404</html>", "not an image"),
    "cut in the middle": (good_jpeg()[:-200], "truncated"),
    "cut in the head": (good_jpeg()[:20], ""),
    "a PNG cut": (encoded(Image.effect_noise((64, 64), 90), "PNG")[:1000], "truncated"),
    "a bomb of 30,000 x 30,000": (png_of(30_000, 30_000), "pixels"),
    "a bomb of 12,000 x 7,000": (png_of(12_000, 7_000), "12000x7000 pixels are too many"),
    "a bomb in an icon": (icon_of(encoded(Image.new("1", (12_000, 12_000)), "PNG")), ""),
    "no pixels": (png_of(0, 0), ""),
    "PostScript, which Ghostscript would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not an image",
    ),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(99), "not an image"),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("content, reason", BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_a_broken_image_is_refused_or_skipped(
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


def test_a_folder_of_images(folder, load_folder, capsys):
    colours = {"a.png": "red", "b.JPG": "lime", "c.bmp": "blue", "d.Jfif": "red", "e.mpo": "lime", "f.TIF": "blue"}
    right = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "white")]}  # of a pair for both eyes
    for name, colour in colours.items():
        save(folder / name, colour, **(right if name.endswith("mpo") else {}))
    (folder / "._a.png").write_text("hidden")
    save(folder / ".hidden" / "d.png")
    dataset = load_folder()
    assert dataset.name == "folder" and dataset.labels is None and dataset.classes == []
    assert dataset.images.shape == (6, *RGB32) and dataset.images.dtype == np.uint8
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 2
    assert np.abs(dataset.images[:, 16, 16].astype(int) - expected).max() < 4
    images, labels = next(data.batches(dataset, 6, (-0.5, 0.5), seed=0))
    assert images.shape == (6, *RGB32) and labels is None
    assert capsys.readouterr() == ("", "")


def test_what_is_no_image_by_its_ending_is_counted_in_one_line(folder, load_folder, refuse_folder, capsys):
    for name in ("1.heic", "2.HEIC", "IMG_0001", "3.jpg_large", "notes.txt", "Thumbs.db", ".DS_Store", "a\x1bb.\x1b"):
        (folder / name).touch()
    counts = "2 .heic", "1 without an ending", "1 .jpg_large", "1 .txt", r"1 .\x1b"
    refuse_folder("has no images, but", *counts)
    save(folder / "1.png")
    assert len(load_folder().images) == 1
    line = capsys.readouterr().err
    assert line.startswith("left out: ") and line.count("\n") == 1 and line.strip().isprintable()
    assert all(count in line for count in counts) and "db" not in line
    for i in range(9):
        (folder / f"of.{i}").touch()
    load_folder()
    assert "15 in all" in capsys.readouterr().err


LEFT_BEHIND = "@eaDir __MACOSX .Trash-1000 lost+found $RECYCLE.BIN .ipynb_checkpoints Thumbs __pycache__ .DS_Store .git"
LEFT_BEHIND += " RECYCLER #recycle #snapshot @SynoResource FOUND.001 LOST.DIR .AppleDouble ehthumbs.db desktop.ini"


def test_what_systems_leave_behind_is_no_class(folder, load_folder, capsys):
    kept = ["#1", "@home", "cats", "found", "lost", "recycled"]  # names of classes
    for name in (*kept, *LEFT_BEHIND.split(), "System Volume Information", "Network Trash Folder", "Icon\r"):
        save(folder / name / "1.png")
        save(folder / "cats" / name / "1.png")
    dataset = load_folder()
    assert dataset.classes == kept and len(dataset.images) == 2 * len(kept)
    assert capsys.readouterr() == (f"classes: {', '.join(kept)}\n", "")


def test_a_folder_one_level_too_high_is_noticed(folder, load_folder, capsys):
    for name in ("train/cats/1", "train/cats/2", "train/dogs/1", "test/cats/1"):
        save(folder / f"{name}.png")
    assert load_folder().classes == ["test", "train"]
    shown = capsys.readouterr()
    assert shown.out == "classes: test, train\n"
    assert shown.err.startswith("every class holds only folders; ") and f"--data-dir {folder / 'train'}" in shown.err
    save(folder / "train" / "1.png")
    load_folder()
    assert capsys.readouterr().err == ""


def test_many_classes_are_one_line(folder, load_folder, capsys):
    for i in range(30):
        save(folder / f"{i:02}" / "1.png")
    load_folder()
    line = capsys.readouterr().out
    assert line.startswith("classes: 00, 01, ") and line.endswith(", 19 and 10 more\n")


@pytest.mark.parametrize("ran", ["run.json", ".lock"])
def test_runs_are_not_images_of_the_folder(ran, folder, load_folder, refuse_folder):
    """A run with `--data-dir .` and the default `--out`, beside other runs."""
    save(folder / "1.png")
    first = data.checksum(load_folder(out=folder / "run"))
    save(folder / "run" / "step_000100.png")
    save(folder / "run" / "logs" / "step_000100.png")
    save(folder / "other" / "samples" / "step_000100.png")
    (folder / "other" / ran).touch()
    assert data.checksum(load_folder(out=folder / "run")) == first
    assert len(load_folder(out=folder.parent).images) == 3  # a run around the images is no harm
    refuse_folder(f"{folder} is the folder of a run", out=folder)
    (folder / ran).touch()
    refuse_folder(f"{folder} is the folder of a run")


def test_subfolders_are_classes(folder, load_folder):
    save(folder / "dogs" / "deep" / "1.png", "red")
    save(folder / "cats" / "2.png", "blue")
    save(folder / "cats" / "1.png", "blue")
    (folder / "empty").mkdir()
    dataset = load_folder()
    assert dataset.classes == ["cats", "dogs"]
    assert dataset.labels.tolist() == [0, 0, 1] and dataset.labels.dtype == np.int64
    assert dataset.images[:, 16, 16, 0].tolist() == [0, 0, 255]


def test_labels_stay_with_their_images_when_others_are_skipped(folder, load_folder):
    save(folder / "a" / "1.png", "red")
    save(folder / "c" / "1.png", "blue")
    (folder / "b").mkdir()
    for bad in ("a/2.png", "b/1.png", "stray.png"):  # which takes no labels away
        (folder / bad).touch()
    dataset = load_folder(skip_bad=True)
    assert dataset.classes == ["a", "c"] and dataset.labels.tolist() == [0, 1]
    assert dataset.images[:, 16, 16, 0].tolist() == [255, 0]


def test_an_image_beside_the_class_folders_is_reported_or_refused(folder, load_folder, refuse_folder, capsys):
    save(folder / "dogs" / "1.png")
    save(folder / "1.png")
    save(folder / "2.png")
    assert load_folder().labels is None
    assert capsys.readouterr().err == (
        f"the images have no class labels, because {folder / '1.png'} and 1 more are in no subfolder\n"
    )
    refuse_folder(f"needs classes, and {folder / '1.png'} and 1 more are in no subfolder; put every", labelled=True)
    (folder / "2.png").unlink()
    refuse_folder(f"{folder / '1.png'} is in no subfolder", labelled=True)
    (folder / "1.png").rename(folder / "dogs" / "2.png")
    assert load_folder(labelled=True).classes == ["dogs"]
    assert capsys.readouterr().err == ""


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
def test_classes_are_named_on_a_console_that_lacks_their_letters(folder, cache):
    save(folder / "日本" / "1.png")
    code = "import command, data, sys; command.run(lambda: data.load('folder', (8, 8, 3), sys.argv[1]) and 0)"
    result = subprocess.run(
        [sys.executable, "-c", code, folder],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "classes: \\u65e5\\u672c\n", "")


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
def test_a_link_that_leads_nowhere_is_a_bad_image(folder, load_folder, refuse_folder):
    save(folder / "1.png")
    (folder / "2.png").symlink_to("nowhere")
    (folder / "3.png").symlink_to("3.png")
    refuse_folder(
        "2.png (and 1 more) cannot be read: No such file",
    )
    assert len(load_folder(skip_bad=True).images) == 1


def a_file(path):
    path.rmdir()
    save(path.with_suffix(".png")).rename(path)


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.rmdir(), "check --data-dir"),
        (a_file, "check --data-dir"),
        (lambda path: None, "has no images"),
        (lambda path: (path / "notes.txt").touch(), "has no images"),
        (lambda path: [(path / name).touch() for name in ("1.png", "2.png")], "1.png (and 1 more) cannot be read"),
    ],
)
def test_a_folder_without_good_images_is_refused(make, reason, skip_bad, folder, refuse_folder):
    make(folder)
    refuse_folder(str(folder), reason, skip_bad=skip_bad)


def empty(path):
    path.write_bytes(b"")


CHANGES = {
    "removed": Path.unlink,
    "replaced": lambda path: save(path, "blue", (7, 7)),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
    "emptied": empty,
    "added": lambda path: save(path.with_name("9.png")),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_changes_while_it_is_read_is_refused(change, skip_bad, folder, cache, monkeypatch, refuse_folder):
    for i in range(3):
        save(folder / f"{i}.png")
    read = decode

    def read_and_change(source, *rest):
        if str(source).endswith("1.png"):
            change(folder / "2.png")
        return read(source, *rest)

    monkeypatch.setattr(reader, "decode", read_and_change)
    refuse_folder("changed while it was read", skip_bad=skip_bad)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a test of rights needs root, to give them up")
def test_what_may_not_be_read_is_refused_and_tried_again():
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        root = Path(place)
        arguments = {"name": "folder", "shape": RGB32, "data_dir": root / "in", "cache_dir": root / "cache"}
        os.seteuid(65534)
        try:
            save(root / "in" / "1.png")
            save(root / "in" / "2.png", "blue").chmod(0)
            refused("2.png cannot be read: Permission denied", "--skip-bad", **arguments)
            assert len(data.load(**arguments, skip_bad=True).images) == 1
            (root / "in" / "2.png").chmod(0o600)  # changes neither its size nor its time
            assert data.load(**arguments).images[:, 0, 0, 2].tolist() == [0, 255]
            (root / "in" / "closed").mkdir(0)
            refused("closed cannot be read: Permission denied", **arguments)
            (root / "in" / "closed").rmdir()
            (root / "cache").chmod(0o500)
            refused("cache", "Permission denied", "XDG_CACHE_HOME", **arguments, check_cache=True)
        finally:
            os.seteuid(0)


# The cache.


@pytest.fixture
def count_reads(monkeypatch):
    """A list that grows by one for every image that is decoded."""
    reads = []
    monkeypatch.setattr(reader, "decode", lambda source, *rest: reads.append(source) or decode(source, *rest))
    return reads


def test_images_are_decoded_once(folder, cache, load_folder, count_reads):
    save(folder / "1.png", "red")
    save(folder / "2.png", "blue")
    first = load_folder().images[:]
    again = load_folder().images
    np.testing.assert_array_equal(first, again[:])
    assert len(count_reads) == 2
    assert not again.flags.owndata and not again.flags.writeable  # the file itself
    load_folder(shape=(8, 8, 1))
    assert len(count_reads) == 4
    load_folder(check_cache=True)
    assert len(count_reads) == 6


def test_the_cache_does_not_grow_with_changes_and_decodes_only_what_is_new(folder, cache, load_folder, count_reads):
    for i, colour in enumerate(("red", "lime", "blue")):
        save(folder / f"{i}.png", colour)
    load_folder()
    names = {path.name for path in left_behind(cache)}
    save(folder / "00.png", "white")
    save(folder / "2.png", "yellow", (50, 50))
    (folder / "1.png").unlink()
    before = len(count_reads)
    load_folder()
    assert [os.path.basename(read) for read in count_reads[before:]] == ["00.png", "2.png"]
    colours = {"0.png": [255, 0, 0], "00.png": [255, 255, 255], "2.png": [255, 255, 0]}
    assert load_folder().images[:, 9, 9].tolist() == [colours[name] for name in sorted(colours)]
    assert {path.name for path in left_behind(cache)} == names and len(names) == 2


def test_a_bad_image_does_not_throw_the_work_away(folder, load_folder, refuse_folder, count_reads, capsys):
    for i in range(4):
        save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"broken")
    refuse_folder("3.png cannot be read", "--skip-bad")
    count_reads.clear()
    for _ in range(2):
        assert len(load_folder(skip_bad=True).images) == 3
        assert capsys.readouterr().err.startswith(f"skipped {folder / '3.png'}: ")
        refuse_folder("3.png cannot be read")
    assert {os.path.basename(read) for read in count_reads} == {"3.png"}
    count_reads.clear()
    (folder / "3.png").unlink()
    assert len(load_folder().images) == 3 and not count_reads


def test_an_error_of_the_disk_is_not_remembered(folder, load_folder, refuse_folder, monkeypatch):
    save(folder / "1.png", "red")
    save(folder / "2.png", "blue")

    def fails(path, *mode, real=open, **options):
        if str(path).endswith("1.png"):
            raise OSError(5, "Input/output error")
        return real(path, *mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", fails)
        refuse_folder("1.png cannot be read: Input/output error")
        assert len(load_folder(skip_bad=True).images) == 1
    assert load_folder().images[:, 9, 9, 0].tolist() == [255, 0]


def test_another_folder_with_the_same_names_is_another_folder(tmp_path, load_folder):
    for name, colour in (("x", "red"), ("y", "blue")):
        os.utime(save(tmp_path / name / "1.bmp", colour), ns=(1, 1))
    reds = [load_folder(data_dir=tmp_path / name).images[0, 9, 9, 0] for name in "xy"]
    assert reds == [255, 0]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_where_the_system_has_caches_and_private(variable, folder, tmp_path, monkeypatch):
    save(folder / "1.png")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    data.load("folder", RGB32, data_dir=folder)
    place = tmp_path / "home" / ("dcgan_keras" if variable == "XDG_CACHE_HOME" else ".cache/dcgan_keras")
    assert sorted(path.suffix for path in place.iterdir()) == [".images", ".json"]
    if os.name == "posix":
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def wrong_rows(path):
    note = json.loads(path.read_text())
    path.write_text(json.dumps({**note, "files": [["1.png", 0]]}))


DAMAGES = [
    empty,
    lambda path: os.truncate(path, path.stat().st_size - 1),
    lambda path: path.write_bytes(b"no cache" * 20_000),
    Path.unlink,
]
DAMAGES = [(damage, suffix) for damage in DAMAGES for suffix in (".images", ".json")]


@pytest.mark.parametrize(
    ("damage", "suffix"), [*DAMAGES, (lambda path: path.write_text("[1]"), ".json"), (wrong_rows, ".json")]
)
def test_a_damaged_cache_is_made_anew(damage, suffix, folder, cache, load_folder):
    save(folder / "1.png")
    load_folder()
    damage(*cache.glob(f"*{suffix}"))
    assert (load_folder().images[0] == (255, 0, 0)).all() and len(left_behind(cache)) == 2


@pytest.mark.parametrize("after", range(4))
def test_an_interrupt_loses_no_image_and_doubles_none(after, folder, cache, load_folder, monkeypatch, count_reads):
    for i, colour in enumerate(("red", "lime", "blue", "white")):
        save(folder / f"{i}.png", colour)
    (folder / "1.png").write_bytes(b"broken")
    count = reader.decode

    def interrupt(source, *rest):
        if len(count_reads) == after:
            raise KeyboardInterrupt
        return count(source, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reader, "decode", interrupt)
        load_folder(skip_bad=True)
    images = load_folder(skip_bad=True).images
    assert images[:, 9, 9].tolist() == [[255, 0, 0], [0, 0, 255], [255, 255, 255]]
    assert len(count_reads) == (5 if after > 1 else 4)  # only the broken one is tried again
    assert sorted(path.suffix for path in left_behind(cache)) == [".images", ".json"]


def test_decoding_that_takes_a_while_shows_how_far_it_is(folder, load_folder, monkeypatch, capsys):
    for i in range(3):
        save(folder / f"{i}.png")
    monkeypatch.setattr(reader, "QUIET", 0)
    load_folder()
    shown = capsys.readouterr().out
    assert shown.startswith("decoding images, once: 0 of 3") and shown.endswith("3 of 3\n")
    load_folder()
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is /dev/full")
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(folder, cache, monkeypatch, refuse_folder):
    save(folder / "1.png")

    def full(path, mode="r", real=open, **options):
        return real("/dev/full" if Path(path).name == "images" and mode == "wb" else path, mode, **options)

    monkeypatch.setattr("builtins.open", full)
    refuse_folder("No space left on device", "XDG_CACHE_HOME")
    assert not left_behind(cache)


def test_a_disk_that_is_too_small_is_reported_before_any_work(folder, cache, monkeypatch, count_reads, refuse_folder):
    save(folder / "1.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    refuse_folder("GB left", "XDG_CACHE_HOME")
    assert not count_reads and not left_behind(cache)


@pytest.mark.parametrize("name", ["cache", "cache/deep"])
def test_a_cache_that_cannot_be_made_is_refused(name, folder, tmp_path, refuse_folder):
    save(folder / "1.png")
    (tmp_path / "cache").write_text("a file")
    refuse_folder(str(tmp_path / name), "XDG_CACHE_HOME", cache_dir=tmp_path / name)


def test_what_a_killed_run_left_is_cleared_and_what_a_living_one_writes_is_not(folder, cache, load_folder):
    save(folder / "1.png")
    for name, *times in ((".partial-old", 1, 1), (".partial-new", 1, time.time())):  # of the folder and of a file in it
        (cache / name).mkdir(parents=True)
        (cache / name / "images").touch()
        for path, modified in zip((cache / name / "images", cache / name), reversed(times), strict=True):
            os.utime(path, (modified, modified))
    load_folder()
    assert sorted(path.suffix or path.name for path in left_behind(cache)) == [".images", ".json", ".partial-new"]


def test_memory_does_not_grow_with_the_folder(folder, load_folder):
    save(folder / "0.bmp", "red", (64, 64))
    for i in range(1, 1000):
        os.link(folder / "0.bmp", folder / f"{i}.bmp")
    tracemalloc.start()  # not of the cache's pages, which the system takes back when it wants to
    for _, batch in zip(range(20), data.batches(load_folder(shape=(64, 64, 3)), 50, (-0.5, 0.5), seed=0), strict=False):
        assert batch[0].shape == (50, 64, 64, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # bytes, for some copies of a batch in floats; all images have 12.3e6


@functools.cache
def small_images():
    noise = Image.effect_noise((9, 9), 90)
    formats = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "ICNS", "PCX", "SGI", "QOI", "DDS"]
    formats += ["JPEG2000", "AVIF"]
    colour = [encoded(noise.convert("RGB"), name) for name in formats if name in Image.SAVE]  # as Pillow was built
    return [*colour, encoded(noise.convert("P"), "PNG"), encoded(noise, "GIF"), png_of(9, 9)]


@pytest.mark.parametrize("examples", SHORT_AND_LONG)
def test_fuzz_the_image_reader(examples):
    Image.init()
    contents = mutations(*small_images()) | st.binary()
    fuzz(lambda content: decode(io.BytesIO(content), (4, 4, 3)), contents, examples)
