"""Manage the jobs of a sweep: report their states, wait for them, and run them again (`refexp sweep`)."""

from __future__ import annotations

import logging
import shlex
import subprocess
import time
from collections.abc import Sequence

from refexp.errors import RefexpError
from refexp.folders.record import PARTIAL
from refexp.folders.sweep_folder import ALIVE, GONE, Sweep, SweepRecord, slurm_queue, survey
from refexp.show.words import listed, typed, varied

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0
EMPTY_POLLS = 3
"""Number of consecutive empty polls before silent jobs are considered finished."""


def wait_for(sweep: Sweep) -> list[SweepRecord]:
    """Wait until no job of a sweep waits or runs. Logs a line whenever the number of jobs in a state changes."""
    last_line, empty = "", 0
    while True:
        records = survey(sweep)
        counts = {state: sum(r.state == state for r in records) for state in dict.fromkeys(r.state for r in records)}
        line = ", ".join(f"{count} {state}" for state, count in counts.items()) + extraction_states(sweep)
        if line != last_line:
            log.info("%d jobs: %s", len(records), line)
            last_line = line
        # While a job is queued again, SLURM does not list it for a moment, so one empty poll is not enough.
        empty = 0 if any(record.alive for record in records) else empty + 1
        if empty == EMPTY_POLLS or (empty and all(record.state in ("completed", "failed") for record in records)):
            return records
        time.sleep(POLL_SECONDS)


def extraction_states(sweep: Sweep) -> str:
    """`; extraction: running` while the extraction waits or runs, else ""."""
    queue = slurm_queue() or {} if sweep.read()["extraction"] else {}
    alive = [queue[id_][0].lower() for id_ in sweep.read()["extraction"] if queue.get(id_, (GONE,))[0] in ALIVE]
    return f"; extraction: {', '.join(alive)}" if alive else ""


def report(sweep: Sweep, records: Sequence[SweepRecord] | None = None) -> int:
    """Print all jobs, the errors of failed ones, and the command to retry. Returns the number of unfinished jobs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    records = survey(sweep) if records is None else records
    jobs = [r.job.overrides for r in records]
    table = Table(title=escape(f"{sweep.folder}"), title_justify="left")
    for name, side in (("#", "right"), ("job", "left"), ("state", "left"), ("seconds", "right"), ("box nAP", "right"),
                       ("mask nAP", "right")):  # fmt: skip
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for r in records:
        color = {"completed": "green", "waiting": "dim", "running": "cyan"}.get(r.state, "bold red")
        figures = [(r.metrics or {}).get(f"{kind}/nAP") for kind in ("bbox", "segm")]
        values = ["-" if value is None else f"{100 * value:.1f}" for value in figures]
        what = varied(r.job.overrides, jobs) or " ".join(map(typed, r.job.overrides))
        took = "-" if r.seconds is None else f"{r.seconds:.1f}"
        trial = f" {PARTIAL}" if r.message.startswith(PARTIAL) else ""
        table.add_row(str(r.job.number), escape(what), f"[{color}]{r.state}[/]{trial}", took, *values)
    console = Console(soft_wrap=True)
    console.print(table)
    for r in records:
        if r.alive and r.message:
            console.print(f"[cyan]#{r.job.number} {r.state}:[/] {escape(r.message)}")
    bad = [r for r in records if r.state != "completed" and not r.alive]
    for state, message in dict.fromkeys((r.state, r.message) for r in bad):
        equal = listed(f"#{r.job.number}" for r in bad if (r.state, r.message) == (state, message))
        console.print(f"[bold red]{equal} {state}:[/] {escape(message)}")
    if bad:
        print(f"{len(bad)} of {len(records)} jobs are not completed. To run only these again:")
        print(f"    refexp sweep retry {shlex.quote(str(sweep.folder))}")
    here = shlex.quote(f"hydra.sweep.dir={sweep.folder}")
    print(f"to add seeds or variants: the command with more values and {here}")
    return sum(r.state != "completed" for r in records)


def retry(sweep: Sweep) -> int:
    """Run the sweep's commands again for the jobs that are not completed. Returns an exit code."""
    content, failed = sweep.read(), 0
    unfinished = {str(record.job.number) for record in survey(sweep) if record.state != "completed"}
    if not unfinished:
        print(f"all jobs of {sweep.folder} are completed")
    for index in sorted({content["jobs"][number]["command"] for number in unfinished}):
        command, cwd = content["commands"][index].values()
        again = [*command, f"hydra.sweep.dir={sweep.folder}", "sweep.only=unfinished"]
        print(" ".join(shlex.quote(part) for part in again), flush=True)
        try:
            failed |= subprocess.run(again, cwd=cwd, check=False).returncode
        except OSError as error:
            where = f"cannot start the sweep's command in {cwd}"
            raise RefexpError(f"{where}: {error.strerror}. Run the line above yourself.") from None
    return failed
