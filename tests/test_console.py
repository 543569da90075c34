import csv

import numpy as np
from conftest import bad_input

from reproduce import console
from reproduce.console import AUTHOR, WINDOW
from training import logs


def rows(steps):
    """Losses that say which step they are of: dloss rises by a millionth a step, gloss falls from 3."""
    return [(step, 1 + step / 1e6, 3 - step / 1e6) for step in range(1, steps + 1)]


def test_a_summary_has_every_step_once_and_the_steps_around_each_snapshot():
    found = console.spans(rows(26_300))
    blocks = [span for span in found if span.steps <= console.BLOCK]
    assert [span.first for span in blocks] == [1, *(span.last + 1 for span in blocks[:-1])]
    assert blocks[-1].last == 26_300
    windows = [(span.first, span.last) for span in found if span.steps == WINDOW]
    assert windows == [(9485, 10484), (25272, 26271), (25301, 26300)]
    (first,) = (span for span in found if span.first == 9485)
    np.testing.assert_allclose(first.dloss, 1 + (9485 + np.array([0, 99.9, 499.5, 899.1])) / 1e6)


def test_only_the_first_two_snapshots_are_compared_at_equal_steps():
    table = dict(zip([moment.name for moment in AUTHOR], console.compared(console.spans(rows(90_100))), strict=True))
    steps = {name: span and (span.first, span.last) for name, (_, span) in table.items()}
    assert steps["9,984"] == (9485, 10484) and steps["25,771"] == (25272, 26271)
    assert steps["at least 48,577"] == steps["at least 49,028"] == (89_751, 90_000)
    assert steps["115 of a later call"] == steps["99 of the last call"] == (89_101, 90_100)
    assert {span for _, span in console.compared(console.spans(rows(300)))} == {None}


def test_the_command_prints_the_table_and_its_summary_stands_for_the_losses(run_here, tmp_path):
    run, short = tmp_path / "run", tmp_path / "short"
    run.mkdir()
    short.mkdir()
    lines = (f"{step},{dloss:.9g},{gloss:.9g},0.5,0.5\n" for step, dloss, gloss in rows(26_300))
    (run / "losses.csv").write_text(logs.LOSSES + "\n" + "".join(lines))
    whole = run_here(console.main, "--run", run, "--summary", short / console.SUMMARY)
    assert whole.returncode == 0 and "9,485 to 10,484 | 1.01 (1.01 to 1.01) | 2.99" in whole.stdout
    assert run_here(console.main, "--run", short).stdout == whole.stdout
    console.write_table(console.compared(console.read_spans(short)), tmp_path / "table.csv")
    first, _, third, *_ = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert first["author_gloss_median"] == "4.2592" and first["dloss_50"] == "1.0100" and third["first"] == ""
    last = console.last_console({"run": console.read_spans(run)}).splitlines()[-1]
    assert last.startswith("| run | 1.03 | 1.03 | 1.03 | 1.03 | 2.97")


def test_bad_folders_are_one_line(run_here, tmp_path):
    assert "no losses.csv" in bad_input(run_here(console.main, "--run", tmp_path))
    for text in ("", "first,last\n", ",".join(console.COLUMNS) + "\n1,2,x\n"):
        (tmp_path / console.SUMMARY).write_text(text)
        assert "summary" in bad_input(run_here(console.main, "--run", tmp_path))
