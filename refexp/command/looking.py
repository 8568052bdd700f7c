"""`refexp show`, `summary`, `compare`, `push` and `dashboard`: inspect and publish existing runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from refexp.errors import RefexpError

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--limit", type=click.IntRange(min=0), help="Number of targets to draw, evenly spaced over the split.")
@click.option("--all", "everything", is_flag=True, help="Draw all targets.")
@click.option("--score-threshold", type=click.FloatRange(0, 1), help="Lowest score to draw, list or save as a mask.")
@click.option("--report/--no-report", default=None, help="Write report.html.")
def show(folder: Path, limit: int | None, everything: bool, score_threshold: float | None, report: bool | None) -> None:
    """Print the tables of a run or a sweep, and rebuild its overlays and its report.html.

    Options that you do not give keep the values of the run's configuration.

    \b
    refexp show outputs/synthetic/run/2026-01-31_12-00-00-000000
    refexp show RUN --all --score-threshold 0.3
    """
    from refexp.folders.run_folder import RunFolder
    from refexp.folders.status import unfinished
    from refexp.show.run import show_run

    folder = folder.absolute()
    if not (folder / "metrics.json").exists():
        if why := unfinished(folder):
            raise RefexpError(f"{folder}: {why}")
        from refexp.show.tables.summary import show_sweep  # imports pandas and Matplotlib, which one run does not need

        show_sweep(folder)
        return
    given: dict[str, Any] = {"limit": limit, "score_threshold": score_threshold, "report": report}
    changes = {name: value for name, value in given.items() if value is not None}
    show_run(RunFolder(folder), changes | ({"limit": None} if everything else {}))


@click.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--rows", metavar="KEY", help="Setting for the rows, as you type it on the command line.")
@click.option("--cols", metavar="KEY", help="Setting for the columns. Default: chosen from the settings that differ.")
@click.option(
    "--metric", metavar="NAMES", help="Names in metrics.json, separated by commas. Each gets a table and a plot."
)
@click.option("--compare", metavar="A,B", help="Two values of --cols to compare, paired by seed.")
@click.option("--published", type=click.Path(path_type=Path), help="A CSV of published figures.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and plots. Default: in FOLDER/summary.")
def summary(folders: tuple[Path, ...], **keys: Any) -> None:
    """Summarise all runs below some folders in tables: mean and deviation over seeds, and missing runs.

    Runs that differ in more than rows, columns and seed get separate tables. Tables of another layout get a folder of
    their own in FOLDER/summary.

    \b
    refexp summary OUT
    refexp summary OUT --rows shots --cols matcher --metric bbox/nAP,segm/nAP50
    refexp summary OUT MORE --cols postprocess.topk.k --compare 50,100 --out DIR
    """
    from refexp.show.tables.summary import Wanted, print_summary, summarise

    try:
        print_summary(summarise(folders, Wanted(**keys)))
    except OSError as error:
        raise RefexpError(f"--out: cannot write {error.filename}: {error.strerror}. Give another folder.") from None


@click.command()
@click.argument("folder", type=FOLDER)
def export(folder: Path) -> None:
    """Make the detections of a run again from the store, as FOLDER/detections.json.

    For a run with detections=none or detections=gz. The store must still hold the entries of the run.

    \b
    refexp export outputs/synthetic/run/2026-01-31_12-00-00-000000
    """
    from refexp.command.again import make_detections

    click.echo(make_detections(folder.absolute()))


@click.command()
@click.argument("first", type=FOLDER, metavar="A")
@click.argument("second", type=FOLDER, metavar="B")
@click.option(
    "--limit", type=click.IntRange(min=0), default=40, show_default=True, help="Number of images on the page."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the page. Default: compare/A_B next to the runs."
)
def compare(first: Path, second: Path, limit: int, out: Path | None) -> None:
    """Compare run B with run A on the same targets: what B won and lost, by image and by class.

    Prints the difference with its interval, and writes classes.csv, images.csv and report.html, where a gallery shows
    the images that changed most with the detections of both runs.

    \b
    refexp compare outputs/synthetic/run/2026-01-31_12-00-00-000000/0 outputs/synthetic/run/2026-01-31_12-00-00-000000/1
    """
    from refexp.folders.run_folder import RunFolder
    from refexp.show.compare import compare_runs, default_folder, print_comparison, write_tables
    from refexp.show.page.comparison import write_comparison
    from refexp.show.run import standing_in

    first, second = first.absolute(), second.absolute()
    out = (out or default_folder(first, second)).absolute()
    runs = RunFolder(first), RunFolder(second)
    comparison = compare_runs(*runs)
    print_comparison(comparison)
    write_tables(comparison, out)
    with standing_in(runs[0].record.cwd):
        page = write_comparison(comparison, out, limit)
    click.echo(f"report: {page}")


@click.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--follow", is_flag=True, help="Follow one run until it ends (used by logger=wandb).")
def push(folders: tuple[Path, ...], follow: bool) -> None:
    """Send finished runs, or the finished runs of sweeps, to Weights & Biases.

    A run that was already sent is not sent again. A run that was kept offline is sent once there is an API key. Pushing
    a run again updates the same W&B run.
    """
    from refexp.tracking import wandb

    if follow:
        sys.exit(wandb.follow(folders[0]))
    failed, kept = 0, []
    for folder in folders:
        jobs = [path.parent for path in sorted(folder.glob("*/metrics.json"), key=lambda path: (len(str(path)), path))]
        runs = [folder] if (folder / "metrics.json").exists() else jobs
        if not runs:
            failed += 1
            click.echo(f"{folder} has no finished run: no metrics.json in it or in its jobs.", err=True)
        for run in runs:
            try:
                click.echo(wandb.push(run))
                kept.append(wandb.sync_command(run.absolute()))
            except (RefexpError, OSError) as error:
                failed += 1
                click.echo(f"{run}: {error}", err=True)
    for command in dict.fromkeys(filter(None, kept)):
        click.echo(command)
    sys.exit(1 if failed else 0)


@click.command()
@click.argument("definition", type=click.Path(path_type=Path))
@click.option("--project", default="refexp", show_default=True, help="W&B project of the runs and of the report.")
@click.option("--entity", help="W&B user or team. Default: that of your API key.")
@click.option("--group", help="Compare only the runs of this group: the name of a sweep's folder.")
@click.option("--dry-run", is_flag=True, help="Print the report as JSON and send nothing.")
def dashboard(definition: Path, project: str, entity: str | None, group: str | None, dry_run: bool) -> None:
    """Build a W&B report from a YAML file, such as sweeps/dashboards/ablation.yaml."""
    from refexp.tracking.dashboard import build_report, publish, read

    report = build_report(read(definition), entity or "ENTITY", project, group and Path(group).name)
    if dry_run:
        click.echo(report._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1))
    else:
        click.echo(publish(report, entity))
