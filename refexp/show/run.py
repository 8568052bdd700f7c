"""Show one run: overlays, lists, the report page and the terminal tables, all built from the run's folder."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from refexp.config.building import build, check
from refexp.config.components import SummaryFormat, Vis
from refexp.data.coco import Split
from refexp.errors import MissingData, RefexpError, reason, shown
from refexp.folders.run_folder import RunFolder
from refexp.folders.status import run_log
from refexp.folders.sweep_folder import Sweep
from refexp.show.findings import write_masks, write_summary
from refexp.show.fonts import numbered
from refexp.show.gallery import draw_references, draw_targets, spread
from refexp.show.harmless import harmless
from refexp.show.instances import Instance, detected
from refexp.show.memory_bank import draw_memory_bank
from refexp.show.page.report import NAME, write_report
from refexp.show.terminal import print_diagnosis, print_findings, print_metrics, print_places, reached
from refexp.types import ImageId

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a run is shown: `vis.*` of its configuration, and with task=predict also `summary` and `masks`."""

    vis: Vis
    summary: SummaryFormat | None
    masks: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Options:
        """Read the options from a run's configuration. Raises RefexpError that names the wrong key."""
        return cls(
            vis=build(config.get("vis", {}), "vis", Vis),
            summary=check(config.get("summary"), SummaryFormat | None, "summary"),
            masks=check(config.get("masks", False), bool, "masks"),
        )


def show_run(
    run: RunFolder, changes: dict[str, Any] | None = None, tables: Literal["all", "one line", "none"] = "all"
) -> None:
    """Draw the overlays, write the lists and the page, and print the tables of a finished run.

    changes: values of `vis` that replace those of the run's configuration. tables: what of them to print; run.log gets
    all but with "none". If the data set or its images are gone, shows what the folder holds and warns about what is
    missing.
    """
    record, options = run.record, Options.of(run.record.config)
    vis = replace(options.vis, **changes or {})
    page = None
    with standing_in(record.cwd):
        # First of all: files that are missing must be an error before anything is overwritten.
        detections = run.detections
        # With metrics, no table lists them. A job of a sweep that keeps no detections has no masks to list.
        listed = detections if options.summary or options.masks or not record.metrics else []
        found = [one for of_image in listed for one in detected(of_image.above(vis.score_threshold))]
        try:
            start = time.perf_counter()
            missing = draw_pictures(run, vis) if vis.limit != 0 else None
            if vis.limit != 0:
                run.add_stage("overlays", time.perf_counter() - start)
            with harmless("memory_bank.png"):
                if run.memory_bank:
                    draw_memory_bank(run.path / "memory_bank.png", record.classes, *run.memory_bank, record.note)
            if options.summary:
                write_summary(run.path / f"summary.{options.summary}", found, record.classes)
            if options.masks:
                write_masks(run.path / "masks", found, record.classes)
            page = write_report(run, vis.limit, vis.score_threshold, missing) if vis.report else None
        finally:
            if tables != "none":
                print_all(run, found, page, tables == "one line")


def print_all(run: RunFolder, found: Sequence[Instance], page: Path | None, in_one_line: bool = False) -> None:
    """Print the tables of a run, and where its files are, also into run.log.

    found: the detections that are shown where there are no metrics. in_one_line: print only what the run reaches.
    """
    record = run.record
    console = Console(soft_wrap=True, record=True, file=io.StringIO() if in_one_line else None)
    if record.metrics:
        if run.diagnostics:
            print_diagnosis(console, run.diagnostics)
        print_metrics(console, record)
    else:
        print_findings(console, found, record)
    print_places(console, run.path, page, record.note)
    run_log.info("%s", console.export_text())
    if in_one_line:
        log.info("%s in %s", reached(record, len(found)), run.path)


def show_extremes(folder: Path) -> list[Path]:
    """Draw the pages of a sweep's best and worst run by `objective` that are not there. Returns those with a page."""
    runs = [RunFolder(folder / job.folder) for job, _ in Sweep(folder).jobs()]
    done = [run for run in runs if (run.path / "metrics.json").exists() and run.record.objective is not None]
    done.sort(key=lambda run: run.record.objective or 0)
    extremes = list(dict.fromkeys([*done[-1:], *done[:1]]))
    for run in extremes:
        if not (run.path / NAME).exists() and run.detections_file:
            show_run(run, tables="none")
    return [run.path for run in extremes if (run.path / NAME).exists()]


def draw_pictures(run: RunFolder, vis: Vis) -> str | None:
    """Write the overlays. Returns None, or the reason why there are none."""
    folder, note = run.path / "overlays", run.record.note
    if unwritten := numbered(run.record.classes):
        some = ", ".join(f"{number} {shown(name)}" for number, name in list(unwritten.items())[:20])
        log.warning("no font has all signs of %d class names, so pictures show numbers: %s", len(unwritten), some)
    try:
        data = run.data
        chosen = set(spread(data.targets.images, vis.limit))
        if chosen and all(is_missing(data.targets, image_id) for image_id in chosen):
            raise MissingData(f"pictures are missing, because the images of {data.targets.source} are not there")
        draw_references(folder, data, run.references, note)
        targets = [found for found in run.detections if found.image_id in chosen]
        draw_targets(folder, data, targets, vis.score_threshold, note)
    except (RefexpError, OSError) as error:
        log.warning("overlays were not drawn: %s", reason(error))
        return reason(error)
    return None


def is_missing(split: Split, image_id: ImageId) -> bool:
    """Whether the file of an image does not exist."""
    try:
        split.fingerprint(split.images[image_id])
    except MissingData:
        return True
    return False


@contextmanager
def standing_in(folder: str | None) -> Iterator[None]:
    """Within the block, relative paths start from this folder, if it still exists."""
    before = Path.cwd()
    with suppress(OSError, ValueError):  # it is gone, or another user's
        os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)
