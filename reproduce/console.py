"""The losses on the author's console next to those of a run, and a summary of a run's losses.

    python -m reproduce.console --run samples/cifar10                    print the table
    python -m reproduce.console --run samples/cifar10 --summary FILE.csv     write the summary too

The author committed six snapshots of the figure within fourteen hours. Each is a screenshot of samples and of a console
above, which prints the losses of every iteration of the current call. The first two snapshots are from the same
call, which began with new weights, so their steps are known. The others may have had more steps in earlier calls: next
to them stand the steps of this run whose losses are nearest (about 90,000), or its last ones.
"""

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import command
from command import InputError
from reproduce import tables

WINDOW = 1000  # steps of a run around one of the author's snapshots
BLOCK = 250  # steps in a row of the summary
NEAREST = 90_000  # the steps of this run whose losses are nearest to those of the third and the fourth snapshot
QUANTILES = (0, 0.1, 0.5, 0.9)
SUMMARY = "losses_summary.csv"


class Moment(NamedTuple):
    """A snapshot of the author's figure: the last iteration on its console, and the losses there."""

    name: str
    step: int | None  # of this run, to compare with; None: its last steps
    losses: np.ndarray  # (2, n): dloss and gloss

    def ranges(self) -> np.ndarray:
        """(2, 3): minimum, median and maximum of dloss and of gloss."""
        return np.quantile(self.losses, (0, 0.5, 1), axis=1).T


def author_moments() -> list[Moment]:
    """Read off the author's screenshots.

    The public repository of the article's site, ctmakro/site, has all six in the history of
    content/on_learning/gan_cifar_32.png, committed on 2017-02-08 between 01:39 and 15:23 (UTC+8).
    """
    with open(Path(__file__).with_name("author_losses.csv"), newline="") as file:
        _, *rows = csv.reader(file)
    moments = []
    for (name, step), losses in itertools.groupby(rows, key=lambda row: row[:2]):
        moments.append(Moment(name, int(step) if step else None, np.array([row[2:] for row in losses], float).T))
    return moments


AUTHOR = author_moments()


class Span(NamedTuple):
    """The losses over some steps: minimum, 10th percentile, median and 90th percentile."""

    first: int
    last: int
    dloss: tuple[float, ...]
    gloss: tuple[float, ...]

    @property
    def steps(self) -> int:
        return self.last - self.first + 1

    def row(self) -> list:
        """The values of `COLUMNS`."""
        return [self.first, self.last, *(f"{value:.4f}" for value in (*self.dloss, *self.gloss))]


COLUMNS = ("first", "last", *(f"{loss}_{name}" for loss in ("dloss", "gloss") for name in ("least", "10", "50", "90")))


def window(step: int) -> tuple[int, int]:
    """The first and the last of the `WINDOW` steps around a step."""
    return step - WINDOW // 2 + 1, step + WINDOW // 2


def spans(losses: Iterable[tuple]) -> list[Span]:
    """A run's losses by quantiles: every `BLOCK` steps, the steps around each snapshot, and the last `WINDOW`.

    losses: rows that begin with step, dloss and gloss, without gaps, as `read_losses` gives them.
    """
    rows = np.array([row[:3] for row in losses])
    if not len(rows):
        return []
    first, last = int(rows[0, 0]), int(rows[-1, 0])
    wanted = [(begin, min(begin + BLOCK - 1, last)) for begin in range(first, last + 1, BLOCK)]
    around = sorted({window(moment.step) for moment in AUTHOR if moment.step}) + [(last - WINDOW + 1, last)]
    wanted += [(begin, end) for begin, end in around if first <= begin and end <= last]
    quantiles = (np.quantile(rows[begin - first : end - first + 1, 1:], QUANTILES, axis=0).T for begin, end in wanted)
    return [Span(*ends, *map(tuple, values.tolist())) for ends, values in zip(wanted, quantiles, strict=True)]


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
            numbers = [tuple(map(float, row)) for row in rows]
            found = [Span(int(row[0]), int(row[1]), row[2:6], row[6:10]) for row in numbers]
        except FileNotFoundError:
            raise InputError(f"{run} has no losses.csv; name the folder of a run with --run") from None
        except (ValueError, IndexError) as error:
            raise InputError(f"{path} is not what reproduce.console writes with --summary") from error
    if not found:
        raise InputError(f"{path} has no losses; name the folder of a run with --run")
    return found


def last_window(found: list[Span]) -> Span | None:
    """The last `WINDOW` steps of a run, if it has so many."""
    return max((span for span in found if span.steps == WINDOW), key=lambda span: span.last, default=None)


def compared(found: list[Span]) -> list[tuple[Moment, Span | None]]:
    """Each snapshot with the run's steps around it: `WINDOW` of them, else the `BLOCK` up to `NEAREST`, else None."""
    by_steps = {(span.first, span.last): span for span in found}

    def around(step):
        block = by_steps.get((step - BLOCK + 1, step)) if step == NEAREST else None
        return by_steps.get(window(step), block)

    return [(moment, around(moment.step) if moment.step else last_window(found)) for moment in AUTHOR]


def markdown(table: list[tuple[Moment, Span | None]]) -> str:
    """What `compared` gives, as Markdown."""
    rows = [["author's iteration", "dloss: median (minimum to maximum)", "gloss"]]
    rows[0] += ["this run's steps", "dloss: median (10% to 90%)", "gloss"]
    for moment, span in table:
        author = (tables.quantiles(*values) for values in moment.ranges())
        run = [""] * 3
        if span:
            run = [
                f"{span.first:,} to {span.last:,}",
                tables.quantiles(*span.dloss[1:]),
                tables.quantiles(*span.gloss[1:]),
            ]
        rows.append([moment.name, *author, *run])
    return tables.markdown(rows)


def write_table(table: list[tuple[Moment, Span | None]], path: Path) -> None:
    """Write what `compared` gives as CSV; empty where the run has no such steps."""
    names = (f"author_{loss}_{name}" for loss in ("dloss", "gloss") for name in ("least", "median", "most"))
    rows = [["iteration", *names, *COLUMNS]]
    for moment, span in table:
        author = (f"{value:.4f}" for value in moment.ranges().ravel())
        rows.append([moment.name, *author, *(span.row() if span else [""] * len(COLUMNS))])
    tables.write_csv(path, rows)


def last_console(runs: dict[str, list[Span]]) -> str:
    """The losses on the author's last console and in the last `WINDOW` steps of each run, as Markdown."""
    rows = {"the author's last console": np.quantile(AUTHOR[-1].losses, QUANTILES, axis=1).T.ravel()}
    for name, found in runs.items():
        if last := last_window(found):
            rows[name] = (*last.dloss, *last.gloss)
    head = ["", *(f"{loss}: {name}" for loss in ("dloss", "gloss") for name in ("minimum", "10%", "median", "90%"))]
    return tables.markdown([head, *([name, *(f"{value:.2f}" for value in row)] for name, row in rows.items())])


def main(arguments: list[str] | None = None) -> int:
    parser = command.Parser(prog="python -m reproduce.console", description="Compare the author's losses with a run's.")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the folder of a run")
    parser.add_argument("--summary", type=Path, metavar="FILE.csv", help="write a summary of the run's losses")
    arguments = parser.parse_args(arguments)
    found = read_spans(arguments.run)
    if arguments.summary:
        tables.write_csv(arguments.summary, [COLUMNS, *(span.row() for span in found)])
    print(markdown(compared(found)), end="")
    return 0


if __name__ == "__main__":
    command.run(main)
