"""Tables as Markdown and as CSV."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from command import replacing


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ("| " + " | ".join(row) + " |\n" for row in rows)
    return "".join([head, "| --- " * len(rows[0]) + "|\n", *body])


def quantiles(low: float, median: float, high: float, digits: int = 2) -> str:
    """As in "0.36 (0.35 to 0.45)"."""
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    with replacing(path) as beside, open(beside, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
