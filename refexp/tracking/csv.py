"""`logger=csv`: tables in the run's folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from refexp.files import write_text
from refexp.outcome import Outcome
from refexp.status import now
from refexp.tracking.base import State, overall, per_class


class CsvLogger:
    """progress.csv, metrics.csv and per_class.csv in the run's folder, for spreadsheets and plots.

    progress.csv grows while the run goes on, and further when a run is taken up again in the same folder. metrics.csv
    has one row: what was run, and every number that is not of a single class. per_class.csv has a row a class.
    """

    PROGRESS = ("time", "stage", "done", "total", "per_second")

    def start(self, config: dict[str, Any], output: Path) -> None:
        self.output = output
        if not (output / "progress.csv").exists():
            write_text(output / "progress.csv", _csv([self.PROGRESS]))

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        with (self.output / "progress.csv").open("a", encoding="utf-8") as file:
            file.write(_csv([(now(), stage, done, total, round(rate, 4))]))

    def results(self, outcome: Outcome) -> None:
        summary = outcome.summary
        row: dict[str, Any] = {name: summary[name] for name in ("targets", "shots", "seed", "images", "detections")}
        row |= {"weights_note": outcome.note} | overall(outcome.metrics)
        write_text(self.output / "metrics.csv", _csv([tuple(row), tuple(row.values())]))
        columns, rows = per_class(outcome)
        write_text(self.output / "per_class.csv", _csv([columns, *rows]))

    def finish(self, state: State) -> None: ...


def _csv(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
