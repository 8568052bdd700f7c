"""Finished and unfinished runs below some folders, as a data frame with one row per run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from refexp.errors import RefexpError, did_you_mean
from refexp.folders.record import RunRecord
from refexp.folders.status import read_status
from refexp.folders.sweep_folder import GONE, NAME, Job, Sweep, SweepRecord, local_state, record_of, survey
from refexp.show.tables.settings import as_number, guessed_settings, is_protocol, label, read_settings, sweep_settings

FACTS = (
    "folder", "run", "called", "sweep", "job", "state", "message", "seconds", "overrides", "ended", "note", "targets",
    "images", "instances", "detections", "classes", "class_names", "commit",
)  # fmt: skip
"""Facts about a run: columns of every frame.

folder: absolute path. run: path relative to the common parent folder. called: `#3` in a sweep, else `run`. sweep: its
folder or "". state, message, seconds: as in `refexp sweep status`. overrides: in one string. The rest is from
metrics.json and missing where there is none. note: on weights that are not the published ones, or "".
"""


@dataclass(frozen=True)
class Runs:
    """A frame of runs, and the names of its columns by kind.

    frame: the FACTS, the settings and the metrics. settings: keys as on the command line (`seed`,
    `postprocess.topk.k`). Values are text, missing where a run has no such setting. The value of a group is its option
    (`matcher`: "prototype"), that of a step its class (`postprocess.merge`: "SoftMerge"), that of `shots` the number.
    metrics: over all classes, as fractions. class_metrics: of single classes (`segm/nAP/leaf`).
    """

    frame: pd.DataFrame
    settings: list[str]
    metrics: list[str]
    class_metrics: list[str]

    def only(self, which: pd.Series | pd.Index) -> Runs:
        """The runs of an index or a mask."""
        return replace(self, frame=self.frame.loc[which])

    def values(self, key: str) -> pd.Series:
        """Each run's label for a key, as ordered categories. Raises RefexpError for a key that no run has."""
        if key not in self.frame:
            known = self.metrics if "/" in key else [*self.settings, *FACTS]
            raise RefexpError(f"'{key}': none of these runs has this key. {did_you_mean(key, known)}")
        values = self.frame[key].astype(object)
        labels = values.where(values.notna(), None).map(label)
        return labels.astype(pd.CategoricalDtype(sorted(labels.unique(), key=_rank), ordered=True))


def _rank(text: str) -> tuple[bool, float, str]:
    """Sort key: numbers first by value, then other labels by name."""
    number = as_number(text)
    return number is None, number or 0, text


def find_runs(folders: Sequence[Path]) -> Runs:
    """All runs below these folders, with the jobs of sweeps in order, including jobs that failed or never started.

    Raises RefexpError if a folder is missing, a file is damaged, or there is no run.
    """
    roots = [Path(folder).absolute() for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise RefexpError(f"{root}: no such folder. Give the folder of a run, of a sweep, or a parent of them.")
    found = {folder: (record, sweep) for root in roots for folder, record, sweep in below(root)}
    if not found:
        shown = ", ".join(map(str, folders))
        raise RefexpError(f"{shown}: no run found (no {NAME}, status.json or metrics.json).")
    sweeps = dict.fromkeys(sweep for _, sweep in found.values() if sweep)
    bases = {sweep: sweep_settings(sweep) for sweep in sweeps}  # reading one takes 20 ms
    rows: list[dict[str, Any]] = []
    numbers: list[dict[str, float | None]] = []
    settings, metrics, class_metrics = (dict[str, Any]() for _ in range(3))
    for folder, (record, sweep) in found.items():
        done = RunRecord.read(folder) if record.state == "completed" and (folder / "metrics.json").exists() else None
        own = read_settings(folder, done)
        if sweep and not own:
            own = guessed_settings(bases[sweep], record.job.overrides)
        # Keep a setting from overwriting the fact of the same name.
        own = {f"config.{key}" if key in FACTS else key: value for key, value in own.items()}
        rows.append(facts(folder, record, done) | {"sweep": str(sweep or "")} | own)
        numbers.append(done.metrics.flat if done else {})
        settings |= own
        metrics |= done.metrics.flat_overall if done else {}
        class_metrics |= {name: value for name, value in numbers[-1].items() if name not in metrics}
    known = pd.DataFrame(rows, columns=[*FACTS, *settings]).astype({"seconds": float})
    protocols = [key for key in settings if is_protocol(key)]  # jobs that never started lack them, too
    known[protocols] = known[protocols].fillna("standard")
    measured = pd.DataFrame(numbers, columns=[*metrics, *class_metrics], dtype=float)
    frame = pd.concat([known, measured], axis="columns")
    common = Path(os.path.commonpath(roots))
    frame["run"] = [os.path.relpath(folder, common) if folder != common else folder.name for folder in found]
    frame["job"] = frame["job"].where(frame["sweep"] != "").astype("Int64")
    one = bases and frame["sweep"].nunique() == 1
    frame["called"] = "#" + frame["job"].astype(str) if one else frame["run"]
    return Runs(frame, list(settings), list(metrics), list(class_metrics))


def facts(folder: Path, record: SweepRecord, done: RunRecord | None) -> dict[str, Any]:
    """The FACTS of one run."""
    known = {
        "folder": str(folder), "job": record.job.number, "state": record.state, "message": record.message,
        "seconds": record.seconds, "overrides": " ".join(record.job.overrides),
        "ended": read_status(folder).get("ended"),
    }  # fmt: skip
    if done is None:
        return known
    old = folder / "WEIGHTS.txt"  # holds the note if an older metrics.json does not
    note = done.note or (old.read_text(encoding="utf-8").strip() if old.exists() else "")
    known |= {name: getattr(done, name) for name in ("targets", "images", "instances", "detections", "commit")}
    return known | {"note": note, "classes": len(done.classes), "class_names": "; ".join(done.classes)}


def below(folder: Path) -> Iterator[tuple[Path, SweepRecord, Path | None]]:
    """Yield folder, record and sweep of every run in a folder and its subfolders. Does not look inside a run."""
    for path, children, files in os.walk(folder):
        here = Path(path)
        children.sort()
        if NAME in files:
            records = survey(Sweep(here), need_slurm=False)
            yield from ((here / record.job.folder, record, here) for record in records)
            children.clear()
        elif "status.json" in files or "metrics.json" in files:
            yield here, record_alone(here), None
            children.clear()


def record_alone(folder: Path) -> SweepRecord:
    """The record of a run that is not part of a sweep."""
    status = read_status(folder)
    job = Job(0, status.get("overrides", []), ".")
    if not status:
        complete = (folder / "metrics.json").exists()
        return SweepRecord(job, "completed" if complete else "died", False, message="" if complete else "no status")
    scheduled = "RUNNING" if status["job_id"] else local_state(status["pid"], status["host"])
    return record_of(folder, job, status, GONE if status["state"] != "running" else scheduled, status["job_id"])
