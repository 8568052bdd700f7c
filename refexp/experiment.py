"""An experiment, in the order in which it happens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field

from refexp.build import build, build_all, check
from refexp.data.coco import Data, Record, Split
from refexp.data.sampling import Features, Sampler, Shots, candidates, choose_references
from refexp.distributed import Ranks, join, place
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.evaluation.coco import CocoEvaluation
from refexp.extraction import Extractor
from refexp.files import write_json, write_text
from refexp.memory import build_bank
from refexp.pipeline import Matcher, Step, detect
from refexp.progress import track
from refexp.proposers.base import Proposer
from refexp.provenance import Clock, available_cores, describe_run
from refexp.report.gallery import Gallery, PredictionGallery
from refexp.report.table import print_findings, print_metrics
from refexp.results import (
    SummaryFormat,
    detections_to_coco,
    findings,
    references_to_coco,
    write_masks,
    write_summary,
)
from refexp.store import Store
from refexp.types import Detections, MemoryBank, Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """Where a run computes.

    device: "auto" takes a GPU if there is one, each rank its own. threads: CPU threads of a process, None leaves one
    process's be and divides the cores among the ranks of a machine. silence: seconds without a sign of life after
    which a rank counts as dead and the run ends.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    silence: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 45.0

    def prepare(self) -> torch.device:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RefexpError("runtime.device='cuda': no GPU is visible here; use runtime.device=auto or cpu.")
        here = place()
        if self.threads or here.local_world_size > 1:
            torch.set_num_threads(self.threads or max(1, available_cores() // here.local_world_size))
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        device = torch.device("cuda", here.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device


@dataclass(frozen=True)
class Vis:
    """How many targets are drawn, spread evenly over the split (None: all).

    score_threshold: from which score on detections are drawn and, with task=predict, listed and saved as masks.
    """

    limit: Annotated[int, Field(ge=0)] | None = 8
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class Experiment:
    """The components of an experiment, built and checked; nothing is loaded yet."""

    config: dict[str, Any]
    stage: Literal["all", "extract", "ablate"]
    seed: int
    dataset: Any
    sampler: Sampler
    shots: Shots
    encoder: Encoder
    proposer: Proposer
    matcher: Matcher
    steps: dict[str, Step]
    evaluation: CocoEvaluation
    vis: Vis
    store: Store
    runtime: Runtime
    summary: SummaryFormat | None
    masks: bool


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values. Raises RefexpError that names the config key at fault."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise RefexpError(f"{error.full_key} must be given: {error.full_key}=...") from None
    except InterpolationToMissingValueError as error:
        missing = str(error.msg).splitlines()[0].rsplit(" ", 1)[-1]
        raise RefexpError(f"{missing} must be given: {missing}=...") from None
    except OmegaConfBaseException as error:
        raise RefexpError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
    return cast(dict[str, Any], plain)


def compose(config: DictConfig) -> Experiment:
    """Build every component. Raises RefexpError that names the config key at fault."""
    plain = resolve(config)
    return Experiment(
        config=plain,
        stage=check(plain["stage"], Literal["all", "extract", "ablate"], "stage"),
        seed=check(plain["seed"], int, "seed"),
        shots=build(plain.get("shots"), "shots", Shots),
        vis=build(plain.get("vis"), "vis", Vis),
        store=build(plain.get("store"), "store", Store),
        runtime=build(plain.get("runtime"), "runtime", Runtime),
        sampler=build(plain.get("sampler"), "sampler"),
        evaluation=build(plain.get("evaluation"), "evaluation"),
        matcher=build(plain.get("matcher"), "matcher"),
        steps=build_all(plain.get("postprocess"), "postprocess"),
        proposer=build(plain.get("proposer"), "proposer"),
        encoder=build(plain.get("encoder"), "encoder"),
        dataset=build(plain.get("dataset"), "dataset"),
        # Keys of task=predict alone.
        summary=check(plain.get("summary"), SummaryFormat | None, "summary"),
        masks=check(plain.get("masks", False), bool, "masks"),
    )


def run(config: DictConfig, output: Path) -> dict[str, float | None]:
    """Run one experiment, leave everything in `output`, return the metrics (none for stage=extract).

    Of several ranks each takes its share of the targets, and rank 0 alone writes and returns metrics.
    """
    experiment = compose(config)
    device = experiment.runtime.prepare()
    with join(experiment.runtime.silence, gpu=device.type == "cuda").run() as ranks:
        return run_ranks(experiment, output, device, ranks)


def run_ranks(experiment: Experiment, output: Path, device: torch.device, ranks: Ranks) -> dict[str, float | None]:
    """The experiment's steps, on this rank."""
    if ranks.first:
        warn_without_effect(experiment.config)
    clock = Clock()

    with clock.stage("read annotations"):
        offered: Data = experiment.dataset.load()
    extractor = Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, device, clock,
        may_compute=experiment.stage != "ablate",
    )  # fmt: skip
    features = features_of(offered.references, extractor)
    data, references = choose_references(offered, experiment.sampler, experiment.shots, experiment.seed, features)
    experiment.evaluation.check(data.targets)
    if experiment.proposer.sees_truth and not data.targets.annotations:
        raise RefexpError("this proposer gives back the targets' annotations, and there are none; choose another.")
    references = extractor.with_masks(data.references, references)
    if ranks.first:
        write_text(output / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(experiment.config)))
        write_json(output / "references.json", references_to_coco(references, data))
    note = weights_note(extractor.weights)
    if note and ranks.first:
        log.warning(note)
        write_text(output / "WEIGHTS.txt", note + "\n")

    if experiment.store.references == "all":
        # Of all classes on offer: other numbers of shots may keep one that this run leaves out.
        (everything,) = extractor.with_masks(offered.references, [candidates(offered.references, experiment.shots)])
        for _ in track(extractor.prototypes(offered.references, everything), len(everything), "all references"):
            pass
    bank = remember(references, data.references, extractor)
    mine = ranks.share(list(data.targets.images.values()))
    proposals = track(extractor.proposals(data.targets, mine), len(mine), "targets")
    if experiment.stage == "extract":
        images = ranks.gather(sum(1 for _ in proposals)) or ()
        log.info("extracted: %d images and their references are in the store %s", sum(images), experiment.store.dir)
        return {}

    found: list[Detections] = []
    for image_id, of_image in proposals:
        with clock.stage("detect"):
            found.append(detect(image_id, of_image, bank, experiment.matcher, experiment.steps.values()))
    gathered = ranks.gather(found)
    if gathered is None:
        return {}
    by_image = {detections.image_id: detections for share in gathered for detections in share}
    detections = [by_image[image_id] for image_id in data.targets.images]
    write_json(output / "detections.json", detections_to_coco(detections, data))
    shown = partial(findings, detections, data.classes, experiment.vis.score_threshold)
    if experiment.summary:
        write_summary(output / f"summary.{experiment.summary}", shown())
    if experiment.masks:
        write_masks(output / "masks", shown())

    with clock.stage("draw"):
        limit = len(detections) if experiment.vis.limit is None else experiment.vis.limit
        kind = Gallery if data.targets.annotations else PredictionGallery
        gallery = kind(output / "overlays", data, limit, experiment.vis.score_threshold, note)
        gallery.draw_references(references)
        gallery.draw_targets(by_image)
    with clock.stage("evaluate", len(detections)):
        metrics = experiment.evaluation.evaluate(data.targets, detections, data.classes)
    summary = summarise(experiment, data, detections, extractor.weights) | describe_run(device, clock, ranks.world_size)
    summary["classes_left_out"] = [name for name in offered.classes if name not in data.classes]
    summary["references"] = {name: len(drawn) for name, drawn in zip(data.classes, references, strict=True)}
    write_json(output / "metrics.json", {"metrics": metrics} | summary, indent=2)
    if metrics:
        print_metrics(metrics, data.classes, summary, output, note)
    else:
        print_findings(shown(), summary["references"], len(detections), output, note)
    return metrics


def warn_without_effect(config: dict[str, Any]) -> None:
    """Say so where a key that speeds up networks is set, and neither network knows it."""
    for key, default in (("precision", "float32"), ("compile", False)):
        if config.get(key, default) != default and not any(key in config[part] for part in ("encoder", "proposer")):
            log.warning("%s=%s has no effect on this encoder and proposer", key, config[key])


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


def summarise(
    experiment: Experiment, data: Data, found: Sequence[Detections], weights: dict[str, Weights]
) -> dict[str, Any]:
    """What was run, for metrics.json."""
    return {
        "config": experiment.config,
        "targets": data.targets.source,
        "seed": experiment.seed,
        "shots": "all" if experiment.sampler.takes_all else experiment.shots.n,
        "classes": list(data.classes),
        "images": len(data.targets.images),
        "instances": sum(not a.get("iscrowd", 0) for a in data.targets.annotations),
        "detections": sum(len(detections) for detections in found),
        "weights": {
            name: {"origin": w.origin, "file": w.file and w.file.name, "sha256": w.sha256}
            for name, w in weights.items()
        },
    }


def weights_note(weights: dict[str, Weights]) -> str | None:
    """What every output says of a run whose weights are not the published ones; None if they are."""
    random = [name for name, source in weights.items() if "RANDOM" in source.origin]
    if random:
        return f"RANDOM WEIGHTS ({', '.join(random)}): the results of this run mean nothing."
    other = [source.origin for source in weights.values() if "UNOFFICIAL" in source.origin]
    return f"{'; '.join(other)}: not the published weights." if other else None
