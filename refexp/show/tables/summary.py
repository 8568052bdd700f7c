"""Many runs in one table: mean and deviation over seeds, what is missing, published figures beside, plots.

    refexp summary OUT                                        # a sweep's folder, or one with runs in it
    refexp summary OUT rows=shots cols=matcher metric=bbox/nAP,segm/nAP50
    refexp summary OUT MORE cols=postprocess.topk.k compare=50,100 out=DIR

rows, cols     settings as one types them on the command line; chosen from what differs if not given
metric         names of metrics.json, each with a table and a plot of its own
compare        two values of cols, paired by seed; not needed where cols has two
published      a CSV of published figures; sweeps/published.csv of the checkout if not given
out            where runs.csv, table.md, table.tex and the plots go; if not given OUT/summary, and of several folders
               summary/ in the one that holds them all

Runs that differ in more than rows, cols and seed are never averaged: they get tables of their own.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from refexp.errors import RefexpError, did_you_mean, first_line

if TYPE_CHECKING:
    from refexp.show.tables.runs import Runs
    from refexp.show.tables.table import Table

log = logging.getLogger(__name__)

FOLDER = "summary"


@dataclass(frozen=True)
class Wanted:
    """The command's keys; None is chosen from the runs."""

    rows: str | None = None
    cols: str | None = None
    metric: str | None = None
    compare: str | None = None
    published: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Summary:
    """What came of it. head: how many runs there are, and the settings all have in common. files: what was written."""

    runs: Runs
    head: str
    tables: list[Table]
    files: list[Path]


def summarise(folders: Sequence[Path], wanted: Wanted) -> Summary:
    """Lay out the runs below these folders and write the files. Raises RefexpError for a key or folder that is none."""
    # These import pandas and Matplotlib, which --help need not wait for.
    from refexp.show.tables.choose import make_tables
    from refexp.show.tables.notes import head_of
    from refexp.show.tables.published import read_figures
    from refexp.show.tables.runs import find_runs
    from refexp.show.tables.write import write_runs, write_tables

    runs = find_runs(folders)
    tables = make_tables(runs, wanted, read_figures(wanted.published))
    out = wanted.out or Path(os.path.commonpath([folder.absolute() for folder in folders])) / FOLDER
    head, files = head_of(runs), write_runs(runs, out)
    return Summary(runs, head, tables, files + (write_tables(tables, head, out) if tables else []))


def show(summary: Summary) -> None:
    """Print the tables, what must be said of them and where the files are."""
    from rich.console import Console

    from refexp.show.tables.notes import failures
    from refexp.show.tables.write import to_rich

    say = partial(Console(soft_wrap=True).print, markup=False)
    say(summary.head)
    told: set[str] = set()
    for table in summary.tables:
        say(f"\n{table.full_title}", style="italic")
        say(to_rich(table))
        said = [line for line in [*table.notes, *table.troubles] if line not in told]
        for line in said:
            say(line, style="bold red")
        told.update(said)
        if table.differences:
            say("\n  ".join(["paired over the same seeds:", *table.differences]))
    if not summary.tables:
        say("no tables: none of these runs has metrics")
        for line in failures(summary.runs.frame):
            say(line, style="bold red")
    names = ", ".join(file.name for file in summary.files)
    say(f"summary in {summary.files[0].parent}: {names}", style="green")


def show_sweep(folder: Path) -> None:
    """Summary and page of a sweep, or of any folder with runs in it. Raises RefexpError if there is none."""
    from refexp.show.tables.page import write_sweep_report

    summary = summarise([folder], Wanted())
    show(summary)
    print(f"report: {write_sweep_report(folder, summary)}")


def summarise_sweep(folder: Path) -> None:
    """The same at the end of a multirun. They are extras: what goes wrong is said, and harms no result."""
    try:
        show_sweep(folder)
    except Exception as error:
        log.warning("no summary: %s. Again: refexp summary %s", first_line(error), folder)
        log.debug("", exc_info=True)


def parse(arguments: Sequence[str]) -> tuple[list[Path], Wanted]:
    """Folders and keys of the command line. Raises RefexpError for a key that is none."""
    keys = tuple(Wanted.__dataclass_fields__)
    folders, given = [], {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or Path(argument).exists():
            folders.append(Path(argument))
        elif key not in keys:
            raise RefexpError(f"{key}: no such key. {did_you_mean(key, keys)}")
        else:
            given[key] = Path(value) if key in ("published", "out") else value
    if not folders:
        raise RefexpError("which runs? Give the folder of a sweep: refexp summary outputs/...")
    return folders, Wanted(**given)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    """`refexp summary OUT ... [key=value ...]`; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0 if arguments else 1
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        show(summarise(*parse(arguments)))
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: out: cannot write {error.filename}: {error.strerror}; out=DIR names another.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
