"""An experiment, in the order in which it happens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from refexp.compose import Experiment, Vis, build_experiment, told_how_to_get
from refexp.data.coco import Data, Record, Split
from refexp.data.sampling import Features, Shots, candidates, choose_references
from refexp.distributed import Ranks, join
from refexp.errors import RefexpError
from refexp.evaluation.base import Evaluation
from refexp.evaluation.coco import CocoEvaluation
from refexp.evaluation.diagnostics import Diagnostics, ImageDiagnosis
from refexp.extraction import Extractor
from refexp.files import write_json, write_text
from refexp.memory import build_bank, view_reference
from refexp.outcome import Outcome
from refexp.pipeline import detect
from refexp.progress import track
from refexp.provenance import Clock, describe_run, weights_note
from refexp.report.diagnosis import print_diagnosis
from refexp.report.gallery import Gallery, PredictionGallery
from refexp.report.memory_bank import draw_memory_bank, shown
from refexp.report.page import write_report
from refexp.report.table import print_findings, print_metrics, print_places
from refexp.results import detections_to_coco, findings, references_to_coco, remove_results, write_masks, write_summary
from refexp.runtime import keep_heap
from refexp.tracking.base import told
from refexp.types import Detections, ImageId, MemoryBank, Proposals, Weights

log = logging.getLogger(__name__)


def run(config: DictConfig, output: Path) -> dict[str, float | None]:
    """Run one experiment, leave everything in `output`, return the metrics (none for stage=extract).

    Of several ranks each takes its share of the targets, and rank 0 alone writes and returns metrics.
    """
    with told_how_to_get(config):
        experiment = build_experiment(config)
        keep_heap()
        ranks_together = join(experiment.runtime.silence)
        with told(experiment.logger, experiment.config, output) as logger, ranks_together.run() as ranks:
            outcome = run_ranks(experiment, output, ranks)
            if outcome is None:
                return {}
            show(outcome, experiment.vis)
            logger.results(outcome)
            return outcome.metrics


def run_ranks(experiment: Experiment, output: Path, ranks: Ranks) -> Outcome | None:
    """The experiment's steps, on this rank. What came of it on rank 0, None on others and for stage=extract."""
    if ranks.first:
        warn_without_effect(experiment.config, experiment.device)
    clock = Clock()

    with clock.stage("read annotations"):
        offered: Data = experiment.dataset.load()
    extractor = Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, experiment.device, clock,
        may_compute=experiment.stage != "ablate",
    )  # fmt: skip
    features = features_of(offered.references, extractor)
    data, references = choose_references(offered, experiment.sampler, experiment.shots, experiment.seed, features)
    check_targets(experiment, data.targets)
    references = extractor.with_masks(data.references, references)
    note = weights_note(extractor.weights)
    if ranks.first:
        write_beginning(output, experiment.config, references_to_coco(references, data), note)

    if experiment.store.references == "all":
        store_candidates(offered.references, experiment.shots, extractor)
    bank = remember(references, data.references, extractor)
    mine = ranks.share(list(data.targets.images.values()))
    proposals = track(extractor.proposals(data.targets, mine), len(mine), "targets")
    if experiment.stage == "extract":
        images = ranks.gather(sum(1 for _ in proposals)) or ()
        log.info("extracted: %d images and their references are in the store '%s'", sum(images), experiment.store.dir)
        return None

    diagnostics = diagnostics_of(experiment.evaluation, data.targets)
    gathered = ranks.gather(search(proposals, bank, experiment, diagnostics, clock))
    if gathered is None:
        return None
    by_image = {detections.image_id: detections for share, _ in gathered for detections in share}
    detections = [by_image[image_id] for image_id in data.targets.images]
    write_detections(output, experiment, detections, data)

    with clock.stage("evaluate", len(detections)):
        metrics = experiment.evaluation.evaluate(data.targets, detections, data.classes)
    diagnosis = None
    if diagnostics:
        with clock.stage("diagnose", 0):
            records = [one for _, share in gathered for one in share]
            diagnosis = diagnostics.conclude(records, detections, data.classes, metrics)
        write_json(output / "diagnostics.json", {"note": note} | diagnosis, indent=1)
    if experiment.vis.memory_bank:
        with clock.stage("memory bank", 0):
            picture_memory_bank(output / "memory_bank.png", data, references, bank, extractor, note)
    left_out = [name for name in offered.classes if name not in data.classes]
    summary = summarise(experiment, data, references, detections, extractor.weights) | {"classes_left_out": left_out}
    summary |= describe_run(experiment.device, clock, ranks.world_size)
    write_json(output / "metrics.json", {"metrics": metrics, "note": note} | summary, indent=2)
    return Outcome(
        output=output, config=experiment.config, data=data, references=references, bank=bank, detections=detections,
        metrics=metrics, summary=summary, curves=experiment.evaluation.curves, diagnostics=diagnosis, note=note,
    )  # fmt: skip


def show(outcome: Outcome, vis: Vis) -> None:
    """The pictures, the page and the tables of a finished run."""
    data = outcome.data
    kind = Gallery if data.targets.annotations else PredictionGallery
    gallery = kind(outcome.output / "overlays", data, vis.limit, vis.score_threshold, outcome.note)
    gallery.draw_references(outcome.references)
    gallery.draw_targets({detections.image_id: detections for detections in outcome.detections})
    page = write_report(outcome) if vis.report else None
    if outcome.metrics:
        if outcome.diagnostics:
            print_diagnosis(outcome.diagnostics)
        print_metrics(outcome.metrics, data.classes, outcome.summary)
    else:
        listed = findings(outcome.detections, data.classes, vis.score_threshold)
        print_findings(listed, outcome.summary["references"], len(outcome.detections))
    print_places(outcome.output, page, outcome.note)


