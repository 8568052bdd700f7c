"""Many runs in one table: mean and deviation over seeds, what is missing, published figures beside, plots.

    python -m refexp.summary OUT                                        # a sweep's folder, or one with runs in it
    python -m refexp.summary OUT rows=shots cols=matcher metric=bbox/nAP,segm/nAP50
    python -m refexp.summary OUT MORE cols=postprocess.topk.k compare=50,100 out=DIR

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
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from refexp.errors import RefexpError, did_you_mean, first_line
from refexp.files import atomic_path, write_text
from refexp.report.compare import Difference, compare
from refexp.report.keys import CONFIG, FIRST, column, in_order, label, make_axis, overall_metrics, varying
from refexp.report.layout import Table, failures, lay_out, same_data, split, transposed
from refexp.report.published import Published, read_figures, with_published
from refexp.report.render import to_latex, to_markdown, to_rich
from refexp.report.runs import find_runs

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

FOLDER = "summary"
HEADLINES = ("bbox/nAP", "segm/nAP", "semantic/mIoU", "semantic/FB-IoU")
"""What is shown unless `metric` says otherwise, as far as it was measured."""
LONG = 80
"""Characters of a plot's file name, before its ending."""
FACTS = ("note", "targets", "images", "instances", "detections", "classes", "commit", "overrides")


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
class Part:
    """One table, and the comparisons that go with it. plotted: the table as it is drawn, its rows along the axis."""

    name: str
    table: Table
    plotted: Table
    differences: list[Difference]


@dataclass(frozen=True)
class Summary:
    """What came of it. shared: the settings all runs have in common; files: what was written."""

    frame: pd.DataFrame
    shared: str
    parts: list[Part]
    files: list[Path]


def summarise(folders: Sequence[Path], wanted: Wanted) -> Summary:
    """Lay out the runs below these folders and write the files. Raises RefexpError for a key or folder that is none."""
    frame = find_runs(folders)
    figures = read_figures(wanted.published)
    parts = lay_out_all(frame, wanted, figures) if overall_metrics(frame) else []
    out = wanted.out or Path(os.path.commonpath([folder.absolute() for folder in folders])) / FOLDER
    fixed = [key for key in FIRST if CONFIG + key in frame and frame[CONFIG + key].nunique(dropna=False) == 1]
    shared = ", ".join(f"{key}={label(frame[CONFIG + key].iloc[0])}" for key in fixed)
    summary = Summary(frame, shared, parts, write_runs(frame, out))
    if parts:
        write_text(out / "table.md", markdown(summary))
        write_text(out / "table.tex", "\n".join(latex(part) for part in parts))
        summary.files.extend([out / "table.md", out / "table.tex", *draw(parts, out)])
    return summary


def lay_out_all(frame: pd.DataFrame, wanted: Wanted, figures: Sequence[Published]) -> list[Part]:
    """A table for each metric and each set of runs that may be averaged over seeds."""
    rows, cols = choose_keys(frame, wanted)
    measured = overall_metrics(frame)
    metrics = wanted.metric.split(",") if wanted.metric else shown_metrics(frame, figures)
    pair = pair_of(frame, cols, wanted.compare)
    parts = []
    for name, runs in split(frame, rows, cols):
        for metric in metrics:
            if not (wanted.metric or runs[metric].notna().any()) and runs[measured].notna().any(axis=None):
                continue  # these were evaluated, but not on this
            table = lay_out(runs, rows, cols, metric)
            table = replace(table, title=f"{name}: {table.title}" if name else table.title)
            turn = cols and make_axis(table.col_values) and not make_axis(table.row_values)
            table, plotted = (with_published(t, runs, figures) for t in (table, transposed(table) if turn else table))
            # What is on different classes or images is compared only if somebody asks for it.
            fair = wanted.compare is not None or same_data(runs, rows)
            found = compare(runs, rows, cols, *pair, metric) if cols and pair and fair else []
            parts.append(Part(name, table, plotted, found))
    return parts


def shown_metrics(frame: pd.DataFrame, figures: Sequence[Published]) -> list[str]:
    """The headlines that were measured, and what has a published figure for these data sets."""
    measured, data = overall_metrics(frame), set(frame.get(CONFIG + "dataset", ()))
    published = [figure.metric for figure in figures if figure.dataset in data]
    return [m for m in dict.fromkeys([*HEADLINES, *published]) if m in measured] or measured[:1]


def choose_keys(frame: pd.DataFrame, wanted: Wanted) -> tuple[str, str | None]:
    """rows and cols: what was asked for, else shots against what else differs; data sets get tables of their own."""
    given = [key for key in (wanted.rows, wanted.cols) if key]
    for key in given:
        column(frame, key)
    if len(given) == 2 and given[0] == given[1]:
        raise RefexpError(f"rows={wanted.rows} cols={wanted.cols}: give two different keys.")
    free = [key for key in varying(frame, given) if key not in ("seed", "targets", "note")]
    free.sort(key=lambda key: (key != "shots", key == "dataset"))
    rows = wanted.rows or (free.pop(0) if free else "shots" if wanted.cols != "shots" else "dataset")
    return rows, wanted.cols or (free[0] if free else None)


