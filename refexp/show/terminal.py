"""Terminal output at the end of a run: its tables, and the location of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refexp.errors import shown
from refexp.evaluation.verdict import NOUNS
from refexp.folders.record import OBJECTIVES, RunRecord
from refexp.show.instances import Instance
from refexp.show.page.mistakes import NAMES
from refexp.show.words import (
    BOUNDS,
    KINDS,
    NUMBERS,
    SEMANTIC,
    counted,
    headline,
    kind_name,
    kinds_of,
    metric_name,
    percent,
    this_run,
)

MAX_COLUMNS = 8
"""More numbers do not fit side by side on a terminal, so they are listed below each other."""
MAX_CLASSES = 20
LONGEST = 60
"""Signs of a class name in a table."""


def print_metrics(console: Console, record: RunRecord) -> None:
    """Print the overall metrics in percent, the metrics per class if there are few classes, and the speed."""
    overall, rows = record.metrics.overall, []
    for kind, named in kinds_of(record, ("bbox", "segm", "semantic")).items():
        wanted = SEMANTIC if kind.startswith("semantic") else NUMBERS
        rows.append(
            (
                kind_name(named).removesuffix(" protocol"),
                {name: overall[kind][name] for name in wanted if name in overall[kind]},
            )
        )
    console.print(_overall(f"{record.targets}: {', '.join(headline(record))}; percent", rows))
    if 1 < len(record.classes) <= MAX_CLASSES and "FB-IoU" not in overall.get("semantic", {}):
        console.print(_per_class(record, [kind for kind in ("bbox", "segm") if kind in overall]))
    speed = ", ".join(f"{name} {s['seconds']:.1f} s" for name, s in record.stages.items() if s["seconds"] >= 0.05)
    console.print(f"{speed}; peak {record.peak_memory_mib['process']:.0f} MiB")


def reached(record: RunRecord, found: int) -> str:
    """The main numbers of a run: `mask nAP 21.9, box nAP 26.2`. Without metrics, how many detections are shown."""
    numbers = record.metrics.flat_overall
    said = (f"{metric_name(name)} {percent(numbers[name])}" for name in OBJECTIVES if name in numbers)
    return ", ".join(said).replace("semantic ", "") or counted(found, "detection", "detections")


def print_findings(console: Console, found: Sequence[Instance], record: RunRecord) -> None:
    """Print the number of detections per class."""
    table = Table(title=counted(record.images, "image", "images"), title_justify="left")
    for column in ("", "references", "detections", "images"):
        table.add_column(column, justify="right" if column else "left")
    objects = Counter(one.label for one in found)
    places = Counter(label for label, _ in {(one.label, one.image_id) for one in found})
    for label, (name, count) in enumerate(record.references.items()):
        table.add_row(cell(name), str(count), str(objects[label]), str(places[label]))
    console.print(table)


def print_diagnosis(console: Console, diagnostics: Mapping[str, Any]) -> None:
    """Print the run next to its upper bounds, the cost of each error type, and the verdict.

    diagnostics: the content of diagnostics.json. The note of the run is printed with the metrics.
    """
    for kind, of in diagnostics["kinds"].items():
        bounds = Table(title=f"what limits the {NOUNS[kind]}", title_justify="left")
        for column in ("", "nAP", "nAP50"):
            bounds.add_column(column, justify="right" if column else "left")
        bounds.add_row(this_run(kind, diagnostics), percent(of["nAP"]), percent(of["nAP50"]), style="bold")
        for name, bound in of["bounds"].items():
            bounds.add_row(BOUNDS[name], percent(bound["nAP"]), percent(bound["nAP50"]))
        errors = Table()
        for column in ("error", "count", "nAP50 gain if fixed"):
            errors.add_column(column, justify="left" if column == "error" else "right")
        for name, cost in of["errors"]["dAP50"].items():
            errors.add_row(NAMES[name], str(of["errors"]["count"][name]), "-" if cost is None else f"+{100 * cost:.1f}")
        console.print(bounds)
        console.print(errors)
        console.print(of["verdict"]["text"])


def print_places(console: Console, output: Path, report: Path | None, note: str | None) -> None:
    """Print the paths of the files, and the note of the run."""
    console.print(f"[green]results in[/] {escape(str(output))}")
    if report:
        console.print(f"[green]report[/] {escape(str(report))}")
    if note:
        console.print(f"[bold red]{escape(note)}[/]")


def cell(name: str) -> str:
    """A class name for a table: short, in one line, and not markup."""
    return escape(shown(name, LONGEST))


def _overall(title: str, rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    numbers = list(dict.fromkeys(number for _, of_row in rows for number in of_row))
    cells = {(name, number): percent(value) for name, of_row in rows for number, value in of_row.items()}
    names = [name for name, _ in rows]
    down, across = (names, numbers) if len(numbers) <= MAX_COLUMNS else (numbers, names)
    for column in across:
        table.add_column(column, justify="right")
    for line in down:
        table.add_row(line, *[cells.get((line, c)) or cells.get((c, line), "-") for c in across], style="bold")
    return table


def _per_class(record: RunRecord, kinds: Sequence[str]) -> Table:
    table = Table(title="per class", title_justify="left")
    table.add_column("")
    per_class = record.metrics.per_class
    columns = {f"{KINDS[kind]} {name}": per_class[kind][name] for kind in kinds for name in ("nAP", "nAP50")}
    if "IoU" in per_class.get("semantic", {}):
        columns["IoU"] = per_class["semantic"]["IoU"]
    for title in columns:
        table.add_column(title, justify="right")
    for class_name in record.classes:
        table.add_row(cell(class_name), *[percent(column[class_name]) for column in columns.values()])
    return table