def warn_without_effect(config: dict[str, Any], device: torch.device) -> None:
    """Say so where a key that speeds up networks is set, and neither network knows it, or the device cannot do it."""
    for key, default in (("precision", "float32"), ("compile", False)):
        if config.get(key, default) != default and not any(key in config[part] for part in ("encoder", "proposer")):
            log.warning("%s=%s has no effect: this encoder and proposer ignore it", key, config[key])
    wants_tf32 = any(config[part].get("precision") == "tf32" for part in ("encoder", "proposer"))
    if wants_tf32 and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        log.warning("precision=tf32: %s has no TF32 and computes in float32", device)


def check_targets(experiment: Experiment, targets: Split) -> None:
    """Raise RefexpError if these targets cannot serve, before anything costly is done."""
    experiment.evaluation.check(targets)
    if experiment.proposer.sees_truth and not targets.annotations:
        raise RefexpError("this proposer gives back the targets' annotations, and there are none; choose another.")


def diagnostics_of(evaluation: Evaluation, targets: Split) -> Diagnostics | None:
    """Who examines each image on the way, if `evaluation.diagnostics` asks for it."""
    if not isinstance(evaluation, CocoEvaluation) or not evaluation.diagnostics:
        return None
    return Diagnostics(targets, evaluation.kinds, evaluation.engine, evaluation.confusion_threshold)


def write_beginning(output: Path, config: dict[str, Any], references: dict[str, Any], note: str | None) -> None:
    """What is known before the work begins, in place of what an earlier run left in the folder."""
    remove_results(output)
    write_text(output / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    write_json(output / "references.json", references)
    if note:
        log.warning(note)
        write_text(output / "WEIGHTS.txt", note + "\n")


def features_of(split: Split, extractor: Extractor) -> Features:
    """Instance prototypes f32 [n, C] of references on offer, for samplers that choose by them."""

    def features(references: Sequence[Record]) -> torch.Tensor:
        (masked,) = extractor.with_masks(split, [references])
        prototypes = dict(track(extractor.prototypes(split, masked), len(masked), "candidates"))
        return torch.stack([prototypes[reference["id"]] for reference in references])

    return features


def remember(references: Sequence[Sequence[Record]], split: Split, extractor: Extractor) -> MemoryBank:
    """Every reference's prototype, averaged over the shots of a class (METHOD 1)."""
    unique = list({reference["id"]: reference for per_class in references for reference in per_class}.values())
    prototypes = dict(track(extractor.prototypes(split, unique), len(unique), "references"))
    return build_bank([torch.stack([prototypes[r["id"]] for r in per_class]) for per_class in references])


def store_candidates(split: Split, shots: Shots, extractor: Extractor) -> None:
    """Put every reference that some seed could choose into the store.

    split: of all classes on offer, since other numbers of shots may keep one that this run leaves out.
    """
    (everything,) = extractor.with_masks(split, [candidates(split, shots)])
    for _ in track(extractor.prototypes(split, everything), len(everything), "all references"):
        pass


def search(
    proposals: Iterable[tuple[ImageId, Proposals]],
    bank: MemoryBank,
    experiment: Experiment,
    diagnostics: Diagnostics | None,
    clock: Clock,
) -> tuple[list[Detections], list[ImageDiagnosis]]:
    """What is found in this rank's targets, and what was learned of each on the way (METHOD 3, 4)."""
    found: list[Detections] = []
    examined: list[ImageDiagnosis] = []
    for image_id, of_image in proposals:
        with clock.stage("detect"):
            found.append(detect(image_id, of_image, bank, experiment.matcher, experiment.steps.values()))
        if diagnostics:
            with clock.stage("diagnose"):
                examined.append(diagnostics.examine(of_image, found[-1]))
    return found, examined


def picture_memory_bank(
    path: Path,
    data: Data,
    references: Sequence[Sequence[Record]],
    bank: MemoryBank,
    extractor: Extractor,
    note: str | None,
) -> None:
    """What the references taught, as a picture. Costs one forward pass a reference, 40 at most."""
    extractor.load()
    views = [
        [view_reference(data.references, reference, extractor.encoder, extractor.device) for reference in per_class]
        for per_class in shown(references)
    ]
    draw_memory_bank(path, data.classes, views, bank, note)


def write_detections(output: Path, experiment: Experiment, detections: Sequence[Detections], data: Data) -> None:
    """All detections, and where it was asked for a list and masks of those with a score that is high enough."""
    write_json(output / "detections.json", detections_to_coco(detections, data))
    if experiment.summary or experiment.masks:
        listed = findings(detections, data.classes, experiment.vis.score_threshold)
        if experiment.summary:
            write_summary(output / f"summary.{experiment.summary}", listed)
        if experiment.masks:
            write_masks(output / "masks", listed)


def summarise(
    experiment: Experiment,
    data: Data,
    references: Sequence[Sequence[Record]],
    found: Sequence[Detections],
    weights: dict[str, Weights],
) -> dict[str, Any]:
    """What was run, for metrics.json."""
    return {
        "config": experiment.config,
        "targets": data.targets.source,
        "seed": experiment.seed,
        "shots": "all" if experiment.sampler.takes_all else experiment.shots.n,
        "classes": list(data.classes),
        "references": {name: len(drawn) for name, drawn in zip(data.classes, references, strict=True)},
        "images": len(data.targets.images),
        "instances": sum(not a.get("iscrowd", 0) for a in data.targets.annotations),
        "detections": sum(len(detections) for detections in found),
        "weights": {
            name: {"origin": w.origin, "kind": w.kind, "file": w.file and w.file.name, "sha256": w.sha256}
            for name, w in weights.items()
        },
    }
