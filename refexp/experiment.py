"""An experiment: its steps in the order of execution."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from refexp.config.components import Experiment, build_experiment, told_how_to_get
from refexp.data.coco import Data, Record, Split
from refexp.data.readable import refuse, tell_skipped, unreadable, without
from refexp.data.sampling import Features, Shots, candidates, choose_references
from refexp.errors import RefexpError, did_you_mean
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.diagnostics import Diagnostics, ImageDiagnosis
from refexp.evaluation.protocol import Evaluation
from refexp.folders.record import Metrics, RunRecord, partial_note
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
from refexp.method.memory import ReferenceView, build_bank, view_reference
from refexp.method.pipeline import detect, needs
from refexp.rank import this_rank
from refexp.types import Detections, ImageId, MemoryBank, Proposals, Reference, Weights

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
    with told_how_to_get(config), without_images(config):
        experiment = build_experiment(config)
        limit_pixels(experiment.input.max_pixels)
        keep_heap()
        with join(experiment.runtime.silence).run() as ranks, collecting(experiment.input.strict) as repairs:
            return run_ranks(experiment, RunFolder(output), ranks, repairs)


@contextmanager
def without_images(config: DictConfig) -> Iterator[None]:
    """Let images be missing if stage=ablate reads a store into which a data set was imported."""
    token = images_elsewhere.set(config.stage == "ablate" and Path(config.store.dir, "manifests").is_dir())
    try:
        yield
    finally:
        images_elsewhere.reset(token)


@dataclass(frozen=True)
class Task:
    """What a run has to do, settled and checked.

    offered: the data set with all its classes. data: with the classes of this run, and the targets that can be read.
    references: S of each class, those with only a box without a mask. skipped: the images that cannot be read.
    partial: the note of a run on the first targets only.
    """

    offered: Data
    data: Data
    references: list[list[Reference]]
    skipped: list[Record]
    partial: str | None


def run_ranks(experiment: Experiment, folder: RunFolder, ranks: Ranks, repairs: Repairs) -> RunFolder | None:
    """Run the steps of the experiment on this rank. See `run`."""
    if ranks.first:
        warn_without_effect(experiment.config, experiment.device)
    clock = Clock()
    extractor = Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, experiment.device, clock,
        may_compute=experiment.stage != "ablate",
    )  # fmt: skip
    task = prepare(experiment, extractor, ranks, repairs)
    data, share = task.data, ranks.share(list(task.data.targets.images.values()))
    if ranks.first:
        repairs.tell()
        announce(experiment, data, task.references, extractor, share, folder.path)
    references = extractor.with_masks(data.references, task.references)
    weights = weights_note(extractor.weights)
    note = " ".join(filter(None, [task.partial, weights, masks_note(experiment, task)])) or None
    if ranks.first:
        if note:
            log.warning(note)
        folder.begin(experiment.config, references_to_coco(references, data), weights)

    if experiment.store.references == "all":
        store_candidates(task.offered.references, experiment.shots, extractor)
    bank = remember(references, data, extractor, experiment)
    if experiment.stage == "extract":
        images = ranks.gather(sum(1 for _ in proposals_of(data.targets, share, extractor, experiment))) or ()
        log.info("extracted: %d images and their references are in the store '%s'", sum(images), experiment.store.dir)
        tell_skipped(task.skipped)
        return None

    diagnostics = diagnostics_of(experiment.evaluation, data.targets)
    proposals = proposals_of(data.targets, share, extractor, experiment)
    gathered = ranks.gather(search(proposals, bank, experiment, diagnostics, clock))
    if gathered is None:
        return None
    # The order of the file, whatever the number of ranks and the order in which the store returned the images.
    by_image = {detections.image_id: detections for of_rank, _ in gathered for detections in of_rank}
    detections = [by_image[image_id] for image_id in data.targets.images]
    folder.write_detections(detections, data, experiment.detections, experiment.published_detections)
    metrics = evaluate(experiment, data, detections, folder, clock)
    if diagnostics:
        with clock.stage("diagnose", 0):
            records = [record for _, of_rank in gathered for record in of_rank]
            folder.write_diagnostics(diagnostics.conclude(records, detections, data.classes, metrics), note)
    if experiment.vis.memory_bank:
        with clock.stage("memory bank", 0):
            folder.write_memory_bank(view_some(references, data.references, extractor), bank)
    record = RunRecord(
        **describe_what(experiment, task, references, detections, extractor.weights),
        **describe_how(experiment.device, clock, ranks.world_size),
        metrics=Metrics.from_flat(metrics), note=note, repairs=repairs.found,
    )  # fmt: skip
    folder.write_record(record)
    repairs.tell()
    tell_skipped(task.skipped)
    return folder


def prepare(experiment: Experiment, extractor: Extractor, ranks: Ranks, repairs: Repairs) -> Task:
    """Read the annotations, draw the references and try the images, before any network is loaded."""
    with extractor.clock.stage("read annotations"):
        offered: Data = experiment.dataset.load()
    partial = partial_note(experiment.input.limit, len(offered.targets.images))
    offered = replace(offered, targets=offered.targets.first(experiment.input.limit))
    features = features_of(offered.references, extractor)
    data, references = choose_references(offered, experiment.sampler, experiment.shots, experiment.seed, features)
    check_targets(experiment, data.targets)
    check_objective(experiment, data)
    check_matcher(experiment, data, references)
    with extractor.clock.stage("check images", 0):
        check_references(experiment, data.references, references, extractor)
        targets, skipped = readable_targets(experiment, data.targets, extractor, ranks, repairs)
    return Task(offered, replace(data, targets=targets), references, skipped, partial)


def evaluate(
    experiment: Experiment, data: Data, detections: Sequence[Detections], folder: RunFolder, clock: Clock
) -> dict[str, float | None]:
    """Evaluate the detections, and write curves and matches. Returns the flat metrics."""
    with clock.stage("evaluate", len(detections)):
        metrics, curves, matches = experiment.evaluation.evaluate(data.targets, detections, data.classes)
    folder.write_curves(curves)
    folder.write_matches(matches, metrics)
    return metrics


def warn_without_effect(config: dict[str, Any], device: torch.device) -> None:
    """Warn about `precision` or `compile` if no network uses the key, and about tf32 if the device lacks it."""
    for key, default in (("precision", "float32"), ("compile", False)):
        if config.get(key, default) != default and not any(key in config[part] for part in ("encoder", "proposer")):
            log.warning("%s=%s has no effect: the encoder and the proposer ignore it", key, config[key])
    wants_tf32 = any(config[part].get("precision") == "tf32" for part in ("encoder", "proposer"))
    if wants_tf32 and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        log.warning("precision=tf32: %s does not support TF32 and computes in float32", device)


def masks_note(experiment: Experiment, task: Task) -> str | None:
    """The note of a run by the published protocol whose references have boxes only; None for other runs.

    The paper's code made their masks with SAM (1) ViT-H from the box, and kept the outer polygons.
    """
    other = experiment.protocol == "published" and task.offered.references.boxes_only
    return "References' masks differ from the published ones (SAM 1 ViT-H polygons)." if other else None


def check_targets(experiment: Experiment, targets: Split) -> None:
    """Raise RefexpError if the experiment cannot use these targets, before any expensive step."""
    experiment.evaluation.check(targets)
    if experiment.proposer.sees_truth and not targets.annotations:
        raise RefexpError("the oracle proposer needs annotated targets; choose another proposer.")
    experiment.proposer.check(targets.images)


def check_objective(experiment: Experiment, data: Data) -> None:
    """Raise RefexpError if the evaluation does not compute `objective`. Evaluating nothing tells its metrics."""
    wanted = experiment.objective
    if wanted is None or experiment.stage == "extract":
        return
    metrics = experiment.evaluation.evaluate(data.targets.first(1), [], data.classes).metrics
    if wanted not in metrics:
        known = did_you_mean(wanted, Metrics.from_flat(metrics).flat_overall)
        raise RefexpError(f"objective={wanted}: this evaluation has no such metric. {known}")


def check_matcher(experiment: Experiment, data: Data, references: Sequence[Sequence[Reference]]) -> None:
    """Raise RefexpError if the matcher has a `check_references` that refuses these."""
    if check := getattr(experiment.matcher, "check_references", None):
        check({name: len({r.id for r in drawn}) for name, drawn in zip(data.classes, references, strict=True)})


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
    held = sum(not extractor.needs(data.targets, record) for record in share)
    known = sum(not extractor.needs(data.references, reference) for reference in drawn)
    parts = " ".join(chosen(part, getattr(experiment, part)) for part in ("encoder", "proposer"))
    images, classes = len(data.targets.images), len(data.classes)
    what = f"{images} images, {len(drawn)} references of {classes} classes"
    log.info("%s on %s: %s", parts, device_name(experiment.device), what)
    mine = "" if len(share) == images else " of this rank"
    found = f"{held} of {len(share)} images{mine} and {known} of {len(drawn)} references"
    log.info("store %s holds %s", Path(experiment.store.dir).absolute(), found)
    log.info("results in %s", "the store (stage=extract)" if experiment.stage == "extract" else output.absolute())


def check_references(
    experiment: Experiment, split: Split, references: Sequence[Sequence[Reference]], extractor: Extractor
) -> None:
    """Raise RefexpError with all images of the chosen references that must be read and cannot be."""
    again = needs(experiment.matcher, "patches") and experiment.stage != "extract"
    if experiment.stage == "ablate" and not again:
        return
    chosen = [reference for per_class in references for reference in per_class]
    needed = dict.fromkeys(r.image_id for r in chosen if again or extractor.needs(split, r))
    records = [split.images[image_id] for image_id in needed]
    bad = unreadable(split, records, lambda record: True, "check references")
    hint = "Replace these references" + ("; the matcher needs their images with every stage." if again else ".")
    refuse(bad, split, len(records), hint)


def readable_targets(
    experiment: Experiment, targets: Split, extractor: Extractor, ranks: Ranks, repairs: Repairs
) -> tuple[Split, list[Record]]:
    """Return the targets that can be read, and what the record says of the others: the same on every rank.

    Sizes that contradict the image file are settled, also on every rank. Images whose proposals are in the store are
    not opened, unless the matcher needs their tokens. Raises RefexpError if there are others and
    input.unreadable=error, or if none can be read.
    """
    skip = experiment.input.unreadable == "skip"
    again = needs(experiment.matcher, "tokens")
    if experiment.stage == "ablate" and not skip and not again:
        return targets, []
    share = ranks.share(list(targets.images.values()))
    is_needed = (lambda record: True) if again else partial(extractor.needs, targets)
    bad_here = unreadable(targets, share, is_needed, "check images")
    sizes_here = {record["id"]: (record["height"], record["width"]) for record in share}
    reasons: dict[ImageId, str] = {}
    for bad_there, sizes, examples in ranks.exchange((bad_here, sizes_here, repairs.examples)):
        reasons |= bad_there
        repairs.merge(examples)
        for id_, (height, width) in sizes.items():
            targets.images[id_] |= {"height": height, "width": width}
    bad = {id_: reasons[id_] for id_ in targets.images if id_ in reasons}  # in the order of the file
    left = without(targets, bad)
    if not skip or not left.images:
        hint = "Replace them" + (", or leave them out: input.unreadable=skip" if left.images else "")
        hint += "; the matcher needs them with every stage." if again else "."
        refuse(bad, targets, len(targets.images), hint)
    names = {id_: targets.images[id_]["file_name"] for id_ in bad}
    return left, [{"id": id_, "file_name": names[id_], "reason": why} for id_, why in bad.items()]


def diagnostics_of(evaluation: Evaluation, targets: Split) -> Diagnostics | None:
    """Return the diagnostics collector if `evaluation.diagnostics` is set, else None."""
    if not isinstance(evaluation, CocoEvaluation) or not evaluation.diagnostics:
        return None
    return Diagnostics(targets, evaluation.kinds, evaluation.engine, evaluation.confusion_threshold)


def features_of(split: Split, extractor: Extractor) -> Features:
    """Return a function that computes instance prototypes, f32 [n, C], for samplers that choose by appearance."""

    def features(annotations: Sequence[Record]) -> torch.Tensor:
        (masked,) = extractor.with_masks(split, [[split.reference(annotation) for annotation in annotations]])
        prototypes = dict(track(extractor.prototypes(split, masked), len(masked), "candidates"))
        return torch.stack([prototypes[reference.id] for reference in masked])

    return features


def remember(
    references: Sequence[Sequence[Reference]], data: Data, extractor: Extractor, experiment: Experiment
) -> MemoryBank:
    """Compute the prototype of each reference, and of each class as the mean over its shots (METHOD 1).

    If the matcher needs the references' patches, every rank encodes all references again.
    """
    split = data.references
    unique = list({reference.id: reference for per_class in references for reference in per_class}.values())
    prototypes = dict(track(extractor.prototypes(split, unique), len(unique), "references"))
    instances = [torch.stack([prototypes[r.id] for r in per_class]) for per_class in references]
    if experiment.stage == "extract" or not needs(experiment.matcher, "patches"):
        return build_bank(instances, classes=data.classes)
    patches = dict(track(extractor.patches(split, unique), len(unique), "references again"))
    return build_bank(instances, [[patches[r.id] for r in per_class] for per_class in references], data.classes)


def proposals_of(
    targets: Split, share: Sequence[Record], extractor: Extractor, experiment: Experiment
) -> Iterator[tuple[ImageId, Proposals]]:
    """Yield the proposals of these targets, with the target's tokens if the matcher needs them."""
    for image_id, proposals in track(extractor.proposals(targets, share), len(share), "targets"):
        if needs(experiment.matcher, "tokens"):
            proposals = extractor.with_tokens(targets, targets.images[image_id], proposals)
        yield image_id, proposals


