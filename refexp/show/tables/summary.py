"""Summarise many runs: tables with mean and deviation over seeds, missing runs, published figures, and plots."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from refexp.errors import first_line
from refexp.show.harmless import harmless
from refexp.show.tables.choose import Wanted, make_tables
from refexp.show.tables.notes import failures, head_of
from refexp.show.tables.page import write_sweep_report
from refexp.show.tables.published import read_figures
from refexp.show.tables.runs import Runs, find_runs
from refexp.show.tables.table import Table
from refexp.show.tables.write import remove_tables, to_rich, write_runs, write_tables

log = logging.getLogger(__name__)

FOLDER = "summary"


@dataclass(frozen=True)
class Summary:
    """The result. head: the number of runs and the settings that all share. files: paths of the written files."""

    runs: Runs
    head: str
    tables: list[Table]
    files: list[Path]


def summarise(folders: Sequence[Path], wanted: Wanted) -> Summary:
    """Lay out the runs below these folders and write the files. Raises RefexpError for an unknown key or folder."""
    runs = find_runs(folders)
    tables = make_tables(runs, wanted, read_figures(wanted.published))
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    out = wanted.out or common / FOLDER / wanted.layout(folders)
    head, files = head_of(runs), write_runs(runs, out)
    if remove_tables(out) and wanted.out:
        log.warning("--out: the tables that were in %s are replaced", out)
    return Summary(runs, head, tables, files + (write_tables(tables, head, out) if tables else []))


def print_summary(summary: Summary) -> None:
    """Print the tables, their notes, and the paths of the files."""
    say = partial(Console(soft_wrap=True).print, markup=False)
    say(summary.head)
    printed: set[str] = set()  # tables of one summary share notes: print each only once
    for table in summary.tables:
        say(f"\n{table.full_title}", style="italic")
        say(to_rich(table))
        new = [line for line in [*table.notes, *table.troubles] if line not in printed]
        for line in new:
            say(line, style="bold red")
        printed.update(new)
        if table.differences:
            say("\n  ".join(["paired over the same seeds:", *table.differences]))
    if not summary.tables:
        say("no tables: none of these runs has metrics")
        for line in failures(summary.runs.frame):
            say(line, style="bold red")
    names = ", ".join(file.name for file in summary.files)
    say(f"summary in {summary.files[0].parent}: {names}", style="green")


def show_sweep(folder: Path) -> None:
    """Write summary and page of a sweep, or of any folder with runs. Raises RefexpError if there is no run."""
    summary = summarise([folder], Wanted())
    print_summary(summary)
    print(f"report: {write_sweep_report(folder, summary)}")


def summarise_sweep(folder: Path) -> None:
    """The same at the end of a multirun, with pages of the best and the worst run.

    A failure here is only a warning, because the results are already on disk.
    """
    from refexp.show.run import show_extremes  # imports PyTorch, which tables alone do not need

    with harmless("the page of the best or the worst run"):
        pages = [path.name for path in show_extremes(folder)]
        sent = "; then refexp push sends its pictures to W&B" if any(folder.glob("*/wandb.json")) else ""
        any_run = f"Of any run: refexp show {folder}/N{sent}"
        print(f"pages of the best and the worst run: {', '.join(pages) or 'none'}. {any_run}")
    try:
        show_sweep(folder)
    except Exception as error:
        log.warning("no summary: %s. To try again: refexp summary %s", first_line(error), folder)
        log.debug("", exc_info=True)
