"""The jobs that one process runs one after another: those that read the same entries are searched in one pass.

The first of them searches for all. The others find their result when their turn comes, and then write the same folder
as if they ran alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from refexp.config.components import Experiment, build_experiment
from refexp.data.coco import Data, Record
from refexp.errors import RefexpError
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.diagnostics import Diagnostics
from refexp.evaluation.protocol import ByImage
from refexp.experiment.prepare import Task, prepare, remember
from refexp.experiment.search import Found, Variant, search
from refexp.inputs.names import OF_REFERENCE
from refexp.inputs.repairs import Repairs, collecting
from refexp.kernels import any_compiled
from refexp.machine.progress import silently, track
from refexp.machine.ranks import Ranks
from refexp.method.extraction import Extractor
from refexp.method.pipeline import needs
from refexp.types import ImageId, MemoryBank, Proposals, Reference

Examples = dict[str, dict[str, int]]
"""Of repairs, by kind; see `Repairs`."""

log = logging.getLogger(__name__)

ENTRIES = ("dataset", "encoder", "proposer", "store", "input", "stage", "runtime")
"""Settings in which jobs must agree to be searched in one pass. They decide which entries a job reads, and how."""
MOST = 64
"""Maximum number of jobs in a pass. For 5,000 images, each takes some 20 MB until its turn comes."""
PATCHES = 1 << 30
"""Maximum bytes of the references' patches in a pass, for matchers that need them."""


@dataclass
class Early:
    """A job whose search has been done, or is about to be.

    references: with masks. notes: what was logged while it was prepared. found: of each image. seconds: of the search
    of all variants, divided by their number.
    """

    experiment: Experiment
    extractor: Extractor
    task: Task
    references: list[list[Reference]]
    variant: Variant
    repairs: Repairs = field(default_factory=Repairs)
    notes: list[logging.LogRecord] = field(default_factory=list)
    found: dict[ImageId, Found] = field(default_factory=dict)
    seconds: float = 0.0

    def tell(self, repairs: Repairs) -> Task:
        """Log and note, in the job's own time, what happened while it was prepared. Returns its task."""
        for note in self.notes:
            logging.getLogger(note.name).handle(note)
        repairs.merge(self.repairs.examples)
        return self.task


def while_reading(examples: Examples) -> Examples:
    """The repairs that change records. The names of references' images are noted later and change none."""
    return {what: of_kind for what, of_kind in examples.items() if what != OF_REFERENCE}


