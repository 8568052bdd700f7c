"""sweep.json: the jobs of a sweep and their states.

Each job writes its final state into its own status.json. refexp asks the scheduler only about jobs without a final
state. Therefore the result is correct without SLURM's accounting.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refexp.errors import RefexpError
from refexp.files import read_json, write_json
from refexp.folders.status import now, progress_text, read_status, read_what_is_there
from refexp.machine.processes import is_alive, runs_program

NAME = "sweep.json"
EXTRACT_FOLDER = "extract"
"""Subfolder for the logs and states of extraction jobs: `<cluster job>/<job folder>`."""
JOB = {"number", "overrides", "folder", "id"}
"""What sweep.json has for each job."""
GONE = "GONE"
IMPOSSIBLE = {"PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints"}
"""SLURM accepts a job that is pending for one of these reasons, but never starts it."""
ALIVE = {"PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING",
         "SIGNALING", "STAGE_OUT"}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number, its overrides and its folder below the sweep's."""

    number: int
    overrides: list[str]
    folder: str


@dataclass(frozen=True)
class SweepRecord:
    """The current state of a job.

    alive: it waits or runs. message: one line with its error or its progress, or the note of a completed run.
    """

    job: Job
    state: str
    alive: bool
    seconds: float | None = None
    message: str = ""
    metrics: dict[str, float | None] | None = None


class Sweep:
    """A sweep's folder with its sweep.json: the commands, the jobs and their scheduler ids."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME

    def read(self) -> dict[str, Any]:
        """Read sweep.json. Raises RefexpError if it is missing or damaged."""
        content = read_json(self.path)
        if content is None:
            raise RefexpError(f"{self.folder} is not the folder of a sweep: it has no {NAME}.")
        lists = isinstance(content, dict) and isinstance(content.get("jobs"), dict)
        if not lists or not all(isinstance(job, dict) and set(job) >= JOB for job in content["jobs"].values()):
            raise RefexpError(f"{self.path} is damaged, or not written by refexp: it lacks jobs or their launcher.")
        if "commands" not in content:  # of refexp 0.1, where a number could get other overrides than its folder's
            content["commands"] = [{"command": content.pop("command", []), "cwd": content.pop("cwd", "")}]
            for job in content["jobs"].values():
                ran = read_status(self.folder / job["folder"]).get("overrides") or job["overrides"]
                job |= {"command": 0, "overrides": [override for override in ran if override != "stage=ablate"]}
        return content

    def begin(self, launcher: str, jobs: Sequence[Job], todo: Sequence[Job]) -> None:
        """Record a command and its jobs beside those of earlier ones, and delete the states of jobs that run again.

        Hydra may pass the jobs in batches.
        """
        content: dict[str, Any] = self.read() if self.path.exists() else {"commands": [], "jobs": {}}
        this = {"command": command(), "cwd": str(Path.cwd())}
        content["commands"] += [this] if this not in content["commands"] else []
        content["launcher"], content["started"] = launcher, now()
        for job in jobs:
            row = content["jobs"].setdefault(str(job.number), {"id": None})
            row |= asdict(job) | {"command": content["commands"].index(this)}
        for job in todo:
            content["jobs"][str(job.number)] |= {"id": None}
            for folder in (self.folder, *(self.folder / EXTRACT_FOLDER).glob("*")):
                (folder / job.folder / "status.json").unlink(missing_ok=True)
        content["extraction"], content["host"], content["pid"] = [], socket.gethostname(), os.getpid()
        write_json(self.path, content, indent=1)

    def submitted(self, groups: Sequence[Sequence[Job]], ids: Sequence[str]) -> None:
        """Record the scheduler id of each group of jobs."""
        content = self.read()
        for group, id_ in zip(groups, ids, strict=True):
            for job in group:
                content["jobs"][str(job.number)]["id"] = id_
        write_json(self.path, content, indent=1)

    def extracting(self, ids: Sequence[str]) -> None:
        """Record the scheduler ids of the extraction."""
        write_json(self.path, self.read() | {"extraction": list(ids)}, indent=1)

    def jobs(self) -> list[tuple[Job, str | None]]:
        """All jobs in order, each with its scheduler id or None."""
        rows = sorted(self.read()["jobs"].values(), key=lambda row: row["number"])
        return [(Job(row["number"], row["overrides"], row["folder"]), row["id"]) for row in rows]

    def job_ids(self) -> list[str]:
        """All scheduler ids, those of the extraction first. A job array counts as one id."""
        ids = self.read()["extraction"] + [id_ for _, id_ in self.jobs() if id_]
        return list(dict.fromkeys(id_.split("_")[0] for id_ in ids))

    def state(self, job: Job) -> str | None:
        """The state in the job's status.json."""
        return read_status(self.folder / job.folder).get("state")

    def cancel(self) -> None:
        """Stop every job of the sweep that waits or runs."""
        content, ids = self.read(), self.job_ids()
        if content["launcher"] == "slurm" and ids:
            cancel_slurm(ids)
        elif content["launcher"] == "local_jobs":
            for pid in map(int, ids):
                if local_state(pid, content["host"]) == "RUNNING" and runs_program(pid, "submitit"):
                    with suppress(ProcessLookupError):  # it has just ended
                        os.killpg(os.getpgid(pid), signal.SIGTERM)


