"""status.json: the state and progress of a job, readable during the run and afterwards."""

from __future__ import annotations

import csv
import logging
import os
import socket
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from refexp.errors import RefexpError
from refexp.files import read_json, write_json
from refexp.machine.processes import identity, is_alive
from refexp.rank import restarts, scheduler_id

log = logging.getLogger(__name__)

run_log = logging.getLogger("refexp.run_log")
"""For run.log alone: what the terminal shows anyway, or need not show."""
run_log.propagate = False

NAME = "status.json"
PROGRESS = "progress.csv"
SILENT_SECONDS = 3600.0
"""After so long without progress, a job of another machine counts as ended."""


class Status:
    """Writes the state of one job into its folder: running, then completed, failed or stopped.

    A killed job leaves the state "running", so readers must also check whether the process is alive (`is_running`).
    progress.csv has one row per progress report, including those of earlier starts in the same folder.
    Raises RefexpError if another process of this machine still runs in the folder: the results of two would mix.
    """

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.path, self.start = folder / NAME, time.time()
        before = read_status(folder)
        other = before.get("pid") not in (None, os.getpid())
        if other and before.get("process") == identity(before["pid"]) and is_running(folder):
            raise RefexpError(f"{folder}: process {before['pid']} still runs here; set another hydra.run.dir.")
        self.content: dict[str, Any] = {
            "state": "running",
            "overrides": list(overrides),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": identity(os.getpid()),
            "job_id": scheduler_id(),
            "restarts": restarts(),
            "started": now(),
        }
        write_json(self.path, self.content, indent=2)

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        """Record that `done` of `total` items of a stage are done. rate: items per second."""
        row = {"stage": stage, "done": done, "total": total, "per_second": round(rate, 4)}
        self.content |= row
        path = self.path.with_name(PROGRESS)
        try:
            write_json(self.path, self.content, indent=2)
            with path.open("a", encoding="utf-8", newline="") as file:
                if not file.tell():
                    csv.writer(file, lineterminator="\n").writerow(("time", *row))
                csv.writer(file, lineterminator="\n").writerow((now(), *row.values()))
        except OSError as error:  # progress is optional: on a full disk, writing the results raises anyway
            log.warning("progress was not written: %s", error)

    def end(self, state: str, message: str | None = None, error: BaseException | None = None) -> None:
        """Record the final state, with the error's message and traceback if there was one."""
        self.content |= {"state": state, "ended": now(), "seconds": round(time.time() - self.start, 2)}
        if message is not None:
            lines = "".join(traceback.format_exception(error)) if error else ""
            self.content["error"] = {"message": message, "traceback": lines}
        write_json(self.path, self.content, indent=2)


def read_status(folder: Path) -> dict[str, Any]:
    """The status that a job wrote, {} if it never started."""
    status = read_what_is_there(folder / NAME)
    return status if "state" in status else {}


def read_what_is_there(path: Path) -> dict[str, Any]:
    """A JSON file's content, {} if it is missing or damaged: one bad file must not hide the other jobs of a sweep."""
    try:
        content = read_json(path)
    except RefexpError:
        return {}
    return content if isinstance(content, dict) else {}


def is_running(folder: Path) -> bool:
    """Whether the status is "running" and its process is alive. Elsewhere: whether it was written within the hour."""
    status = read_status(folder)
    if status.get("state") != "running":
        return False
    if status["host"] != socket.gethostname():
        return time.time() - (folder / NAME).stat().st_mtime < SILENT_SECONDS
    return is_alive(status["pid"])


def unfinished(folder: Path) -> str:
    """Why a run has no results, and what to do; "" if it is completed or never started."""
    status = read_status(folder)
    if is_running(folder):
        return f"this run still runs. {progress_text(status)}".strip()
    if status.get("state", "completed") == "completed":
        return ""
    why = (status.get("error") or {}).get("message", "it was killed")
    return f"this run is not finished: {why.rstrip('.')}. Its command, given again, starts or resumes it."


def progress_text(status: dict[str, Any]) -> str:
    """`targets 120/5000, 2.1/s, 39 min left`, or "" before the first progress report."""
    if not status.get("total"):
        return ""
    rate = status["per_second"]
    left = f", {(status['total'] - status['done']) / rate / 60:.0f} min left" if rate else ""
    return f"{status['stage']} {status['done']}/{status['total']}, {rate:.2f}/s{left}"


def now() -> str:
    """The current UTC time in ISO format, to the second, with time zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
