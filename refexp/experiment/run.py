"""An experiment: its steps in the order of execution."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from refexp.config.components import Experiment, build_experiment, told_how_to_get
from refexp.data.coco import Data, Record, Split
from refexp.data.readable import tell_skipped
from refexp.data.sampling import Shots, candidates
from refexp.errors import shown
from refexp.experiment.joint import Early, companions
from refexp.experiment.prepare import Task, extractor_of, masks_note, prepare, remember, warn_without_effect
from refexp.experiment.search import Found
from refexp.folders.record import Metrics, RunRecord
from refexp.folders.run_folder import RunFolder, references_to_coco
from refexp.inputs.names import images_elsewhere
from refexp.inputs.refusals import limit_pixels
from refexp.inputs.repairs import Repairs, collecting
from refexp.machine.progress import track
from refexp.machine.provenance import Clock, describe_how, device_name, weights_note
from refexp.machine.ranks import Ranks, join
from refexp.machine.runtime import keep_heap
from refexp.method.contract import chosen
from refexp.method.extraction import Extractor
from refexp.method.memory import ReferenceView, view_reference
from refexp.method.pipeline import needs
from refexp.rank import this_rank
from refexp.types import Reference, Weights

log = logging.getLogger(__name__)

MAX_CLASSES, MAX_SHOTS = 8, 5
"""Maximum number of classes, and of references per class, that vis.memory_bank encodes again."""


def run(config: DictConfig, output: Path) -> RunFolder | None:
    """Run one experiment and write its results to the folder `output`.

    With several ranks, each processes its share of the targets, and only rank 0 writes. Returns the run folder, or None
    on the other ranks and for stage=extract, which writes only to the store.
    """
    if config.get("needs") and this_rank().rank == 0:
        log.info("this recipe needs: %s", " ".join(config.needs.split()))
    early = companions().take(output)
    with told_how_to_get(config), without_images(config):
        experiment = early.experiment if early else build_experiment(config)
        limit_pixels(experiment.input.max_pixels)
        keep_heap()
        with join(experiment.runtime.silence).run() as ranks, collecting(experiment.input.strict) as repairs:
            return run_ranks(experiment, RunFolder(output), ranks, repairs, early)


@contextmanager
def without_images(config: DictConfig) -> Iterator[None]:
    """Let images be missing if stage=ablate reads a store into which a data set was imported."""
    token = images_elsewhere.set(config.stage == "ablate" and Path(config.store.dir, "manifests").is_dir())
    try:
        yield
    finally:
        images_elsewhere.reset(token)


def run_ranks(
    experiment: Experiment, folder: RunFolder, ranks: Ranks, repairs: Repairs, early: Early | None
) -> RunFolder | None:
    """Run the steps of the experiment on this rank. See `run`. early: what an earlier job did for this one."""
    if ranks.first:
        warn_without_effect(experiment.config, experiment.device)
    clock = Clock()
    extractor = early.extractor if early else extractor_of(experiment)
    extractor.clock = clock
    task = early.tell(repairs) if early else prepare(experiment, extractor, ranks, repairs, companions().load)
    data, share = task.data, ranks.share(list(task.data.targets.images.values()))
    if ranks.first:
        repairs.tell()
        announce(experiment, data, task.references, extractor, share, folder.path)
    references = early.references if early else extractor.with_masks(data.references, task.references)
    weights = weights_note(extractor.weights)
    note = " ".join(filter(None, [task.partial, weights, masks_note(experiment, task)])) or None
    if ranks.first:
        if note:
            log.warning(note)
        folder.begin(experiment.config, references_to_coco(references, data), weights)

    if experiment.store.references == "all" and companions().offer(experiment):
        store_candidates(task.offered.references, experiment.shots, extractor)
    if experiment.stage == "extract":
        remember(references, data, extractor, experiment)
        extractor.fill(data.targets, share, needs(experiment.matcher, "tokens"))
        images = ranks.gather(len(share)) or ()
        log.info("extracted: %d images and their references are in the store '%s'", sum(images), experiment.store.dir)
        tell_skipped(task.skipped)
        return None

    if early is None:
        variant = companions().variant(experiment, task, remember(references, data, extractor, experiment))
        early = companions().search(Early(experiment, extractor, task, references, variant), share, ranks)
    clock.add("detect", early.seconds, len(share))
    gathered = ranks.gather(early.found)
    if gathered is None:
        return None
    # The order of the file, whatever the number of ranks and processes.
    by_image = {image_id: found for of_rank in gathered for image_id, found in of_rank.items()}
    found = [by_image[image_id] for image_id in data.targets.images]
    metrics = evaluate(early, found, folder, clock, note)
    if experiment.vis.memory_bank:
        with clock.stage("memory bank", 0):
            folder.write_memory_bank(view_some(references, data.references, extractor), early.variant.bank)
    record = RunRecord(
        **describe_what(experiment, task, references, found, extractor.weights),
        **describe_how(experiment.device, clock, ranks.world_size),
        metrics=Metrics.from_flat(metrics), note=note, repairs=repairs.found,
    )  # fmt: skip
    folder.write_record(record)
    repairs.tell()
    tell_skipped(task.skipped)
    return folder


def evaluate(
    job: Early, found: Sequence[Found], folder: RunFolder, clock: Clock, note: str | None
) -> dict[str, float | None]:
    """Write and evaluate what was found in each image, in order. Returns the flat metrics."""
    experiment, variant, data = job.experiment, job.variant, job.task.data
    detections = [one.detections for one in found]
    with clock.stage("write detections", 0):
        folder.write_detections(detections, data, experiment.detections, experiment.published_detections)
    with clock.stage("evaluate", len(detections)):
        if variant.evaluator:
            evaluated = variant.evaluator.conclude([one.matched for one in found if one.matched])
        else:
            evaluated = experiment.evaluation.evaluate(data.targets, detections, data.classes)
    metrics, curves, matches = evaluated
    folder.write_curves(curves)
    folder.write_matches(matches, metrics)
    if variant.diagnostics:
        with clock.stage("diagnose", 0):
            examined = [one.examined for one in found if one.examined]
            folder.write_diagnostics(variant.diagnostics.conclude(examined, detections, data.classes, metrics), note)
    return metrics


def announce(
    experiment: Experiment,
    data: Data,
    references: Sequence[Sequence[Reference]],
    extractor: Extractor,
    share: Sequence[Record],
    output: Path,
) -> None:
    """Log what will run, how much of this rank's work the store holds already, and where the results go."""
    drawn = list({reference.id: reference for per_class in references for reference in per_class}.values())
    held = len(share) - len(extractor.lacking(data.targets, share))
    known = sum(not extractor.needs(data.references, reference) for reference in drawn)
    parts = " ".join(chosen(part, getattr(experiment, part)) for part in ("encoder", "proposer"))
    images, classes = len(data.targets.images), len(data.classes)
    what = f"{images} images, {len(drawn)} references of {classes} classes"
    log.info("%s on %s: %s", parts, device_name(experiment.device), what)
    mine = "" if len(share) == images else " of this rank"
    found = f"{held} of {len(share)} images{mine} and {known} of {len(drawn)} references"
    log.info("store %s holds %s", Path(experiment.store.dir).absolute(), found)
    if boxes := sum(reference.mask is None for reference in drawn):
        log.info("%d of %d references have only a box: the proposer makes their masks", boxes, len(drawn))
    if both := seen_as_references(data, drawn, extractor):
        names = shown(", ".join(both))
        log.warning("%d of %d targets are also images of references, which flatters: %s", len(both), images, names)
    log.info("results in %s", "the store (stage=extract)" if experiment.stage == "extract" else output.absolute())


