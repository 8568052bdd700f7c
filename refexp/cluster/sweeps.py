"""What to do about the jobs of a sweep: look, wait, stop them, run them again.

    refexp sweep status OUT      # a table of all jobs
    refexp sweep collect OUT     # wait for those that wait or run, then table and summary
    refexp sweep cancel OUT      # stop them
    refexp sweep retry OUT       # run again those that failed, died or never started, in the same folders

OUT is the sweep's folder. The exit code is 0 only if every job is completed.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from refexp.errors import RefexpError
from refexp.folders.sweep_folder import ALIVE, GONE, Sweep, SweepRecord, slurm_queue, survey

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0
LOOKS = 3
"""So often in a row nothing must wait or run before jobs that did not say how they ended count as ended."""


def wait_for(sweep: Sweep) -> list[SweepRecord]:
    """Watch a sweep until nothing of it waits or runs, with a line whenever that changes."""
    shown, quiet = "", 0
    while True:
        records = survey(sweep)
        counts = {state: sum(r.state == state for r in records) for state in dict.fromkeys(r.state for r in records)}
        line = ", ".join(f"{count} {state}" for state, count in counts.items()) + extraction_states(sweep)
        if line != shown:
            log.info("%d jobs: %s", len(records), line)
            shown = line
        # A job that is just being queued again is nowhere for a moment; what it says itself needs no second look.
        quiet = 0 if any(record.alive for record in records) else quiet + 1
        if quiet == LOOKS or (quiet and all(record.state in ("completed", "failed") for record in records)):
            return records
        time.sleep(POLL_SECONDS)


def extraction_states(sweep: Sweep) -> str:
    """`; extraction: running`, as long as it is not over; the jobs wait for it."""
    queue = slurm_queue() or {} if sweep.read()["extraction"] else {}
    alive = [queue[id_][0].lower() for id_ in sweep.read()["extraction"] if queue.get(id_, (GONE,))[0] in ALIVE]
    return f"; extraction: {', '.join(alive)}" if alive else ""


def report(sweep: Sweep, records: Sequence[SweepRecord] | None = None) -> int:
    """Print every job, name the failed ones with the command that runs them again; how many are not completed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    records = survey(sweep) if records is None else records
    common = set.intersection(*(set(r.job.overrides) for r in records)) if len(records) > 1 else set()
    table = Table(title=escape(f"{sweep.folder}"), title_justify="left")
    for name, side in (("#", "right"), ("job", "left"), ("state", "left"), ("seconds", "right"), ("box nAP", "right"),
                       ("mask nAP", "right")):  # fmt: skip
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for r in records:
        colour = {"completed": "green", "waiting": "dim", "running": "cyan"}.get(r.state, "bold red")
        figures = [(r.metrics or {}).get(f"{kind}/nAP") for kind in ("bbox", "segm")]
        shown = ["-" if value is None else f"{100 * value:.1f}" for value in figures]
        what = " ".join(o for o in r.job.overrides if o not in common) or " ".join(r.job.overrides)
        took = "-" if r.seconds is None else f"{r.seconds:.1f}"
        table.add_row(str(r.job.number), escape(what), f"[{colour}]{r.state}[/]", took, *shown)
    console = Console(soft_wrap=True)
    console.print(table)
    for r in records:
        if r.alive and r.message:
            console.print(f"[cyan]#{r.job.number} {r.state}:[/] {escape(r.message)}")
    bad = [r for r in records if r.state != "completed" and not r.alive]
    for r in bad:
        console.print(f"[bold red]#{r.job.number} {r.state}:[/] {escape(r.message)}")
    if bad:
        print(f"{len(bad)} of {len(records)} jobs are not completed. Run only those again:")
        print(f"    refexp sweep retry {shlex.quote(str(sweep.folder))}")
    return sum(r.state != "completed" for r in records)


def retry(sweep: Sweep) -> int:
    """The sweep's own command again, for what is not completed; its exit code."""
    if any(record.alive for record in survey(sweep)):
        raise RefexpError(f"jobs of {sweep.folder} still wait or run; collect or cancel them first.")
    content = sweep.read()
    again = [*content["command"], f"hydra.sweep.dir={sweep.folder}", "sweep.only=unfinished"]
    print(" ".join(shlex.quote(part) for part in again), flush=True)
    return subprocess.run(again, cwd=content["cwd"], check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    """`refexp sweep status|collect|cancel|retry OUT`; the exit code."""
    parser = argparse.ArgumentParser(prog="refexp sweep", description="Look after the jobs of a sweep.")
    parser.add_argument("command", choices=("status", "collect", "cancel", "retry"))
    parser.add_argument("folder", type=Path, help="the sweep's folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sweep = Sweep(options.folder.absolute())
    try:
        if options.command == "retry":
            return retry(sweep)
        if options.command == "cancel":
            sweep.cancel()
            time.sleep(1)
        if options.command == "collect":
            wait_for(sweep)
        unfinished = report(sweep)
        if options.command == "collect":
            from refexp.show.tables.summary import summarise_sweep

            summarise_sweep(sweep.folder)
        return 1 if unfinished else 0
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
