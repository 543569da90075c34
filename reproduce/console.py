"""The losses on the author's console next to those of a run, and a summary of a run's losses.

    python -m reproduce.console --run samples/cifar10                    print the table
    python -m reproduce.console --run samples/cifar10 --summary FILE.csv     write the summary too

The author committed six snapshots of the figure within fourteen hours. Each is a screenshot of samples and of a console
above, which prints the losses of every iteration of the current call. The first two snapshots are from the same
call, which began with new weights, so their steps are known. The others may have had more steps in earlier calls: next
to them stand the steps of this run whose losses are nearest (about 90,000), or its last ones.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import command
from command import InputError

WINDOW = 1000  # steps of a run around one of the author's snapshots
BLOCK = 250  # steps in a row of the summary
NEAREST = 90_000  # the steps of this run whose losses are nearest to those of the third and the fourth snapshot
QUANTILES = (0, 0.1, 0.5, 0.9)
SUMMARY = "losses_summary.csv"


class Moment(NamedTuple):
    """A snapshot of the author's figure: the last iteration on its console, and the losses."""

    name: str
    step: int | None  # of this run, to compare with; None: its last steps
    losses: list[tuple[float, float]]  # dloss and gloss


# Read off the author's screenshots. The public repository of the article's site, ctmakro/site, has all six in the
# history of content/on_learning/gan_cifar_32.png, committed on 2017-02-08 between 01:39 and 15:23 (UTC+8).
AUTHOR = [
    Moment("9,984", 9984, [(0.4452, 4.1758), (0.3626, 4.2592), (0.3518, 8.3992)]),
    Moment(
        "25,771",
        25771,
        [
            *((0.3598, 4.5848), (0.4244, 4.8077), (0.4005, 3.0480), (0.4455, 3.9025)),
            *((0.3914, 3.1546), (0.4554, 2.4929), (0.3946, 3.3793)),
        ],
    ),
    Moment(
        "48,577 of its call or more",
        NEAREST,
        [
            *((0.3924, 4.7336), (0.3996, 3.4104), (0.4361, 2.7300), (0.4559, 4.4293)),
            *((0.4809, 2.4965), (0.7642, 1.8413), (0.5259, 2.2592)),
        ],
    ),
    Moment(
        "49,028 of its call or more",
        NEAREST,
        [
            *((0.4972, 2.2726), (0.3786, 3.6091), (0.4567, 3.8371), (0.5134, 2.0314)),
            *((0.4676, 3.2328), (0.6260, 3.5208), (0.5139, 2.1618)),
        ],
    ),
    Moment(
        "115 of a later call",
        None,
        [
            *((0.5374, 2.3986), (1.0949, 2.8082), (0.7012, 1.8496), (0.8828, 2.2196)),
            *((0.7674, 1.6855), (0.7536, 2.5989), (0.4206, 3.3621)),
        ],
    ),
    Moment(
        "99 of the last call",
        None,
        [
            *((0.4809, 4.4365), (0.3837, 3.6193), (0.3564, 2.0018), (0.1502, 3.3373)),
            *((0.5525, 3.8465), (0.2800, 2.1595), (0.0968, 4.2216), (0.0958, 4.3772)),
        ],
    ),
]


class Span(NamedTuple):
    """The losses over some steps: minimum, 10th percentile, median and 90th percentile."""

    first: int
    last: int
    dloss: tuple[float, ...]
    gloss: tuple[float, ...]

    @property
    def steps(self) -> int:
        return self.last - self.first + 1


def window(step: int) -> tuple[int, int]:
    """The first and the last of the `WINDOW` steps around a step."""
    return step - WINDOW // 2 + 1, step + WINDOW // 2


def spans(losses: Iterable[tuple]) -> list[Span]:
    """A run's losses by quantiles: every `BLOCK` steps, the steps around each snapshot, and the last ones.

    losses: rows that begin with step, dloss and gloss, without gaps, as `read_losses` gives them.
    """
    rows = np.array([row[:3] for row in losses])
    if not len(rows):
        return []
    first, last = int(rows[0, 0]), int(rows[-1, 0])
    wanted = [(begin, min(begin + BLOCK - 1, last)) for begin in range(first, last + 1, BLOCK)]
    around = sorted({window(moment.step) for moment in AUTHOR if moment.step}) + [(last - WINDOW + 1, last)]
    wanted += [(begin, end) for begin, end in around if first <= begin and end <= last]
    found = []
    for begin, end in wanted:
        quantiles = np.quantile(rows[begin - first : end - first + 1, 1:], QUANTILES, axis=0).T
        found.append(Span(begin, end, *(tuple(map(float, column)) for column in quantiles)))
    return found


COLUMNS = ("first", "last", *(f"{loss}_{name}" for loss in ("dloss", "gloss") for name in ("least", "10", "50", "90")))


