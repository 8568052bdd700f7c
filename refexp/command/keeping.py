"""`refexp sweep`, `store` and `weights`: manage jobs, stored entries and weights."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from refexp.command.looking import FOLDER


@click.command()
@click.argument("what", type=click.Choice(["status", "collect", "cancel", "retry"]))
@click.argument("folder", type=FOLDER)
def sweep(what: str, folder: Path) -> None:
    """Manage the jobs of a sweep. FOLDER is the folder of the sweep.

    The exit code is 0 only if every job is completed.

    \b
    status    print a table of all jobs, with the progress of running jobs
    collect   wait until no job waits or runs, then print the table and the summary
    cancel    stop all jobs that wait or run
    retry     run jobs again that failed, died or never started, in the same folders
    """
    from refexp.cluster.sweeps import report, retry, wait_for
    from refexp.folders.sweep_folder import Sweep

    there = Sweep(folder.absolute())
    if what == "retry":
        sys.exit(retry(there))
    if what == "cancel":
        there.cancel()
        time.sleep(1)  # give the jobs time to exit, so that the table below is up to date
    if what == "collect":
        wait_for(there)
    unfinished = report(there)
    if what == "collect":
        from refexp.show.tables.summary import summarise_sweep  # imports numpy, which would slow down the others

        summarise_sweep(there.folder)
    sys.exit(1 if unfinished else 0)


@click.group()
@click.option("--dir", "folder", type=FOLDER, default=Path("store"), show_default=True, help="The store (store.dir).")
@click.pass_context
def store(context: click.Context, folder: Path) -> None:
    """Manage a store."""
    context.obj = folder


@store.command("ls")
@click.pass_obj
def list_store(folder: Path) -> None:
    """Print the entries, grouped by the component that made them, and their sizes."""
    from refexp.store.upkeep import list_entries

    list_entries(folder)


@store.command()
@click.option("--delete", is_flag=True, help="Delete damaged entries. A later run computes them again.")
@click.pass_obj
def verify(folder: Path, delete: bool) -> None:
    """Find damaged entries. The exit code is 1 if any are left."""
    from refexp.store.upkeep import verify

    sys.exit(1 if verify(folder, delete) else 0)


@store.command()
@click.option("--older-than", type=float, metavar="DAYS", help="Delete entries that are older than this.")
@click.option("--made-by", metavar="TEXT", help="Delete entries whose line in `refexp store ls` contains this text.")
@click.option("--all", "everything", is_flag=True, help="Delete all entries.")
@click.pass_obj
def prune(folder: Path, older_than: float | None, made_by: str | None, everything: bool) -> None:
    """Delete entries to free disk space. Give exactly one of the options."""
    from refexp.store.upkeep import prune

    if sum((older_than is not None, made_by is not None, everything)) != 1:
        raise click.UsageError("give exactly one of --older-than, --made-by and --all.")
    prune(folder, older_than, made_by, everything)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("checkpoints"), show_default=True,
              help="Folder for the files (checkpoints.dir).")  # fmt: skip
def weights(names: tuple[str, ...], folder: Path) -> None:
    """Download official weights and check their SHA-256. Without names, list all weights.

    \b
    refexp weights sam2_hiera_l dinov2_vitl14
    """
    from refexp.machine.checkpoints import CHECKPOINTS, fetch

    for name, checkpoint in CHECKPOINTS.items() if not names else ():
        state = "present" if (folder / checkpoint.file).is_file() else "missing"
        click.echo(f"{name:18} {state:9} {checkpoint.url}")
    for name in names:
        fetch(name, folder)
