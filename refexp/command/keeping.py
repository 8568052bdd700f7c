"""`refexp sweep`, `store` and `weights`: looking after jobs, stored entries and weights."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("what", type=click.Choice(["status", "collect", "cancel", "retry"]))
@click.argument("folder", type=FOLDER)
def sweep(what: str, folder: Path) -> None:
    """Look after the jobs of a sweep, whose folder the end of its command names.

    The exit code is 0 only if every job is completed.

    \b
    status    a table of all jobs, and how far the running ones are
    collect   wait for those that wait or run, then table and summary
    cancel    stop them
    retry     run again those that failed, died or never started, in the same folders
    """
    from refexp.cluster.sweeps import report, retry, wait_for
    from refexp.folders.sweep_folder import Sweep

    there = Sweep(folder.absolute())
    if what == "retry":
        sys.exit(retry(there))
    if what == "cancel":
        there.cancel()
        time.sleep(1)
    if what == "collect":
        wait_for(there)
    unfinished = report(there)
    if what == "collect":
        from refexp.show.tables.summary import summarise_sweep  # imports numpy, which the others need not wait for

        summarise_sweep(there.folder)
    sys.exit(1 if unfinished else 0)


@click.group()
@click.option("--dir", "folder", type=FOLDER, default=Path("store"), show_default=True, help="The store (store.dir).")
@click.pass_context
def store(context: click.Context, folder: Path) -> None:
    """Look after a store."""
    context.obj = folder


@store.command("ls")
@click.pass_obj
def list_store(folder: Path) -> None:
    """Print what is held, by what made it, and how large it is."""
    from refexp.store.upkeep import list_entries

    list_entries(folder)


@store.command()
@click.option("--delete", is_flag=True, help="Delete damaged entries; they are computed again when needed.")
@click.pass_obj
def verify(folder: Path, delete: bool) -> None:
    """Find damaged entries; the exit code is 1 if any are left."""
    from refexp.store.upkeep import verify

    sys.exit(1 if verify(folder, delete) else 0)


@store.command()
@click.option("--older-than", type=float, metavar="DAYS", help="Entries written longer ago.")
@click.option("--made-by", metavar="TEXT", help="Entries whose line in `refexp store ls` holds this text.")
@click.option("--all", "everything", is_flag=True, help="Every entry.")
@click.pass_obj
def prune(folder: Path, older_than: float | None, made_by: str | None, everything: bool) -> None:
    """Delete entries to free space; give one of the options."""
    from refexp.store.upkeep import prune

    if sum((older_than is not None, made_by is not None, everything)) != 1:
        raise click.UsageError("give one of --older-than, --made-by and --all.")
    prune(folder, older_than, made_by, everything)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("checkpoints"), show_default=True,
              help="Folder for the files (checkpoints.dir).")  # fmt: skip
def weights(names: tuple[str, ...], folder: Path) -> None:
    """Fetch official weights, checked against their SHA-256; without names, list what there is.

    \b
    refexp weights sam2_hiera_l dinov2_vitl14
    """
    from refexp.machine.checkpoints import CHECKPOINTS, fetch

    for name, checkpoint in CHECKPOINTS.items() if not names else ():
        state = "here" if (folder / checkpoint.file).is_file() else "not here"
        click.echo(f"{name:18} {state:9} {checkpoint.url}")
    for name in names:
        fetch(name, folder)