def pair_of(frame: pd.DataFrame, cols: str | None, wanted: str | None) -> tuple[str, str] | None:
    """The two values of cols to compare: those asked for, else the only two that there are; never two data sets."""
    names = [label(value) for value in in_order(frame[column(frame, cols)])] if cols else []
    if wanted is None:
        return (names[0], names[1]) if len(names) == 2 and cols not in ("seed", "dataset") else None
    # A value may hold commas itself: the split whose sides are both known is meant.
    ways = [(wanted[:at], wanted[at + 1 :].lstrip()) for at, sign in enumerate(wanted) if sign == ","]
    known = [way for way in ways if way[0] in names and way[1] in names]
    if not cols or not (known or len(ways) == 1):
        raise RefexpError(f"compare={wanted}: give two values of cols, such as cols=matcher compare=a,b.")
    pair = (known or ways)[0]
    for name in pair:
        if name not in names:
            raise RefexpError(f"compare={wanted}: no run has {cols}={name}. {did_you_mean(name, names)}")
    return pair


def write_runs(frame: pd.DataFrame, out: Path) -> list[Path]:
    """runs.csv, and runs.parquet where pyarrow is installed: a row a run, metrics as fractions."""
    rows = tidy(frame)
    with atomic_path(out / "runs.csv") as temporary:
        rows.to_csv(temporary, index=False)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        log.debug("no runs.parquet: it needs pyarrow (pip install pyarrow)")
        return [out / "runs.csv"]
    mixed = {name: rows[name] for name in rows if rows[name].dtype == object}  # Parquet's columns have one type each
    with atomic_path(out / "runs.parquet") as temporary:
        rows.assign(**{name: values.map(label, na_action="ignore") for name, values in mixed.items()}).to_parquet(
            temporary
        )
    return [out / "runs.csv", out / "runs.parquet"]


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns worth a file: what a run is, every setting that differs, its state, all metrics over all classes."""
    settings = [name for name in frame if name.startswith(CONFIG)]
    differing = [name for name in settings if frame[name].nunique(dropna=False) > 1]
    always = [CONFIG + key for key in (*FIRST, "seed") if CONFIG + key in frame]
    chosen = list(dict.fromkeys(["run", "sweep", "job", "state", "message", "seconds", *always, *differing, *FACTS]))
    short = {name: name.removeprefix(CONFIG) for name in chosen if name.removeprefix(CONFIG) not in frame}
    rows = frame[[*chosen, *overall_metrics(frame)]].rename(columns=short)
    # Numbers that some runs lack have become fractions: 5.0 shots.
    whole = [short.get(name, name) for name in chosen if frame[name].dtype == float and not (frame[name] % 1).any()]
    return rows.astype(dict.fromkeys(whole, "Int64"))


def markdown(summary: Summary) -> str:
    """table.md: counts, what all runs share, then the tables with their comparisons."""
    text = f"{counts(summary.frame)}. All: {summary.shared}\n"
    for part in summary.parts:
        lines = "".join(f"- {difference}\n" for difference in part.differences)
        text += f"\n{to_markdown(part.table)}" + (f"\nPaired over the same seeds:\n\n{lines}" if lines else "")
    return text


def latex(part: Part) -> str:
    """The table, with its comparisons as comments."""
    return to_latex(part.table) + "".join(f"% {difference}\n" for difference in part.differences)


def counts(frame: pd.DataFrame) -> str:
    """`18 runs: 12 completed, 6 failed`."""
    states = frame["state"].value_counts()
    return (
        f"{len(frame)} run{'' if len(frame) == 1 else 's'}: {', '.join(f'{n} {state}' for state, n in states.items())}"
    )


def draw(parts: Sequence[Part], out: Path) -> list[Path]:
    """A plot of each table with more than one value, over the key that is numeric."""
    from refexp.report.plots import draw_metric, save_figure

    files = []
    for i, part in enumerate(parts):
        table = part.table
        if sum(cell.n > 0 for row in table.cells for cell in row) < 2:
            continue
        name = re.sub(r"[^\w.=-]+", "_", " ".join(filter(None, [table.metric, part.name])))
        name = name if len(name) < LONG else f"{name[: LONG - 5]}_{i}"
        files += save_figure(draw_metric(part.plotted), out / name)
    return files


def show(summary: Summary) -> None:
    """Print the tables, what must be said of them and where the files are."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    console.print(escape(f"{counts(summary.frame)}. All: {summary.shared}"))
    told: list[str] = []
    for part in summary.parts:
        console.print(f"\n[italic]{escape(part.table.title)}[/]")
        console.print(to_rich(part.table))
        for line in [*part.table.notes, *part.table.troubles]:
            if line not in told:
                console.print(f"[bold red]{escape(line)}[/]")
                told.append(line)
        if part.differences:
            console.print("paired over the same seeds:")
        for difference in part.differences:
            console.print(escape(f"  {difference}"))
    if not summary.parts:
        console.print("no tables: none of these runs has metrics")
        for line in failures(summary.frame):
            console.print(f"[bold red]{escape(line)}[/]")
    names = ", ".join(file.name for file in summary.files)
    console.print(f"[green]summary in[/] {escape(f'{summary.files[0].parent}: {names}')}")


def show_sweep(folder: Path) -> None:
    """Summary and page of a sweep, or of any folder with runs in it. Raises RefexpError if there is none."""
    from refexp.report.sweep_page import write_sweep_report

    summary = summarise([folder], Wanted())
    show(summary)
    print(f"report: {write_sweep_report(folder, summary)}")


def summarise_sweep(folder: Path) -> None:
    """The same at the end of a multirun. They are extras: what goes wrong is said, and harms no result."""
    try:
        show_sweep(folder)
    except Exception as error:
        log.warning("no summary: %s. Again: python -m refexp.summary %s", first_line(error), folder)
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
        raise RefexpError("which runs? Give the folder of a sweep: python -m refexp.summary outputs/...")
    return folders, Wanted(**given)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    """`python -m refexp.summary OUT ... [key=value ...]`; the exit code."""
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
