"""What a run ends with: its tables, and where its files are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refexp.report.words import KINDS, counted, headline, percent
from refexp.results import Finding

NUMBERS = (
    "nAP", "nAP50", "nAP75", "nAP_small", "nAP_medium", "nAP_large", "AR100",
    "nAP_rare", "nAP_common", "nAP_frequent", "AR300",
)  # fmt: skip
"""What stands in the table, where the evaluation gives it: the last four are those of LVIS."""
MAX_COLUMNS = 8
"""More numbers would not fit side by side on a terminal, and stand below each other."""
SEMANTIC = ("mIoU", "FB-IoU")
MAX_CLASSES = 20


def print_metrics(
    metrics: Mapping[str, float | None],
    classes: Sequence[str],
    summary: Mapping[str, Any],
) -> None:
    """Overall numbers in percent, per class if there are few, and speed."""
    console = Console(soft_wrap=True)
    kinds = [kind for kind in ("bbox", "segm") if f"{kind}/nAP" in metrics]
    rows = [(KINDS[kind], {c: metrics[f"{kind}/{c}"] for c in NUMBERS if f"{kind}/{c}" in metrics}) for kind in kinds]
    if semantic := {c: metrics[f"semantic/{c}"] for c in SEMANTIC if f"semantic/{c}" in metrics}:
        rows.append((f"semantic, {summary['config']['evaluation'].get('protocol', 'classes')}", semantic))
    console.print(_overall(f"{summary['targets']}: {', '.join(headline(summary))}; percent", rows))
    if 1 < len(classes) <= MAX_CLASSES and "semantic/FB-IoU" not in metrics:
        console.print(_per_class(metrics, classes, kinds))
    stages = summary["stages"]
    speed = ", ".join(f"{name} {s['seconds']:.1f} s" for name, s in stages.items() if s["seconds"] >= 0.05)
    console.print(f"{speed}; peak {summary['peak_memory_mib']['process']:.0f} MiB")


def print_findings(found: Sequence[Finding], references: Mapping[str, int], images: int) -> None:
    """How many of each class were found. references: how many each class had."""
    table = Table(title=counted(images, "image", "images"), title_justify="left")
    for column in ("", "references", "found", "in images"):
        table.add_column(column, justify="right" if column else "left")
    things = Counter(f.name for f in found)
    places = Counter(name for name, _ in {(f.name, f.image) for f in found})
    for name, count in references.items():
        table.add_row(escape(name), str(count), str(things[name]), str(places[name]))
    Console(soft_wrap=True).print(table)


def print_places(output: Path, report: Path | None, note: str | None) -> None:
    """Where the files are, and what must be said of the weights."""
    console = Console(soft_wrap=True)
    console.print(f"[green]results in[/] {escape(str(output))}")
    if report:
        console.print(f"[green]to look at[/] {escape(str(report))}")
    if note:
        console.print(f"[bold red]{escape(note)}[/]")


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


def _per_class(metrics: Mapping[str, float | None], classes: Sequence[str], kinds: Sequence[str]) -> Table:
    table = Table(title="per class", title_justify="left")
    table.add_column("")
    numbers = {f"{kind}/{name}": f"{KINDS[kind]} {name}" for kind in kinds for name in ("nAP", "nAP50")}
    if f"semantic/IoU/{classes[0]}" in metrics:
        numbers["semantic/IoU"] = "IoU"
    for title in numbers.values():
        table.add_column(title, justify="right")
    for class_name in classes:
        row = [percent(metrics[f"{number}/{class_name}"]) for number in numbers]
        table.add_row(escape(class_name), *row)
    return table