def cancel_slurm(ids: Sequence[str]) -> None:
    """Cancel SLURM jobs, arrays as a whole."""
    subprocess.run(["scancel", *dict.fromkeys(id_.split("_")[0] for id_ in ids)], check=False)


def command() -> list[str]:
    """The command line that starts this process again, without what `refexp sweep retry` adds."""
    program, *words = sys.argv
    words = [word for word in words if not word.startswith(("sweep.only=", "hydra.sweep.dir="))]
    name = program.split()  # `refexp run` is not a file: start it with python -m
    return [sys.executable, *(["-m", *name] if name[0] == "refexp" else [program]), *words]


def survey(sweep: Sweep, need_slurm: bool = True) -> list[SweepRecord]:
    """The state of every job: from its status.json if it ended, else from the scheduler or the process table.

    need_slurm: False takes jobs that did not end as waiting where SLURM is not installed, instead of raising.
    """
    content = sweep.read()
    # Ask the scheduler first: a job that ends after that has written its state when we read it.
    queue = slurm_queue(need_slurm) if content["launcher"] == "slurm" else {}
    records = []
    for job, id_ in sweep.jobs():
        status = read_status(sweep.folder / job.folder)
        if content["launcher"] == "slurm":
            scheduled = queue.get(id_ or "", (GONE, ""))[0] if queue is not None else "PENDING"
        else:
            scheduled = local_state(int(id_ or content["pid"]), content["host"])
        records.append(record_of(sweep.folder, job, status, scheduled, id_))
    return records


def record_of(folder: Path, job: Job, status: dict[str, Any] | None, scheduled: str, id_: str | None) -> SweepRecord:
    """One job's record from its status.json and its state in the scheduler."""
    status = status or {}
    state, seconds = status.get("state"), status.get("seconds")
    if state == "completed":
        said = read_what_is_there(folder / job.folder / "metrics.json")
        return SweepRecord(job, "completed", False, seconds, said.get("note") or "", said.get("metrics"))
    if state == "failed":
        for before in map(read_status, (folder / EXTRACT_FOLDER).glob(f"*/{job.folder}")):
            if before.get("state") == "failed":  # the job's own error is only a consequence
                return SweepRecord(job, "failed", False, seconds, f"extraction: {before['error']['message']}")
        return SweepRecord(job, "failed", False, seconds, status["error"]["message"])
    if scheduled in ALIVE:
        if state != "running" or scheduled == "PENDING":
            return SweepRecord(job, "waiting", True)
        return SweepRecord(job, "running", True, message=progress_text(status))
    by = f"job {id_}" if id_ else "its process"
    if not status:
        why = "" if scheduled == GONE else f"; SLURM says {scheduled}"
        return SweepRecord(job, "not started", False, message=f"{by} ended before the run started{why}")
    if state == "stopped":
        return SweepRecord(job, "stopped", False, seconds, status["error"]["message"])
    hint = " (raise hydra.launcher.mem_gb)" if scheduled == "OUT_OF_MEMORY" else ""
    why = "killed or lost" if scheduled in (GONE, "COMPLETED") else f"SLURM says {scheduled}{hint}"
    return SweepRecord(job, "died", False, message=f"{by} on {status['host']} exited without writing a status: {why}")


def slurm_queue(needed: bool = True) -> dict[str, tuple[str, str]] | None:
    """State and pending reason of each of this user's jobs that SLURM still lists, by id.

    None if SLURM does not answer. If SLURM is not installed, raises RefexpError if it is needed; else None.
    """
    ask = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True).stdout
    except FileNotFoundError:
        if needed:
            raise RefexpError("squeue was not found. Run this on the machine that submitted the sweep.") from None
        return None
    except subprocess.SubprocessError:
        return None  # the controller is busy or restarting
    rows = (line.strip().split("|") for line in answer.splitlines() if line.count("|") == 2)
    return {id_: (state, reason) for id_, state, reason in rows}


def check_possible(ids: Sequence[str]) -> None:
    """Raise RefexpError if SLURM accepted one of these jobs but can never start it."""
    for id_, (state, reason) in (slurm_queue() or {}).items():
        if id_ in ids and state == "PENDING" and reason in IMPOSSIBLE:
            raise RefexpError(f"SLURM can never start job {id_} ({reason}): it requests more than any node has")


def local_state(pid: int, host: str) -> str:
    """RUNNING or GONE. This process runs no job while it asks. One on another machine is not visible: GONE."""
    return "RUNNING" if host == socket.gethostname() and pid != os.getpid() and is_alive(pid) else GONE
