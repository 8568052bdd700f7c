"""The components of an experiment, built from its configuration and checked before any expensive step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from refexp.config.building import build, check
from refexp.config.composing import resolve
from refexp.data.protocols import Protocol
from refexp.data.sampling import Sampler, Shots
from refexp.encoders.base import Encoder
from refexp.errors import MissingData, RefexpError, data_command
from refexp.evaluation.protocol import Evaluation
from refexp.machine.checkpoints import MissingWeights
from refexp.machine.networks import Precision
from refexp.machine.runtime import Runtime
from refexp.method.contract import OFFERED, check_offered
from refexp.method.pipeline import Matcher, Step
from refexp.proposers.base import Proposer
from refexp.store.entries import Store

SummaryFormat = Literal["csv", "json"]
"""Format of the table of detections (task=predict)."""
Kept = Literal["json", "gz", "none"]
"""How a run keeps its detections: detections.json, the same compressed, or not at all."""


@dataclass(frozen=True)
class Vis:
    """The `vis` keys of the configuration.

    limit: number of targets to draw, evenly spaced over the split (None: all). score_threshold: lowest score to draw
    and, with task=predict, to list and to save as a mask. report: write report.html. memory_bank: draw memory_bank.png.
    For this, the run encodes up to 40 references again and keeps their patch features.
    """

    limit: Annotated[int, Field(ge=0)] | None = 8
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    report: bool = True
    memory_bank: bool = False


@dataclass(frozen=True)
class Input:
    """The `input` keys of the configuration: what happens to data that are not as they should be.

    limit: use only the first targets (None: all). strict: refuse data that would be repaired. unreadable: "error" names
    all images that cannot be read before anything is computed; "skip" leaves them out and lists them at the end.
    max_pixels: larger images are not read.
    """

    limit: Annotated[int, Field(ge=1)] | None = None
    strict: bool = False
    unreadable: Literal["error", "skip"] = "error"
    max_pixels: Annotated[int, Field(ge=1)] = 200_000_000


@dataclass(frozen=True)
class Experiment:
    """The components of an experiment, built and checked. No data or weights are loaded yet.

    protocol: of the references and of the evaluation. detections: how they are kept.
    published_detections: also write detections_published.json.
    """

    config: dict[str, Any]
    stage: Literal["all", "extract", "ablate"]
    seed: int
    objective: str | None
    protocol: Protocol
    detections: Kept
    published_detections: bool
    dataset: Any
    sampler: Sampler
    shots: Shots
    encoder: Encoder
    proposer: Proposer
    matcher: Matcher
    steps: dict[str, Step]
    evaluation: Evaluation
    vis: Vis
    input: Input
    store: Store
    runtime: Runtime
    device: torch.device


@contextmanager
def told_how_to_get(config: DictConfig) -> Iterator[None]:
    """If files of a published data set are missing, name all of them, and the command that says how to get them."""
    try:
        yield
    except MissingData as error:
        paths = cast(dict[str, Any], OmegaConf.to_container(config.dataset)).values()
        if not HydraConfig.initialized() or not any("${data_root}" in str(path) for path in paths):
            raise
        check = data_command("check", HydraConfig.get().runtime.choices["dataset"], "--root", Path(config.data_root))
        what = str(error).rstrip(".")
        if not what.startswith("missing"):
            what = missing_data(resolve(config)["dataset"]) or what
        raise MissingData(f"{what}; `{check}` lists all missing files and how to get them.") from None


def build_part(plain: dict[str, Any], name: str, kind: type | None = None) -> Any:
    """Build what the group `name` chooses, and check that it offers what the group asks for. kind: see `build`."""
    component = build(plain.get(name), name, kind)
    return check_offered(name, component) if name in OFFERED else component


def build_steps(plain: dict[str, Any]) -> dict[str, Step]:
    """Build and check the steps of `postprocess`, by name and in order, without those that are null."""
    node = plain.get("postprocess")
    if not isinstance(node, dict):
        raise RefexpError(f"postprocess={node!r}: expected a mapping of named steps; see conf/postprocess.")
    chosen = {name: build(entry, f"postprocess.{name}") for name, entry in node.items() if entry is not None}
    return {name: check_offered("postprocess", step) for name, step in chosen.items()}


def build_networks(plain: dict[str, Any]) -> tuple[Proposer, Encoder]:
    """Build proposer and encoder. Raises one MissingWeights for the missing weights of both."""
    check(plain.get("precision", "float32"), Precision, "precision")  # check it here, because not every network does
    built, missing = [], []
    for part in ("proposer", "encoder"):
        try:
            built.append(build_part(plain, part))
        except MissingWeights as error:
            missing.append(error)
    if missing:
        raise MissingWeights([name for error in missing for name in error.names], missing[0].folder)
    return built[0], built[1]


def build_networks_with_data(plain: dict[str, Any]) -> tuple[Proposer, Encoder]:
    """Build proposer and encoder. If weights are missing, the error also names the data files that are."""
    try:
        return build_networks(plain)
    except MissingWeights as error:
        data = missing_data(plain["dataset"])
        if not data:
            raise
        raise MissingData(f"{error.short}; {data}") from None


def missing_data(dataset: dict[str, Any]) -> str | None:
    """Return `missing data in FOLDER: val2017, annotations/...`, or None if a data set's files are all there."""
    paths = [dataset.get(key) for key in ("images", "references", "reference_images", "targets")]
    given = dict.fromkeys(Path(path).absolute() for path in paths if isinstance(path, str))
    absent = [path for path in given if not path.exists()]
    if not absent:
        return None
    folder = os.path.commonpath([path.parent for path in absent])
    return f"missing data in {folder}: {', '.join(str(path.relative_to(folder)) for path in absent)}"


def build_experiment(config: DictConfig) -> Experiment:
    """Build every component. Raises RefexpError that names the wrong configuration key."""
    plain = resolve(config)
    runtime = build_part(plain, "runtime", Runtime)
    device = runtime.prepare()  # first, so that a wrong device is reported before missing weights
    proposer, encoder = build_networks_with_data(plain)
    return Experiment(
        config=plain,
        stage=check(plain["stage"], Literal["all", "extract", "ablate"], "stage"),
        seed=check(plain["seed"], int, "seed"),
        objective=check(plain.get("objective"), str | None, "objective"),
        protocol=check(plain.get("protocol", "standard"), Protocol, "protocol"),
        detections=check(plain.get("detections", "json"), Kept, "detections"),
        published_detections=check(plain.get("published_detections", False), bool, "published_detections"),
        shots=build_part(plain, "shots", Shots),
        vis=build_part(plain, "vis", Vis),
        input=build(plain.get("input") or {}, "input", Input),
        store=build_part(plain, "store", Store),
        runtime=runtime,
        device=device,
        sampler=build_part(plain, "sampler"),
        evaluation=build_part(plain, "evaluation"),
        matcher=build_part(plain, "matcher"),
        steps=build_steps(plain),
        proposer=proposer,
        encoder=encoder,
        dataset=build_part(plain, "dataset"),
    )
