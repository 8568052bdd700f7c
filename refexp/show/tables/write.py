"""Write runs and tables: CSV, Parquet, Markdown, LaTeX, plots, and tables for the terminal."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import rich.table
import rich.text

from refexp.files import atomic_path, write_text
from refexp.show.tables.plots import as_drawn, draw_metric, save_figure
from refexp.show.tables.runs import Runs
from refexp.show.tables.settings import FIRST
from refexp.show.tables.table import Table

log = logging.getLogger(__name__)

FACTS = ["run", "sweep", "job", "state", "message", "seconds"]
COUNTS = ["images", "instances", "detections", "classes"]
LONG = 80
"""Maximum length of a plot's file name in characters, without its extension."""
PLOT = re.compile(r"^!\[\]\(([\w.=-]+)\.png\)$", re.MULTILINE)
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "\N{MINUS SIGN}": "$-$"}
)
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]"})


def write_runs(runs: Runs, out: Path) -> list[Path]:
    """Write runs.csv, and runs.parquet if pyarrow is installed. One row per run; metrics are fractions.

    Columns: facts about the run, its main settings and those that differ, counts, and all metrics over all classes.
    """
    frame = runs.frame
    kept = [key for key in (*FIRST, "seed") if key in runs.settings]
    kept += [key for key in runs.settings if key not in kept and frame[key].nunique(dropna=False) > 1]
    rows = frame[[*FACTS, *kept, "note", "targets", *COUNTS, "commit", "overrides", *runs.metrics]]
    rows = rows.assign(**{name: as_numbers(rows[name]) for name in (*kept, *COUNTS)})
    with atomic_path(out / "runs.csv") as temporary:
        rows.to_csv(temporary, index=False)
    try:
        with atomic_path(out / "runs.parquet") as temporary:
            rows.to_parquet(temporary)
    except ImportError:
        log.debug("runs.parquet: not written, it needs pyarrow (pip install pyarrow)")
        return [out / "runs.csv"]
    return [out / "runs.csv", out / "runs.parquet"]


def as_numbers(column: pd.Series) -> pd.Series:
    """The column as numbers (integers stay integers) if all its values are numbers; else unchanged."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers.convert_dtypes() if numbers.notna().equals(column.notna()) else column


def remove_tables(out: Path) -> bool:
    """Remove the tables of an earlier summary, and the plots that its table.md shows. Returns whether there are any."""
    try:
        text = (out / "table.md").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    plots = [out / f"{name}{ending}" for name in PLOT.findall(text) for ending in (".png", ".svg")]
    for path in (*plots, out / "table.tex", out / "table.md"):
        path.unlink(missing_ok=True)
    return True


def write_tables(tables: Sequence[Table], head: str, out: Path) -> list[Path]:
    """Write table.md (first line: `head`), table.tex, and PNG and SVG plots of all tables with more than one value."""
    files, texts = [out / "table.md", out / "table.tex"], []
    for i, table in enumerate(tables):
        name = re.sub(r"[^\w.=-]+", "_", " ".join(filter(None, [table.metric, table.name])))
        name = name if len(name) < LONG and out / f"{name}.png" not in files else f"{name[: LONG - 5]}_{i}"
        texts.append(to_markdown(table))
        if (table.cells["n"] > 0).sum() > 1:
            files += save_figure(draw_metric(as_drawn(table)), out / name)
            texts.append(f"![]({name}.png)\n")
    write_text(out / "table.md", "\n".join([f"{head}\n", *texts]))
    write_text(out / "table.tex", "\n".join(map(to_latex, tables)))
    return files


def to_markdown(table: Table) -> str:
    """A Markdown table, with its title above and its notes, problems and comparisons below."""

    def escape(text: str) -> str:
        return " ".join(text.split()).translate(MARKDOWN)

    lines = [[*map(escape, table.headings)], ["---", *["---:"] * (len(table.headings) - 1)]]
    for row, cells in table.lines:
        lines.append(
            [escape(row), *(f"**{escape(text)}**" if kind == "best" else escape(text) for text, kind in cells)]
        )
    text = f"{escape(table.full_title)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    below = [f"**{escape(note)}**" for note in table.notes] + [escape(trouble) for trouble in table.troubles]
    for above, points in (("\n", below), ("\nPaired over the same seeds:\n\n", table.differences)):
        text += above + "".join(f"- {point}\n" for point in points) if points else ""
    return text


def to_latex(table: Table) -> str:
    """A LaTeX table (needs booktabs, and inputenc or newer). Notes are in the caption, the rest in comments below."""

    def escape(text: str) -> str:
        return " ".join(text.split()).translate(LATEX)

    corner, *columns = map(escape, table.headings)
    # LaTeX reads a bracket or a star after `\\` as an argument: an empty group before it prevents that.
    rows = ["{}" * row.startswith(("[", "*")) + escape(row) for row, _ in table.lines]
    names = {"index": rows, "columns": pd.Index(columns, name=corner)}
    cells = pd.DataFrame([[escape(text) for text, _ in line] for _, line in table.lines], **names)
    bold = pd.DataFrame(
        [["textbf:--rwrap;" * (kind == "best") for _, kind in line] for _, line in table.lines], **names
    )
    caption = " ".join(f"{escape(part).rstrip('.')}." for part in [table.full_title, *table.notes])
    form = {"column_format": f"l{'r' * len(columns)}", "hrules": True, "position_float": "centering"}
    text = cells.style.apply(lambda _: bold, axis=None).to_latex(caption=caption, **form)
    return text + "".join(f"% {' '.join(line.split())}\n" for line in [*table.troubles, *table.differences])


def to_rich(table: Table) -> rich.table.Table:
    """The table for a rich console. It has no title, because rich would wrap the title to the table's width."""

    styles = {"best": "bold green", "quiet": "dim", "": ""}
    made = rich.table.Table()
    for i, heading in enumerate(table.headings):
        made.add_column(rich.text.Text(heading), justify="right" if i else "left")
    for row, cells in table.lines:
        made.add_row(rich.text.Text(row), *(rich.text.Text(text, styles[kind]) for text, kind in cells))
    return made
