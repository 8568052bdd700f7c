"""The components of an experiment, built from its configuration and checked before anything costly is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from refexp.config.building import build, build_all, check
from refexp.config.composing import resolve
from refexp.data.sampling import Sampler, Shots
from refexp.encoders.base import Encoder
from refexp.errors import MissingData, data_command
from refexp.evaluation.protocol import Evaluation
from refexp.machine.checkpoints import MissingWeights
from refexp.machine.networks import Precision
from refexp.machine.runtime import Runtime
from refexp.method.contract import check_offered
from refexp.method.pipeline import Matcher, Step
from refexp.proposers.base import Proposer
from refexp.store.entries import Store

SummaryFormat = Literal["csv", "json"]
"""Of the list of what was found (task=predict)."""


@dataclass(frozen=True)
class Vis:
    """What is shown of a run. limit: how many targets are drawn, spread evenly over the split (None: all).

    score_threshold: from which score on detections are drawn and, with task=predict, listed and saved as masks.
    report: write report.html. memory_bank: draw memory_bank.png; for it the run keeps what the encoder sees of up to 40
    references, and computes that again.
    """

    limit: Annotated[int, Field(ge=0)] | None = 8
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    report: bool = True
    memory_bank: bool = False


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
    evaluation: Evaluation
    vis: Vis
    store: Store
    runtime: Runtime
    device: torch.device


@contextmanager
def told_how_to_get(config: DictConfig) -> Iterator[None]:
    """Where a file of a published data set is missing, say which command tells what to do."""
    try:
        yield
    except MissingData as error:
        paths = cast(dict[str, Any], OmegaConf.to_container(config.dataset)).values()
        if not HydraConfig.initialized() or not any("${data_root}" in str(path) for path in paths):
            raise
        check = data_command("check", HydraConfig.get().runtime.choices["dataset"], "--root", Path(config.data_root))
        raise MissingData(f"{str(error).rstrip('.')}; `{check}` says what else is, and what to do.") from None


def build_networks(plain: dict[str, Any]) -> tuple[Proposer, Encoder]:
    """Proposer and encoder. Raises MissingWeights for the weights of both at once."""
    check(plain.get("precision", "float32"), Precision, "precision")  # not every network has a precision to check
    built, missing = [], []
    for part in ("proposer", "encoder"):
        try:
            built.append(check_offered(part, build(plain.get(part), part)))
        except MissingWeights as error:
            missing.append(error)
    if missing:
        raise MissingWeights([name for error in missing for name in error.names], missing[0].folder)
    return built[0], built[1]


def build_experiment(config: DictConfig) -> Experiment:
    """Build every component. Raises RefexpError that names the config key at fault."""
    plain = resolve(config)
    runtime = build(plain.get("runtime"), "runtime", Runtime)
    device = runtime.prepare()  # before weights are asked for
    proposer, encoder = build_networks(plain)
    return Experiment(
        config=plain,
        stage=check(plain["stage"], Literal["all", "extract", "ablate"], "stage"),
        seed=check(plain["seed"], int, "seed"),
        shots=build(plain.get("shots"), "shots", Shots),
        vis=build(plain.get("vis"), "vis", Vis),
        store=build(plain.get("store"), "store", Store),
        runtime=runtime,
        device=device,
        sampler=build(plain.get("sampler"), "sampler"),
        evaluation=build(plain.get("evaluation"), "evaluation"),
        matcher=check_offered("matcher", build(plain.get("matcher"), "matcher")),
        steps=build_all(plain.get("postprocess"), "postprocess"),
        proposer=proposer,
        encoder=encoder,
        dataset=build(plain.get("dataset"), "dataset"),
    )