def write_spans(found: list[Span], path: Path) -> None:
    with command.replacing(path) as beside, open(beside, "w", newline="") as file:
        rows = [(s.first, s.last, *(f"{value:.4f}" for value in (*s.dloss, *s.gloss))) for s in found]
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def read_spans(run: Path) -> list[Span]:
    """The summary of a run's folder: of its losses.csv, or else its losses_summary.csv."""
    path = run / "losses.csv"
    if path.is_file():
        from training import logs  # here: it loads TensorFlow

        found = spans(logs.read_losses(path))
    else:
        path = run / SUMMARY
        try:
            with open(path, newline="") as file:
                names, *rows = csv.reader(file)
            if tuple(names) != COLUMNS:
                raise ValueError
            numbers = [[float(value) for value in row] for row in rows]
            found = [Span(int(row[0]), int(row[1]), tuple(row[2:6]), tuple(row[6:10])) for row in numbers]
        except FileNotFoundError:
            raise InputError(f"{run} has no losses.csv; name the folder of a run with --run") from None
        except (ValueError, IndexError) as error:
            raise InputError(f"{path} is not what reproduce.console writes with --summary") from error
    if not found:
        raise InputError(f"{path} has no losses; name the folder of a run with --run")
    return found


def compared(found: list[Span]) -> list[tuple[Moment, Span | None]]:
    """Each snapshot with the run's steps around it: 1,000 of them, else the `BLOCK` with that step, else None."""
    windows = {(span.first, span.last): span for span in found if span.steps == WINDOW}
    last = last_window(found)

    def around(step):
        block = (span for span in found if span.steps <= BLOCK and span.first <= step <= span.last)
        return windows.get(window(step)) or (next(block, None) if step == NEAREST else None)

    return [(moment, around(moment.step) if moment.step else last) for moment in AUTHOR]


def last_window(found: list[Span]) -> Span | None:
    """The last 1,000 steps of a run, if it has so many."""
    return max((span for span in found if span.steps == WINDOW), key=lambda span: span.last, default=None)


def markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(table: list[tuple[Moment, Span | None]]) -> str:
    """The table as Markdown."""
    lines = [
        "| author's iteration | dloss: median (minimum to maximum) | gloss | this run's steps | "
        "dloss: median (10% to 90%) | gloss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for moment, span in table:
        cells = [moment.name]
        for column in (0, 1):
            values = [pair[column] for pair in moment.losses]
            cells.append(f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        cells.append(f"{span.first:,} to {span.last:,}" if span else "")
        for values in (span.dloss, span.gloss) if span else ():
            _, low, median, high = values
            cells.append(f"{median:.2f} ({low:.2f} to {high:.2f})")
        lines.append(markdown_row(cells + [""] * (6 - len(cells))))
    return "\n".join(lines) + "\n"


def last_console(runs: dict[str, list[Span]]) -> str:
    """The losses on the author's last console and in the last 1,000 steps of each run, as Markdown."""
    quantiles = ("minimum", "10%", "median", "90%")
    names = ["", *(f"{loss}: {name}" for loss in ("dloss", "gloss") for name in quantiles)]
    lines = [markdown_row(names), "| --- " * len(names) + "|"]
    rows = {"the author's last console": np.quantile(AUTHOR[-1].losses, QUANTILES, axis=0).T.ravel()}
    for name, found in runs.items():
        if last := last_window(found):
            rows[name] = (*last.dloss, *last.gloss)
    lines += [markdown_row([name, *(f"{value:.2f}" for value in row)]) for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def write_table(table: list[tuple[Moment, Span | None]], path: Path) -> None:
    """Write the table's numbers as CSV; empty where the run has no such steps."""
    names = ("least", "median", "most")
    header = ["iteration", *(f"author_{loss}_{name}" for loss in ("dloss", "gloss") for name in names), *COLUMNS]
    rows = []
    for moment, span in table:
        row = [moment.name]
        for column in (0, 1):
            values = [pair[column] for pair in moment.losses]
            row += [f"{value:.4f}" for value in (min(values), np.median(values), max(values))]
        row += [span.first, span.last, *(f"{value:.4f}" for value in (*span.dloss, *span.gloss))] if span else []
        rows.append(row + [""] * (len(header) - len(row)))
    with command.replacing(path) as beside, open(beside, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def main(arguments: list[str] | None = None) -> int:
    parser = command.Parser(prog="python -m reproduce.console", description="Compare the author's losses with a run's.")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the folder of a run")
    parser.add_argument("--summary", type=Path, metavar="FILE.csv", help="write a summary of the run's losses")
    arguments = parser.parse_args(arguments)
    found = read_spans(arguments.run)
    if arguments.summary:
        write_spans(found, arguments.summary)
    print(markdown(compared(found)), end="")
    return 0


if __name__ == "__main__":
    command.run(main)
