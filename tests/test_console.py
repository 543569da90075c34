import csv

import numpy as np
import pytest
from conftest import bad_input

import command
from reproduce import console
from reproduce.console import AUTHOR, WINDOW


def rows(steps):
    """Losses that say which step they are of: dloss rises by a millionth a step, gloss falls from 3."""
    return [(step, 1 + step / 1e6, 3 - step / 1e6, 0.5, 0.5) for step in range(1, steps + 1)]


def run_of(folder, steps):
    folder.mkdir(exist_ok=True)
    lines = [f"{step},{dloss:.9g},{gloss:.9g}\n" for step, dloss, gloss, *_ in rows(steps)]
    (folder / "losses.csv").write_text("step,dloss,gloss\n" + "".join(lines))
    return folder


def test_the_authors_numbers_are_in_the_ranges_that_were_read_off_the_pictures_independently():
    ranges = [
        ((0.352, 0.445), (4.2, 8.4)),
        ((0.360, 0.455), (2.5, 4.8)),
        ((0.392, 0.764), (1.8, 4.7)),
        ((0.379, 0.626), (2.0, 3.8)),
        ((0.421, 1.095), (1.7, 3.4)),
        ((0.096, 0.553), (2.0, 4.4)),
    ]
    for moment, expected in zip(AUTHOR, ranges, strict=True):
        for values, (least, most), digits in zip(zip(*moment.losses, strict=True), expected, (3, 1), strict=True):
            assert (min(values), max(values)) == pytest.approx((least, most), abs=0.51 * 10**-digits)


def test_losses_in_short_have_every_step_once_and_the_steps_around_each_moment():
    found = console.spans(rows(26_300))
    blocks = [span for span in found if span.steps <= console.BLOCK]
    assert [span.first for span in blocks] == [1, *(span.last + 1 for span in blocks[:-1])] and blocks[
        -1
    ].last == 26_300
    windows = [(span.first, span.last) for span in found if span.steps == WINDOW]
    assert windows == [(9485, 10484), (25272, 26271), (25301, 26300)]
    (first,) = (span for span in found if span.first == 9485)
    np.testing.assert_allclose(first.dloss, 1 + (9485 + np.array([0, 99.9, 499.5, 899.1])) / 1e6)
    np.testing.assert_allclose(first.gloss[2:], 3 - (9485 + np.array([499.5, 99.9])) / 1e6)


def test_moments_of_unknown_steps_are_beside_the_end_of_the_run_and_others_beside_their_steps():
    table = dict(zip([moment.name for moment in AUTHOR], console.compared(console.spans(rows(26_300))), strict=True))
    beside = {name: span and (span.first, span.last) for name, (_, span) in table.items()}
    assert beside["9,984"] == (9485, 10484) and beside["48,577"] is None
    assert beside["115 of a later call"] == beside["99 of the last call"] == (25301, 26300)


def test_a_short_run_has_no_windows():
    assert {span for _, span in console.compared(console.spans(rows(300)))} == {None}
    assert console.spans([]) == []


def test_the_losses_in_short_stand_for_the_losses(tmp_path):
    whole = run_of(tmp_path / "whole", 11_000)
    short = tmp_path / "short"
    short.mkdir()
    console.write_spans(console.read_spans(whole), short / console.SUMMARY)
    for one, other in zip(console.read_spans(whole), console.read_spans(short), strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2:], other[2:], atol=5e-5)
    assert (short / console.SUMMARY).stat().st_size < (whole / "losses.csv").stat().st_size / 50


def test_the_table_as_markdown_and_as_csv(tmp_path):
    table = console.compared(console.spans(rows(11_000)))
    lines = console.markdown(table).splitlines()
    assert len(lines) == 8 and all(line.count("|") == 7 for line in lines)
    assert lines[2] == (
        "| 9,984 | 0.36 (0.35 to 0.45) | 4.26 (4.18 to 8.40) | 9,485 to 10,484 | 1.01 (1.01 to 1.01) | "
        "2.99 (2.99 to 2.99) |"
    )
    console.write_table(table, tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert read[0]["author_gloss_median"] == "4.2592" and read[0]["dloss_50"] == "1.0100"
    assert read[1]["author_dloss_least"] == "0.3598" and read[1]["first"] == ""


def test_the_last_console_is_beside_the_end_of_each_run():
    """A run of less than 1,000 steps has no such end."""
    runs = {name: console.spans(rows(steps)) for name, steps in (("long", 11_000), ("short", 300))}
    *_, author, long = console.last_console(runs).splitlines()
    assert author == "| the author's last console | 0.10 | 0.10 | 0.32 | 0.50 | 2.00 | 2.11 | 3.73 | 4.39 |"
    assert long == "| long | 1.01 | 1.01 | 1.01 | 1.01 | 2.99 | 2.99 | 2.99 | 2.99 |"


def test_bad_folders_are_one_line(run_here, tmp_path):
    assert "no losses.csv" in bad_input(run_here(console.main, "--run", tmp_path))
    for text in ("", "first,last\n", ",".join(console.COLUMNS) + "\n1,2,x\n"):
        (tmp_path / console.SUMMARY).write_text(text)
        with pytest.raises(command.InputError, match="summary"):
            console.read_spans(tmp_path)
    (tmp_path / "losses.csv").write_text("step,dloss,gloss\n")
    with pytest.raises(command.InputError, match="no losses"):
        console.read_spans(tmp_path)


def test_the_command_prints_the_table_and_writes_the_losses_in_short(run_here, tmp_path):
    run = run_of(tmp_path / "run", 10_600)
    result = run_here(console.main, "--run", run, "--summary", tmp_path / "short.csv")
    assert result.returncode == 0 and "| 9,985" not in result.stdout and "9,485 to 10,484" in result.stdout
    assert (tmp_path / "short.csv").read_text().startswith("first,last,dloss_least")
