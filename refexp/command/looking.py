"""`refexp show`, `summary`, `push` and `dashboard`: looking at runs that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from refexp.errors import RefexpError

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--limit", type=click.IntRange(min=0), help="Targets that are drawn, spread evenly over the split.")
@click.option("--all", "everything", is_flag=True, help="Draw all targets.")
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Lowest score that is drawn, listed or masked.")
@click.option("--report/--no-report", default=None, help="Write report.html.")
def show(folder: Path, limit: int | None, everything: bool, score_threshold: float | None, report: bool | None) -> None:
    """Print the tables of a run or a sweep, and build its overlays and its report.html again.

    What you do not give is as it was when the run was made.

    \b
    refexp show outputs/synthetic/run/2026-01-31_12-00-00-000000
    refexp show RUN --all --score-threshold 0.3
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


@click.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--rows", metavar="KEY", help="The setting down the table, as you type it on the command line.")
@click.option("--cols", metavar="KEY", help="The setting across; chosen from what differs if not given.")
@click.option(
    "--metric", metavar="NAMES", help="Numbers of metrics.json, separated by commas; a table and a plot each."
)
@click.option("--compare", metavar="A,B", help="Two values of --cols, paired by seed.")
@click.option("--published", type=click.Path(path_type=Path), help="A CSV of published figures.")
@click.option("--out", type=click.Path(path_type=Path), help="Where tables and plots go; FOLDER/summary if not given.")
def summary(folders: tuple[Path, ...], **keys: Any) -> None:
    """Put all runs below some folders into tables: mean and deviation over seeds, and what is missing.

    Runs that differ in more than rows, columns and seed get tables of their own.

    \b
    refexp summary OUT
    refexp summary OUT --rows shots --cols matcher --metric bbox/nAP,segm/nAP50
    refexp summary OUT MORE --cols postprocess.topk.k --compare 50,100 --out DIR
    """
    from refexp.show.tables.summary import Wanted, print_summary, summarise

    try:
        print_summary(summarise(folders, Wanted(**keys)))
    except OSError as error:
        raise RefexpError(f"--out: cannot write {error.filename}: {error.strerror}; name another folder.") from None


@click.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--follow", is_flag=True, help="Follow one run until it ends (logger=wandb does so).")
def push(folders: tuple[Path, ...], follow: bool) -> None:
    """Send finished runs, or those of sweeps, to Weights & Biases.

    A run that was sent already is not sent again. One that was kept offline is sent once there is a key. A run that you
    push again is the same W&B run.
    """
    from refexp.tracking import wandb

    if follow:
        sys.exit(wandb.follow(folders[0]))
    failed = 0
    for folder in folders:
        jobs = [path.parent for path in sorted(folder.glob("*/metrics.json"), key=lambda path: (len(str(path)), path))]
        runs = [folder] if (folder / "metrics.json").exists() else jobs
        if not runs:
            raise RefexpError(f"{folder} has no finished run: neither a metrics.json nor jobs with one.")
        for run in runs:
            try:
                click.echo(wandb.push(run))
            except RefexpError as error:
                failed += 1
                click.echo(f"{run}: {error}", err=True)
    sys.exit(1 if failed else 0)


@click.command()
@click.argument("definition", type=click.Path(path_type=Path))
@click.option("--project", default="refexp", show_default=True, help="Of the runs, and of the report.")
@click.option("--entity", help="User or team; your key's own if not given.")
@click.option("--group", help="Compare the runs of this group only: the name of a sweep's folder.")
@click.option("--dry-run", is_flag=True, help="Print the report as JSON; nothing is sent.")
def dashboard(definition: Path, project: str, entity: str | None, group: str | None, dry_run: bool) -> None:
    """Build a W&B report from a YAML file, such as sweeps/dashboards/ablation.yaml."""
    from refexp.tracking.dashboard import build_report, publish, read

    report = build_report(read(definition), entity or "ENTITY", project, group)
    if dry_run:
        click.echo(report._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1))
    else:
        click.echo(publish(report, entity))
