"""A dry run of a sweep: its jobs, what the store holds of their work, and what the rest takes (`refexp sweep plan`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refexp.config.components import build_experiment, told_how_to_get
from refexp.data.coco import Data
from refexp.errors import RefexpError
from refexp.folders.record import RunRecord
from refexp.machine.provenance import Clock, device_name
from refexp.method.extraction import Extractor

NEW = ("extract", "wait for images")
"""Stages of images that the store lacks."""
ONCE = ("read annotations", "load networks", "remember", "masks of boxes", "memory bank")
"""Stages that do not depend on the number of images."""
SHOWN = ("overlays", "page")
"""Stages that the jobs of a sweep do not have."""


@dataclass(frozen=True)
class Work:
    """A job. images: the store's file for each target, there or not. made_by: encoder, proposer and device."""

    overrides: list[str]
    images: list[Path]
    made_by: dict[str, Any]


@dataclass(frozen=True)
class Rates:
    """Seconds in earlier runs: more for a new image, for every image, and for a job besides. None: unknown."""

    new: float | None = None
    image: float | None = None
    job: float = 0.0

    def seconds(self, images: int, new: int) -> float | None:
        """The estimate for a job. None if no earlier run tells."""
        if self.image is None or (new and self.new is None):
            return None
        return self.job + images * self.image + new * (self.new or 0.0)


@dataclass(frozen=True)
class Planned:
    """What a job takes. new: images that neither the store nor an earlier job has. bytes: their size in the store."""

    work: Work
    new: int
    seconds: float | None
    bytes: float | None


class PlanLauncher(Launcher):
    """Prints the jobs of a multirun and runs none. runs: folder of earlier runs."""

    def __init__(self, runs: str) -> None:
        self.runs = Path(runs)
        self.loaded: dict[str, Data] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Print the plan. Raises RefexpError for a job that could not start."""
        report(plan([self.work(list(overrides)) for overrides in job_overrides], self.runs), self.runs)
        return []

    def work(self, overrides: list[str]) -> Work:
        """Build the components of a job, and read its annotations unless another job has."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        with told_how_to_get(config):
            job = build_experiment(config)
            name = json.dumps(job.config["dataset"], sort_keys=True)
            data = self.loaded[name] = self.loaded.get(name) or job.dataset.load()
        extractor = Extractor(job.encoder, job.proposer, job.store, job.config, job.device, Clock())
        targets = data.targets.first(job.input.limit)
        images = [extractor.target_path(targets, record) for record in targets.images.values()]
        return Work(overrides, images, made_by(job.config, device_name(job.device)))


def made_by(config: dict[str, Any], device: str) -> dict[str, Any]:
    """What the speed depends on: encoder and proposer, wherever their weights lie, and the device."""
    parts = {part: dict(config.get(part) or {}) for part in ("encoder", "proposer")}
    for settings in parts.values():
        settings.pop("checkpoints_dir", None)
    return parts | {"device": device}


def plan(works: Sequence[Work], runs: Path) -> list[Planned]:
    """Count and estimate. An image that several jobs need is new in the first of them."""
    planned: list[Planned] = []
    taken: set[Path] = set()
    rates: dict[str, Rates] = {}
    for work in works:
        sizes = [path.stat().st_size for path in work.images if path.exists()]
        new = {path for path in work.images if not path.exists()} - taken
        taken |= new
        name = json.dumps(work.made_by, sort_keys=True)
        rates[name] = rates.get(name) or rates_of(runs, work.made_by)
        added = len(new) * sum(sizes) / len(sizes) if sizes else None if new else 0.0
        planned.append(Planned(work, len(new), rates[name].seconds(len(work.images), len(new)), added))
    return planned


def rates_of(runs: Path, wanted: dict[str, Any]) -> Rates:
    """The rates in the newest runs below a folder with this encoder, proposer and device."""
    new: float | None = None
    rates = Rates()
    for path in sorted(runs.rglob("metrics.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            record = RunRecord.read(path.parent)
        except RefexpError:
            continue  # of another program, or damaged: it tells nothing
        if made_by(record.config, record.device) != wanted or not record.images:
            continue
        seconds = {name: stage["seconds"] for name, stage in record.stages.items()}
        if rates.image is None:
            each = sum(of for name, of in seconds.items() if name not in (*NEW, *ONCE, *SHOWN)) / record.images
            rates = Rates(None, each, sum(seconds.get(name, 0.0) for name in ONCE))
        if "extract" in seconds:
            new = sum(seconds.get(name, 0.0) for name in NEW) / record.stages["extract"]["items"]
            break
    return Rates(new, rates.image, rates.job)


def report(planned: Sequence[Planned], runs: Path) -> None:
    """Print a line for each job, and the sums."""
    common = set.intersection(*(set(job.work.overrides) for job in planned)) if len(planned) > 1 else set()
    table = Table()
    for name in ("#", "job", "images", "new", "time"):
        table.add_column(name, justify="left" if name == "job" else "right")
    for number, job in enumerate(planned):
        what = " ".join(o for o in job.work.overrides if o not in common)
        table.add_row(str(number), escape(what), str(len(job.work.images)), str(job.new), duration(job.seconds))
    console = Console(soft_wrap=True)
    console.print(table)
    for line in sums(planned, runs):
        console.print(line, markup=False)


def sums(planned: Sequence[Planned], runs: Path) -> list[str]:
    """What the store holds, what is new, and the time and the disk space that it takes."""
    images = {path for job in planned for path in job.work.images}
    new, added = sum(job.new for job in planned), total([job.bytes for job in planned])
    size = "of unknown size: the store has none yet" if added is None else f"about {added / 2**20:.1f} MiB on disk"
    stored = f"{len(planned)} jobs on {len(images)} images: the store holds {len(images) - new}, {new} are new"
    seconds = total([job.seconds for job in planned])
    if seconds is None:
        why = f"no earlier run in {runs} tells, with this encoder, proposer and device"
        return [f"{stored}, {size}", f"time unknown: {why}. A trial does: input.limit=50"]
    device = planned[0].work.made_by["device"]
    return [f"{stored}, {size}", f"about {duration(seconds)} one after another on {device}, by earlier runs in {runs}"]


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