def seen_as_references(data: Data, drawn: Sequence[Reference], extractor: Extractor) -> list[str]:
    """The names of annotated targets that are images of references, too. Looks only at files of the same name."""
    if not data.targets.annotations:
        return []
    images = [data.references.images[image_id] for image_id in {reference.image_id for reference in drawn}]
    names = {image["file_name"].rsplit("/", 1)[-1] for image in images}
    alike = [record for record in data.targets.images.values() if record["file_name"].rsplit("/", 1)[-1] in names]
    contents = {extractor.fingerprint(data.references, image) for image in images} if alike else set()
    return [record["file_name"] for record in alike if extractor.fingerprint(data.targets, record) in contents]


def store_candidates(split: Split, shots: Shots, extractor: Extractor) -> None:
    """Store the prototype of every reference that some seed can choose.

    split: with all classes, because a run with other shots can keep a class that this run leaves out.
    """
    offered = [split.reference(annotation) for annotation in candidates(split, shots)]
    (everything,) = extractor.with_masks(split, [offered])
    for _ in track(extractor.prototypes(split, everything), len(everything), "all references"):
        pass


def view_some(
    references: Sequence[Sequence[Reference]], split: Split, extractor: Extractor
) -> list[list[ReferenceView]]:
    """Encode the first references of the first classes again, for the page. Cost: at most 40 forward passes."""
    extractor.load_encoder()
    return [
        [view_reference(split, reference, extractor.encoder, extractor.device) for reference in per_class[:MAX_SHOTS]]
        for per_class in references[:MAX_CLASSES]
    ]


def describe_what(
    experiment: Experiment,
    task: Task,
    references: Sequence[Sequence[Reference]],
    found: Sequence[Found],
    weights: dict[str, Weights],
) -> dict[str, Any]:
    """Describe the experiment and its data, for metrics.json."""
    data, targets = task.data, task.data.targets
    counted = Counter(targets.labels[a["category_id"]] for a in targets.annotations if not a.get("iscrowd", 0))
    category = {label: id_ for id_, label in targets.labels.items()}
    return {
        "config": experiment.config,
        "protocol": experiment.evaluation.protocol,
        "cwd": str(Path.cwd()),
        "targets": targets.source,
        "seed": experiment.seed,
        "shots": "all" if experiment.sampler.takes_all else experiment.shots.n,
        "classes": data.classes,
        "classes_left_out": tuple(name for name in task.offered.classes if name not in data.classes),
        "images_skipped": tuple(task.skipped),
        "categories": tuple(category[label] for label in range(len(data.classes))),
        "references": {name: len(drawn) for name, drawn in zip(data.classes, references, strict=True)},
        "reference_ids": {name: [r.id for r in drawn] for name, drawn in zip(data.classes, references, strict=True)},
        "images": len(targets.images),
        "instances": counted.total(),
        "instances_of_class": {name: counted[label] for label, name in enumerate(data.classes)},
        "detections": sum(len(one.detections) for one in found),
        "weights": {
            name: {"origin": w.origin, "kind": w.kind, "file": w.file and w.file.name, "sha256": w.sha256}
            for name, w in weights.items()
        },
    }
