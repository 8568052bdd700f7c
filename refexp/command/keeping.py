"""`refexp sweep`, `store` and `weights`: manage jobs, stored entries and weights."""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click

from refexp.command.looking import FOLDER
from refexp.command.running import HELPED, own_folder, run_hydra

WITH_A_FOLDER = {
    "status": "Print a table of all jobs, with the progress of running jobs.",
    "collect": "Wait until no job waits or runs, then print the table and the summary.",
    "cancel": "Stop all jobs that wait or run.",
    "retry": "Run jobs again that failed, died or never started, in the same folders.",
}
"""The commands of `refexp sweep` that take the folder of a sweep."""


GROWN = "hydra.sweep.dir="


@click.group()
def sweep() -> None:
    """Plan a sweep, or manage its jobs. Then the exit code is 0 only if every job is completed."""


@sweep.command(context_settings=HELPED)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def plan(overrides: tuple[str, ...]) -> None:
    """Print the jobs of a sweep, what the store holds of their work, and what the rest takes. Run nothing.

    OVERRIDES are those of `python main.py -m`. With hydra.sweep.dir=OUT, only the jobs that OUT lacks count, and its
    runs tell the rates, too. hydra.launcher.runs=DIR takes them from earlier runs in DIR, not in outputs.

    \b
    refexp sweep plan shots=1,5,10 seed=0,1,2
    refexp sweep plan shots=1,5,10 seed=0,1,2,3 hydra.sweep.dir=OUT
    """
    grown = [f"+hydra.launcher.{word.removeprefix('hydra.sweep.')}" for word in overrides if word.startswith(GROWN)]
    kept = [word for word in overrides if not word.startswith(("-m", "--multirun", "hydra/launcher=", "hydra.sweep."))]
    with tempfile.TemporaryDirectory() as nowhere:  # Hydra writes the sweep's configuration
        run_hydra("run", ["-m", *kept, *grown, "hydra/launcher=plan", f"hydra.sweep.dir={nowhere}"])


def manage(what: str, folder: Path) -> None:
    """Run one of the other commands."""
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


for name, line in WITH_A_FOLDER.items():
    sweep.command(name, help=line)(click.argument("folder", type=FOLDER)(partial(manage, name)))


@click.group()
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path("store"),
              envvar="REFEXP_STORE", show_default=True, show_envvar=True, help="The store (store.dir).")  # fmt: skip
@click.pass_context
def store(context: click.Context, folder: Path) -> None:
    """Manage a store."""
    if context.invoked_subcommand != "import" and not folder.is_dir():
        raise click.BadParameter(f"Directory '{folder}' does not exist.", param_hint="'--dir'")
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
    """Find damaged entries, and repair indexes. The exit code is 1 if any damaged entries are left."""
    from refexp.store.upkeep import verify

    sys.exit(1 if verify(folder, delete) else 0)


@store.command()
@click.pass_obj
def migrate(folder: Path) -> None:
    """Move the entries of older versions, one file each, into shards. The exit code is 1 if damaged ones are left."""
    from refexp.store.upkeep import migrate

    sys.exit(1 if migrate(folder) else 0)


@store.command(context_settings=HELPED)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def export(folder: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Write the entries of a data set into the folder OUT, for a machine without its images.

    OVERRIDES are those of `refexp run`. All targets must be in the store. On the other machine, run
    `refexp store import OUT`, and then stage=ablate.

    \b
    refexp store export OUT dataset=custom dataset.images=... encoder=dinov2_vitl14
    """
    from refexp.command.exporting import export
    from refexp.config.composing import compose_config

    own_folder(overrides)
    config = compose_config(overrides)
    config.store.dir = str(folder)
    click.echo(export(config, out))


@store.command("import")
@click.argument("source", type=FOLDER)
@click.pass_context
def import_(context: click.Context, source: Path) -> None:
    """Take in the entries that `refexp store export` wrote into the folder SOURCE."""
    from refexp.store.travel import import_store

    entries, manifests = import_store(context.obj, source)
    click.echo(f"{entries} entries and {manifests} manifests imported into {context.obj}")


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
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("checkpoints"),
              envvar="REFEXP_CHECKPOINTS", show_default=True, show_envvar=True,
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
