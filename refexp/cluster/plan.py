"""A dry run of a sweep: its jobs, what the store holds of their work, and what the rest takes (`refexp sweep plan`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refexp.cluster.composing import without_hydra
from refexp.cluster.launchers import SerialLauncher, hydra_knows
from refexp.config.components import build_experiment, told_how_to_get
from refexp.data.coco import Data
from refexp.data.sampling import choose_without_images
from refexp.errors import RefexpError
from refexp.experiment.prepare import extractor_of
from refexp.folders.record import RunRecord
from refexp.folders.sweep_folder import Sweep
from refexp.machine.provenance import device_name
from refexp.show.words import typed, varied

IMAGE = ("extract", "wait for images")
"""Stages of images that the store lacks."""
REFERENCE = ("remember", "masks of boxes")
"""Stages of references that the store lacks."""
ONCE = ("read annotations", "load networks", "memory bank", "other")
"""Stages that the first job of a data set has. All others depend on the number of images, in the store or not."""
PAGE = ("overlays", "page")
"""Stages of the best and of the worst job of a sweep."""
COMPILE = "compile loops"
"""A stage of the first run on a machine. That run also compiles in other stages, so a later run tells more."""


@dataclass(frozen=True)
class Work:
    """A job. made_by: encoder, proposer and device. dataset: its settings, as text.

    images, references: the store's key of each, with the size of its entry in bytes. None: the store lacks it.
    """

    overrides: list[str]
    images: dict[str, int | None]
    references: dict[str, int | None]
    made_by: dict[str, Any]
    dataset: str = ""


@dataclass(frozen=True)
class Rates:
    """Seconds in earlier runs: once in a sweep, for an image in the store, and more for a new image or reference."""

    once: float
    image: float
    new_image: float | None
    new_reference: float | None

    def seconds(self, images: int, new_images: int, new_references: int) -> float | None:
        """The estimate for a job. None if no earlier run tells."""
        if (new_images and self.new_image is None) or (new_references and self.new_reference is None):
            return None
        more = new_images * (self.new_image or 0.0) + new_references * (self.new_reference or 0.0)
        return images * self.image + more


@dataclass(frozen=True)
class Planned:
    """What a job takes. The new images and references are in neither the store nor an earlier job.

    bytes: size of the new images in the store. None: unknown, like seconds.
    """

    work: Work
    new_images: int
    new_references: int
    seconds: float | None
    bytes: float | None


class Once(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = record.getMessage() not in self.passed
        self.passed.add(record.getMessage())
        return new


@contextmanager
def each_said_once() -> Iterator[None]:
    """Log no message twice: jobs of a sweep have much in common."""
    filters = [(handler, Once()) for handler in logging.getLogger().handlers]
    for handler, once in filters:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in filters:
            handler.removeFilter(once)


class PlanLauncher(Launcher):
    """Prints the jobs of a multirun and runs none.

    runs: folder of earlier runs. dir: folder of a sweep. Its completed jobs do not run again, so they are left out.
    """

    def __init__(self, runs: str, dir: str | None = None) -> None:
        self.runs, self.grown = Path(runs), Sweep(Path(dir).absolute()) if dir else None
        self.loaded: dict[str, Data] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher = SerialLauncher()  # knows which jobs a sweep has
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Print the plan. Raises RefexpError for a job that could not start."""
        wanted = [list(overrides) for overrides in job_overrides]
        runs = [self.runs]
        if self.grown and self.grown.path.exists():
            jobs = self.launcher.jobs(self.grown, wanted, 0, trusting=True)
            wanted = [job.overrides for job in jobs if self.grown.state(job) != "completed"]
            print(f"{len(jobs) - len(wanted)} of {len(jobs)} jobs are completed in {self.grown.folder}")
            runs = [self.grown.folder, self.runs]
        with each_said_once():
            works = [self.work(overrides) for overrides in wanted]
        report(plan(works, runs), runs)
        return []

    def work(self, overrides: list[str]) -> Work:
        """Build the components of a job, and read its annotations unless another job has."""
        config = self.launcher.compose(overrides)
        job_config = without_hydra(config)
        with hydra_knows(config), told_how_to_get(job_config):
            job = build_experiment(job_config)
            name = json.dumps(job.config["dataset"], sort_keys=True)
            data = self.loaded[name] = self.loaded.get(name) or job.dataset.load()
        extractor = extractor_of(job)
        data, drawn = choose_without_images(data, job.sampler, job.shots, job.seed)
        targets = data.targets.first(job.input.limit)
        images = [extractor.first_key(targets, record) for record in targets.images.values()]
        references = [extractor.first_key(data.references, one) for of_class in drawn for one in of_class]
        held = [{key: job.store.size(key) for key in keys} for keys in (images, references)]
        return Work(overrides, held[0], held[1], made_by(job.config, device_name(job.device)), name)