def store_candidates(split: Split, shots: Shots, extractor: Extractor) -> None:
    """Store the prototype of every reference that some seed can choose.

    split: with all classes, because a run with other shots can keep a class that this run leaves out.
    """
    offered = [split.reference(annotation) for annotation in candidates(split, shots)]
    (everything,) = extractor.with_masks(split, [offered])
    for _ in track(extractor.prototypes(split, everything), len(everything), "all references"):
        pass


def search(
    proposals: Iterable[tuple[ImageId, Proposals]],
    bank: MemoryBank,
    experiment: Experiment,
    diagnostics: Diagnostics | None,
    clock: Clock,
) -> tuple[list[Detections], list[ImageDiagnosis]]:
    """Detect objects in the targets of this rank (METHOD 3, 4), and collect the diagnostics of each image."""
    found: list[Detections] = []
    examined: list[ImageDiagnosis] = []
    for image_id, of_image in proposals:
        with clock.stage("detect"):
            found.append(detect(image_id, of_image, bank, experiment.matcher, experiment.steps.values()))
        if diagnostics:
            with clock.stage("diagnose"):
                examined.append(diagnostics.examine(of_image, found[-1]))
    return found, examined


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
    found: Sequence[Detections],
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
        "detections": sum(len(detections) for detections in found),
        "weights": {
            name: {"origin": w.origin, "kind": w.kind, "file": w.file and w.file.name, "sha256": w.sha256}
            for name, w in weights.items()
        },
    }
