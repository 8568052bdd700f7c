"""What a run has to do: annotations are read, references drawn and images tried before any network is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from refexp.config.components import Experiment
from refexp.data.coco import Data, Record, Split
from refexp.data.readable import refuse, unreadable, without
from refexp.data.sampling import Features, choose_references
from refexp.errors import RefexpError, did_you_mean
from refexp.folders.record import Metrics, partial_note
from refexp.inputs.repairs import Repairs
from refexp.machine.progress import track
from refexp.machine.provenance import Clock
from refexp.machine.ranks import Ranks
from refexp.method.extraction import Extractor
from refexp.method.memory import build_bank
from refexp.method.pipeline import needs
from refexp.types import ImageId, MemoryBank, Reference

log = logging.getLogger(__name__)


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


def extractor_of(experiment: Experiment) -> Extractor:
    """Return the extractor of an experiment."""
    return Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, experiment.device, Clock(),
        may_compute=experiment.stage != "ablate",
    )  # fmt: skip


def prepare(
    experiment: Experiment,
    extractor: Extractor,
    ranks: Ranks,
    repairs: Repairs,
    load: Callable[[Experiment, Repairs], Data],
) -> Task:
    """Read the annotations, draw the references and try the images, before any network is loaded.

    load: reads the data set.
    """
    with extractor.clock.stage("read annotations"):
        offered = load(experiment, repairs)
    partial = partial_note(experiment.input.limit, len(offered.targets.images))
    offered = replace(offered, targets=offered.targets.first(experiment.input.limit))
    features = features_of(offered.references, extractor)
    data, references = choose_references(offered, experiment.sampler, experiment.shots, experiment.seed, features)
    for image_id in dict.fromkeys(reference.image_id for drawn in references for reference in drawn):
        data.references.tell_name(data.references.images[image_id])
    check_targets(experiment, data.targets)
    check_objective(experiment, data)
    check_matcher(experiment, data, references)
    with extractor.clock.stage("check images", 0):
        check_references(experiment, data.references, references, extractor)
        targets, skipped = readable_targets(experiment, data.targets, extractor, ranks, repairs)
    return Task(offered, replace(data, targets=targets), references, skipped, partial)


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
    tokens = needs(experiment.matcher, "tokens")
    if experiment.stage == "ablate" and not skip and not tokens:
        return targets, []
    share = ranks.share(list(targets.images.values()))
    lacking = {record["id"] for record in extractor.lacking(targets, share)}

    def is_needed(record: Record) -> bool:
        return record["id"] in lacking or (tokens and extractor.needs_tokens(targets, record))

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
        hint += "; the matcher needs their tokens, with every stage." if tokens else "."
        refuse(bad, targets, len(targets.images), hint)
    names = {id_: targets.images[id_]["file_name"] for id_ in bad}
    return left, [{"id": id_, "file_name": names[id_], "reason": why} for id_, why in bad.items()]


def features_of(split: Split, extractor: Extractor) -> Features:
    """Return a function that computes instance prototypes, f32 [n, C], for samplers that choose by appearance."""

    def features(annotations: Sequence[Record]) -> torch.Tensor:
        (masked,) = extractor.with_masks(split, [[split.reference(annotation) for annotation in annotations]])
        prototypes = dict(track(extractor.prototypes(split, masked), len(masked), "candidates"))
        return torch.stack([prototypes[reference.id] for reference in masked])

    return features


def warn_without_effect(config: dict[str, Any], device: torch.device) -> None:
    """Warn about `precision` or `compile` if no network uses the key, and about tf32 if the device lacks it."""
    for key, default in (("precision", "float32"), ("compile", False)):
        if config.get(key, default) != default and not any(key in config[part] for part in ("encoder", "proposer")):
            log.warning("%s=%s has no effect: the encoder and the proposer ignore it", key, config[key])
    wants_tf32 = any(config[part].get("precision") == "tf32" for part in ("encoder", "proposer"))
    if wants_tf32 and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        log.warning("precision=tf32: %s does not support TF32 and computes in float32", device)


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