def made_by(config: dict[str, Any], device: str) -> dict[str, Any]:
    """What the speed depends on: encoder and proposer, wherever their weights lie, and the device."""
    parts = {part: dict(config.get(part) or {}) for part in ("encoder", "proposer")}
    for settings in parts.values():
        settings.pop("checkpoints_dir", None)
    return parts | {"device": device}


def plan(works: Sequence[Work], runs: Sequence[Path]) -> list[Planned]:
    """Count and estimate. What several jobs need is new in the first of them."""
    planned: list[Planned] = []
    taken: set[str] = set()
    begun: set[tuple[str, str]] = set()
    known: dict[str, Rates | None] = {}
    for work in works:
        sizes = [size for size in work.images.values() if size is not None]
        images, references = (
            {key for key, size in of.items() if size is None} - taken for of in (work.images, work.references)
        )
        taken |= images | references
        name = json.dumps(work.made_by, sort_keys=True)
        if name not in known:
            known[name] = rates_of(runs, work.made_by)
        counts, rates = (len(images), len(references)), known[name]
        seconds = rates.seconds(len(work.images), *counts) if rates else None
        if rates and seconds is not None and (name, work.dataset) not in begun:
            seconds += rates.once
        begun.add((name, work.dataset))
        added = len(images) * sum(sizes) / len(sizes) if sizes else None if images else 0.0
        planned.append(Planned(work, *counts, seconds, added))
    return planned


def rates_of(runs: Sequence[Path], wanted: dict[str, Any]) -> Rates | None:
    """The rates in the newest runs below these folders with this encoder, proposer and device. None without one."""
    found: list[RunRecord] = []
    paths = {path.resolve() for folder in runs for path in folder.rglob("metrics.json")}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            record = RunRecord.read(path.parent)
        except RefexpError:
            continue  # of another program, or damaged: it tells nothing
        if made_by(record.config, record.device) == wanted and record.images:
            found.append(record)
            if IMAGE[0] in record.stages and REFERENCE[0] in record.stages:
                break
    if not found:
        return None
    newest = next((record for record in found if COMPILE not in record.stages), found[0])
    counted_elsewhere = {*IMAGE, *REFERENCE, *ONCE, *PAGE, "detect for other jobs"}
    others = {"detect"} if COMPILE in newest.stages else set(newest.stages) - counted_elsewhere
    pages = 2 * next((sum_of(record, PAGE) for record in found if PAGE[1] in record.stages), 0.0)
    once, image = sum_of(newest, ONCE) + pages, sum_of(newest, others) / newest.images
    return Rates(once, image, per_item(found, IMAGE), per_item(found, REFERENCE))


def sum_of(record: RunRecord, stages: Iterable[str]) -> float:
    """Seconds of some stages."""
    return sum(record.stages[name]["seconds"] for name in stages if name in record.stages)


def per_item(records: Sequence[RunRecord], stages: Sequence[str]) -> float | None:
    """Seconds of some stages for each item of the first of them, in the first run that has it."""
    for record in records:
        if stages[0] in record.stages:
            return sum_of(record, stages) / record.stages[stages[0]]["items"]
    return None


def report(planned: Sequence[Planned], runs: Sequence[Path]) -> None:
    """Print a line for each job, and the sums."""
    jobs = [job.work.overrides for job in planned]
    table = Table()
    for name in ("#", "job", "images", "new", "references", "new", "time"):
        table.add_column(name, justify="left" if name == "job" else "right")
    for number, job in enumerate(planned):
        what = varied(job.work.overrides, jobs) or " ".join(map(typed, job.work.overrides))
        counts = len(job.work.images), job.new_images, len(job.work.references), job.new_references
        table.add_row(str(number), escape(what), *map(str, counts), duration(job.seconds))
    console = Console(soft_wrap=True)
    console.print(table)
    for line in sums(planned, runs):
        console.print(line, markup=False)


def sums(planned: Sequence[Planned], runs: Sequence[Path]) -> list[str]:
    """What the store holds, what is new, and the time and the disk space that it takes."""
    if not planned:
        return ["nothing to run"]
    places = " and ".join(map(str, runs))
    images = {key for job in planned for key in job.work.images}
    new, added = sum(job.new_images for job in planned), total([job.bytes for job in planned])
    size = "of unknown size: the store has none like them" if added is None else f"about {added / 2**20:.1f} MiB"
    stored = f"{len(planned)} jobs on {len(images)} images: {len(images) - new} in the store, {new} new"
    stored += f", {size}" if new else ""
    seconds = total([job.seconds for job in planned])
    if seconds is None:
        why = f"no earlier run in {places} tells, with this encoder, proposer and device"
        return [stored, f"time unknown: {why}. A trial does: input.limit=50"]
    device = planned[0].work.made_by["device"]
    return [stored, f"about {duration(seconds)} one after another on {device}, by earlier runs in {places}"]


def total(values: Sequence[float | None]) -> float | None:
    """The sum; None if a value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3.5 h`; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