class Companions:
    """The jobs of this process that wait for their turn.

    waiting: their resolved settings by folder, None for wrong ones. Without any, each job is searched alone.
    """

    def __init__(self, waiting: Mapping[Path, dict[str, Any] | None] | None = None) -> None:
        self.waiting = {folder: config for folder, config in (waiting or {}).items() if config is not None}
        self.many = bool(waiting)
        self.early: dict[Path, Early] = {}
        self.loaded: dict[str, tuple[Data, Examples, Repairs]] = {}
        self.evaluators: dict[str, ByImage | None] = {}
        self.offered: set[str] = set()

    def take(self, output: Path) -> Early | None:
        """The job in this folder has its turn. Returns it if its search has been done."""
        self.waiting.pop(output.absolute(), None)
        return self.early.pop(output.absolute(), None)

    def load(self, experiment: Experiment, repairs: Repairs) -> Data:
        """Read the data set of a job, or take that of an earlier job.

        Records that were repaired after they had been read are read again: a repair changes them, and each job tells
        of its own repairs.
        """
        settings = experiment.config["dataset"]
        name = json.dumps([settings, stamps(settings)], sort_keys=True, default=str)
        if name in self.loaded:
            data, examples, user = self.loaded[name]
            if while_reading(user.examples) == while_reading(examples):
                repairs.merge(examples)
                self.loaded[name] = data, examples, repairs
                return data
        data = experiment.dataset.load()
        examples = {what: dict(of_kind) for what, of_kind in repairs.examples.items()}
        self.loaded[name] = data, examples, repairs
        return data

    def offer(self, experiment: Experiment) -> bool:
        """Whether no earlier job has stored all references that these settings allow."""
        shots = experiment.shots
        name = repr((entries(experiment.config), shots.valid, shots.min_side, shots.border))
        known = name in self.offered
        self.offered.add(name)
        return not known

    def search(self, first: Early, share: Sequence[Record], ranks: Ranks) -> Early:
        """Search these targets for a job, and in the same pass for the waiting jobs that read the same entries.

        Raises what the job's own components raise. What those of another job raise, its own run raises.
        """
        extractor, targets, clock = first.extractor, first.task.data.targets, first.extractor.clock
        extractor.fill(targets, share, needs(first.variant.matcher, "tokens"))  # first: the others find it in the store
        others: dict[Path, Early] = {}
        if self.waiting and ranks.world_size == 1:
            with clock.stage("detect for other jobs", 0):
                others = dict(self._alike(first, ranks))
        if others:
            log.info("%d jobs read the same entries: one pass for all (sweep.joint=false: one each)", len(others) + 1)
        jobs = [first, *others.values()]
        with_tokens = any(needs(job.variant.matcher, "tokens") for job in jobs)
        extractor.fill(targets, share, with_tokens)
        variants = [job.variant for job in jobs]

        def read(record: Record) -> Proposals | None:
            return extractor.stored(targets, record, with_tokens)

        def compute(records: Sequence[Record]) -> Iterator[tuple[ImageId, Proposals]]:
            return extractor.computed(targets, records, with_tokens)

        if share and not any_compiled():
            log.info("compiling loops for this machine: once, about 15 s")
            with clock.stage("compile loops"):
                search(variants[:1], share[:1], read, compute, workers=1)
        start = time.perf_counter()
        outcomes = search(variants, share, read, compute, first.experiment.runtime.processes(ranks.world_size))
        seconds = (time.perf_counter() - start) / len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.found, job.seconds = outcome.found, seconds
        if others:
            clock.add("detect for other jobs", seconds * len(others), 0)
        if failed := outcomes[0].failed:
            for image_id, proposals in extractor.computed(targets, [failed], with_tokens):
                first.variant.find(image_id, proposals)
            raise RefexpError(
                f"image {failed['file_name']}: the matcher or a step raised an error, but not when asked again. "
                "Components must not depend on the order of images."
            )
        self.early |= {
            folder: job
            for (folder, job), outcome in zip(others.items(), outcomes[1:], strict=True)
            if not outcome.failed
        }
        return first

    def _alike(self, first: Early, ranks: Ranks) -> Iterator[tuple[Path, Early]]:
        """Prepare the waiting jobs that read the same entries. One that cannot be prepared fails in its own run."""
        wanted = entries(first.experiment.config)
        alike = [folder for folder, config in self.waiting.items() if entries(config) == wanted]
        patches = patches_in(first.variant.bank)
        for folder in track(alike[: MOST - 1], len(alike[: MOST - 1]), "jobs prepared"):
            job = self._prepare(self.waiting[folder], first, ranks)
            patches |= patches_in(job.variant.bank) if job else {}
            if sum(patches.values()) > PATCHES:
                return
            if job:
                yield folder, job

    def _prepare(self, config: dict[str, Any], first: Early, ranks: Ranks) -> Early | None:
        """Prepare a waiting job, in silence. None if it cannot be, or reads other entries than the first."""
        extractor = first.extractor
        with noting() as notes, silently():
            try:
                experiment = build_experiment(OmegaConf.create(config))
                with collecting(experiment.input.strict) as repairs:
                    task = prepare(experiment, extractor, ranks, repairs, self.load)
                    references = extractor.with_masks(task.data.references, task.references)
                    bank = remember(references, task.data, extractor, experiment)
                if not extractor.same_entries(task.data.targets, first.task.data.targets):
                    return None
                variant = self.variant(experiment, task, bank)
                return Early(experiment, extractor, task, references, variant, repairs, notes)
            except Exception as error:
                log.debug("not prepared: %s", error)
                return None

    def variant(self, experiment: Experiment, task: Task, bank: MemoryBank) -> Variant:
        """What a job does with each image. Jobs with the same truth share an evaluator: it compares a mask once."""
        evaluation, targets, classes = experiment.evaluation, task.data.targets, task.data.classes
        diagnostics = None
        if isinstance(evaluation, CocoEvaluation) and evaluation.diagnostics:
            diagnostics = Diagnostics(targets, evaluation.kinds, evaluation.engine, evaluation.confusion_threshold)
        name = json.dumps([experiment.config[part] for part in (*ENTRIES, "evaluation")] + [classes], default=str)
        if name not in self.evaluators:
            self.evaluators[name] = evaluation.by_image(targets, classes)
        evaluator = self.evaluators[name]
        kept = experiment.detections != "none" or experiment.published_detections
        with_masks = kept or evaluator is None or diagnostics is not None or not self.many
        steps = list(experiment.steps.values())
        return Variant(bank, experiment.matcher, steps, evaluator, diagnostics, with_masks)


_companions: ContextVar[Companions | None] = ContextVar("companions", default=None)


def companions() -> Companions:
    """The companions of the job that runs."""
    return _companions.get() or Companions()


@contextmanager
def together(waiting: Mapping[Path, dict[str, Any] | None]) -> Iterator[None]:
    """Within the block, the jobs with these folders and settings run, one after another."""
    token = _companions.set(Companions(waiting))
    try:
        yield
    finally:
        _companions.reset(token)


def entries(config: Mapping[str, Any]) -> str:
    """The settings that decide which entries a job reads, as text."""
    return json.dumps([config.get(part) for part in ENTRIES], sort_keys=True, default=str)


def stamps(settings: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Size and time of the files and folders that are among the settings of a data set."""
    files = [Path(value) for value in settings.values() if isinstance(value, str)]
    return [(status.st_size, status.st_mtime_ns) for file in files if file.exists() for status in [file.stat()]]


def patches_in(bank: MemoryBank) -> dict[int, int]:
    """The bytes that the patches of each reference take, by the id of their tensor: jobs can share it."""
    return {id(one.tokens): one.tokens.nbytes for of_class in bank.patches or () for one in of_class}


class Keeper(logging.Handler):
    """Keeps log records."""

    def __init__(self, notes: list[logging.LogRecord]) -> None:
        super().__init__()
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append(record)


@contextmanager
def noting() -> Iterator[list[logging.LogRecord]]:
    """Within the block, keep log records instead of writing them."""
    root, notes = logging.getLogger(), list[logging.LogRecord]()
    handlers, root.handlers = root.handlers, [Keeper(notes)]
    try:
        yield notes
    finally:
        root.handlers = handlers
