"""An experiment, in the order in which it happens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field

from refexp.build import build, build_all, check
from refexp.data.coco import Data, Record, Split
from refexp.data.images import to_square
from refexp.data.sampling import Sampler, Shots, choose_references
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.evaluation.coco import CocoEvaluation
from refexp.files import write_json, write_text
from refexp.masks import decode
from refexp.memory import build_bank, remember_one
from refexp.pipeline import Matcher, Step, detect, extract
from refexp.progress import track
from refexp.proposers.base import Proposer
from refexp.provenance import Clock, describe_run
from refexp.report.gallery import Gallery
from refexp.report.table import print_metrics
from refexp.results import detections_to_coco, references_to_coco
from refexp.types import Detections, MemoryBank, Target, Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """Where a run computes. device: "auto" takes a GPU if there is one. threads: CPU threads, None leaves them be."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None

    def prepare(self) -> torch.device:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RefexpError("runtime.device='cuda': no GPU is visible here; use runtime.device=auto or cpu.")
        if self.threads:
            torch.set_num_threads(self.threads)
        gpu = torch.cuda.is_available() and self.device != "cpu"
        return torch.device("cuda" if gpu else "cpu")


@dataclass(frozen=True)
class Vis:
    """How many targets are drawn, spread evenly over the split, and from which score on detections are shown."""

    limit: Annotated[int, Field(ge=0)] = 8
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class Experiment:
    """The components of an experiment, built and checked; nothing is loaded yet."""

    config: dict[str, Any]
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
    runtime: Runtime


def compose(config: DictConfig) -> Experiment:
    """Build every component. Raises RefexpError that names the config key at fault."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise RefexpError(f"{error.full_key} must be given: {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise RefexpError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
    plain = cast(dict[str, Any], plain)
    return Experiment(
        config=plain,
        seed=check(plain["seed"], int, "seed"),
        shots=build(plain["shots"], "shots", Shots),
        vis=build(plain["vis"], "vis", Vis),
        runtime=build(plain["runtime"], "runtime", Runtime),
        sampler=build(plain["sampler"], "sampler"),
        evaluation=build(plain["evaluation"], "evaluation"),
        matcher=build(plain["matcher"], "matcher"),
        steps=build_all(plain["postprocess"], "postprocess"),
        proposer=build(plain["proposer"], "proposer"),
        encoder=build(plain["encoder"], "encoder"),
        dataset=build(plain["dataset"], "dataset"),
    )


def run(config: DictConfig, output: Path) -> dict[str, float | None]:
    """Run one experiment, leave everything in `output`, return the metrics."""
    experiment = compose(config)
    device = experiment.runtime.prepare()
    clock = Clock()

    with clock.stage("read annotations"):
        data: Data = experiment.dataset.load()
        data, references = choose_references(data, experiment.sampler, experiment.shots, experiment.seed)
        experiment.evaluation.check(data.targets)
    write_text(output / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(experiment.config)))
    write_json(output / "references.json", references_to_coco(references, data))

    with clock.stage("load networks"):
        weights = {"encoder": experiment.encoder.load(device), "proposer": experiment.proposer.load(device)}
    note = _random_weights_note(weights)
    if note:
        log.warning(note)
        write_text(output / "RANDOM_WEIGHTS.txt", note + "\n")
    gallery = Gallery(output / "overlays", data, experiment.vis.limit, experiment.vis.score_threshold, note)

    bank = remember(references, data.references, experiment.encoder, device, clock)
    gallery.draw_references(references)

    found: list[Detections] = []
    for target in track(
        read_targets(data.targets, experiment.proposer.image_size, clock), len(data.targets.images), "targets"
    ):
        with clock.stage("extract"):
            proposals = extract(target, experiment.encoder, experiment.proposer, device)
        with clock.stage("detect"):
            found.append(detect(target.id, proposals, bank, experiment.matcher, experiment.steps.values()))
        with clock.stage("draw"):
            gallery.draw_target(target, found[-1])

    write_json(output / "detections.json", detections_to_coco(found, data))
    with clock.stage("evaluate", len(found)):
        metrics = experiment.evaluation.evaluate(data.targets, found, data.classes)
    summary = summarise(experiment, data, found, weights) | describe_run(device, clock)
    write_json(output / "metrics.json", {"metrics": metrics} | summary, indent=2)
    print_metrics(metrics, data.classes, summary, output, note)
    return metrics


def remember(
    references: Sequence[Sequence[Record]], split: Split, encoder: Encoder, device: torch.device, clock: Clock
) -> MemoryBank:
    """Encode every reference, pool it under its mask, average over shots (METHOD 1)."""
    unique = {reference["id"]: reference for per_class in references for reference in per_class}
    prototypes: dict[Any, torch.Tensor] = {}
    for id_, reference in track(unique.items(), len(unique), "references"):
        with clock.stage("remember"):
            mask = decode([split.mask(reference)])[0]
            rgb = split.read(split.images[reference["image_id"]])
            prototype = remember_one(rgb, mask, reference["bbox"], encoder, device)
            if not torch.isfinite(prototype).all():
                raise RefexpError(f"{split.source}: reference {id_} has an empty mask; choose another seed or fix it.")
            prototypes[id_] = prototype
    return build_bank([torch.stack([prototypes[r["id"]] for r in per_class]) for per_class in references])


def read_targets(split: Split, image_size: int, clock: Clock) -> Iterator[Target]:
    """Every image of the targets, in file order (METHOD 2.1)."""
    truth: dict[Any, list[Record]] = {}
    for annotation in split.annotations:
        if annotation.get("segmentation") and not annotation.get("iscrowd", 0):
            truth.setdefault(annotation["image_id"], []).append(annotation)
    for id_, record in split.images.items():
        with clock.stage("read images"):
            rgb = split.read(record)
            masks = tuple(split.mask(annotation) for annotation in truth.get(id_, ()))
            target = Target(id_, rgb, to_square(rgb, image_size), masks)
        yield target


def summarise(
    experiment: Experiment, data: Data, found: Sequence[Detections], weights: dict[str, Weights]
) -> dict[str, Any]:
    """What was run, for metrics.json."""
    return {
        "config": experiment.config,
        "seed": experiment.seed,
        "shots": experiment.shots.n,
        "classes": list(data.classes),
        "images": len(data.targets.images),
        "instances": sum(not a.get("iscrowd", 0) for a in data.targets.annotations),
        "detections": sum(len(detections) for detections in found),
        "weights": {
            name: {"origin": w.origin, "file": w.file and w.file.name, "sha256": w.sha256}
            for name, w in weights.items()
        },
    }


def _random_weights_note(weights: dict[str, Weights]) -> str | None:
    random = [name for name, source in weights.items() if "RANDOM" in source.origin]
    return f"RANDOM WEIGHTS ({', '.join(random)}): the results of this run mean nothing." if random else None
