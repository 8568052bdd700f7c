"""The command `refexp`: looking at runs and sweeps that are there, and preparing data. `python main.py` runs one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from refexp.datatools.cli import data
from refexp.errors import RefexpError

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
SHORT = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=SHORT)
def group() -> None:
    """Look at runs and sweeps, and prepare data. `python main.py` runs an experiment."""


group.add_command(data)


@group.command()
@click.argument("folder", type=FOLDER)
@click.option("--limit", type=click.IntRange(min=0), help="Targets that are drawn, spread evenly over the split.")
@click.option("--all", "everything", is_flag=True, help="Draw all targets.")
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Lowest score that is drawn, listed or masked.")
@click.option("--report/--no-report", default=None, help="Write report.html.")
def show(folder: Path, limit: int | None, everything: bool, score_threshold: float | None, report: bool | None) -> None:
    """Print the tables of a run or a sweep, and build its overlays and its report.html again.

    FOLDER is the folder of a run, or of a sweep. What is not given is as it was when the run was made.

    \b
    refexp show outputs/synthetic/run/2026-01-31_12-00-00-000000
    refexp show outputs/coco_fsod/shots/2026-01-31_12-00-00-000000 --all --score-threshold 0.3
    """
    from refexp.folders.run_folder import RunFolder
    from refexp.show.run import show_run
    from refexp.show.tables.summary import show_sweep

    folder = folder.absolute()
    if not (folder / "metrics.json").exists():
        show_sweep(folder)
        return
    given: dict[str, Any] = {"limit": limit, "score_threshold": score_threshold, "report": report}
    changes = {name: value for name, value in given.items() if value is not None}
    show_run(RunFolder(folder), changes | ({"limit": None} if everything else {}))


@group.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--follow", is_flag=True, help="Follow one run until it ends (logger=wandb does so).")
def push(folders: tuple[Path, ...], follow: bool) -> None:
    """Send finished runs, or those of sweeps, to Weights & Biases.

    A run that was sent already is not sent again; one that was kept offline is, once there is a key. Sent again it is
    the same W&B run.
    """
    from refexp.tracking import wandb

    if follow:
        sys.exit(wandb.follow(folders[0]))
    failed = 0
    for folder in folders:
        jobs = sorted(path.parent for path in folder.glob("*/metrics.json"))
        for run in [folder] if (folder / "metrics.json").exists() else jobs:
            try:
                click.echo(wandb.push(run))
            except RefexpError as error:
                failed += 1
                click.echo(f"{run}: {error}", err=True)
        if not jobs and not (folder / "metrics.json").exists():
            raise RefexpError(f"{folder} has no finished run: neither a metrics.json nor jobs with one.")
    sys.exit(1 if failed else 0)


@group.command()
@click.argument("what", type=click.Choice(["status", "collect", "cancel", "retry"]))
@click.argument("folder", type=FOLDER)
def sweep(what: str, folder: Path) -> None:
    """Look after the jobs of a sweep: where they are, wait for them, stop them, run the unfinished again."""
    from refexp.cluster import sweeps as sweep

    sys.exit(sweep.main([what, str(folder)]))


def main() -> None:
    """The command; a user's mistake is one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        group.main(prog_name="refexp")
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
