"""`logger=csv`: CSV tables in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refexp.files import write_csv
from refexp.folders.record import RunRecord
from refexp.folders.status import read_status
from refexp.tracking.logger import Logger, per_class


class CsvLogger(Logger):
    """Writes metrics.csv and per_class.csv into the run's folder when the run is completed.

    metrics.csv has one row: facts about the run and all metrics over all classes. per_class.csv has one row per class.
    progress.csv is next to them; every run writes it.
    """

    def finish(self, folder: Path) -> None:
        if read_status(folder).get("state") != "completed" or not (folder / "metrics.json").exists():
            return
        record = RunRecord.read(folder)
        row: dict[str, Any] = {
            name: getattr(record, name) for name in ("targets", "shots", "seed", "protocol", "images", "detections")
        }
        row |= {"weights_note": record.note} | record.metrics.flat_overall
        write_csv(folder / "metrics.csv", [tuple(row), tuple(row.values())])
        columns, rows = per_class(record)
        write_csv(folder / "per_class.csv", [columns, *rows])
