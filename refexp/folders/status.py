"""status.json: what a job does or what became of it, for whoever asks while it runs or later."""

from __future__ import annotations

import csv
import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from refexp.files import write_json
from refexp.machine.processes import is_alive

log = logging.getLogger(__name__)

NAME = "status.json"
PROGRESS = "progress.csv"


class Status:
    """The state of one job, kept in its folder: running, then completed, failed or stopped.

    A job that is killed leaves "running" behind; who reads it must ask whether the process still lives. progress.csv
    beside it has a row for each report of progress, also those of earlier starts in the same folder.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.path, self.start = folder / NAME, time.time()
        self.content: dict[str, Any] = {
            "state": "running",
            "overrides": list(overrides),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job_id": scheduler_id(),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            "started": now(),
        }
        write_json(self.path, self.content, indent=2)

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        """Note that of the work called `stage`, `done` items of `total` are done, `rate` a second."""
        row = {"stage": stage, "done": done, "total": total, "per_second": round(rate, 4)}
        self.content |= row
        path = self.path.with_name(PROGRESS)
        try:
            write_json(self.path, self.content, indent=2)
            with path.open("a", encoding="utf-8", newline="") as file:
                if not file.tell():
                    csv.writer(file, lineterminator="\n").writerow(("time", *row))
                csv.writer(file, lineterminator="\n").writerow((now(), *row.values()))
        except OSError as error:  # a full disk ends the run where it matters
            log.warning("progress is not noted: %s", error)

    def end(self, state: str, message: str | None = None, error: BaseException | None = None) -> None:
        """Note how the job ended, with the error's message and traceback if it did not end well."""
        self.content |= {"state": state, "ended": now(), "seconds": round(time.time() - self.start, 2)}
        if message is not None:
            lines = "".join(traceback.format_exception(error)) if error else ""
            self.content["error"] = {"message": message, "traceback": lines}
        write_json(self.path, self.content, indent=2)


def read_status(folder: Path) -> dict[str, Any] | None:
    """What a job left, or None if it never started."""
    try:
        return json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_running(folder: Path) -> bool:
    """Whether a job says that it runs and, if it is one of this machine, its process lives."""
    status = read_status(folder)
    if status is None or status["state"] != "running":
        return False
    return status["host"] != socket.gethostname() or is_alive(status["pid"])


def progress_text(status: dict[str, Any]) -> str:
    """`targets 120/5000, 2.1/s, 39 min left`, or "" before any progress."""
    if not status.get("total"):
        return ""
    rate = status["per_second"]
    left = f", {(status['total'] - status['done']) / rate / 60:.0f} min left" if rate else ""
    return f"{status['stage']} {status['done']}/{status['total']}, {rate:.2f}/s{left}"


def scheduler_id() -> str | None:
    """SLURM's name of the job this process is part of, `123` or `123_4`."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
