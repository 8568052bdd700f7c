"""`refexp validate`: check a configuration without a run, and try its components on two drawn images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig

from refexp.config.building import build, check
from refexp.config.components import Input, Kept, Vis, build_part, build_steps
from refexp.config.composing import compose_config, resolve
from refexp.data.coco import Data
from refexp.data.protocols import Protocol
from refexp.data.sampling import Shots, choose_without_images
from refexp.data.synthetic import SyntheticDataset
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError, reason
from refexp.inputs.images import to_square
from refexp.machine.networks import Precision, load_network
from refexp.machine.runtime import Runtime
from refexp.method import contract
from refexp.method.memory import learn, view_reference
from refexp.method.pipeline import Matcher, Step, extract, needs, with_tokens
from refexp.proposers.base import Proposer
from refexp.store.entries import Store
from refexp.types import Candidates, MaskProposals, MemoryBank, Proposals, Reference, Target, Weights

CLOSE = 0.01
"""How far an image's tokens may differ by rounding, as a share of their norm."""

GROUPS: dict[str, type | None] = {
    "encoder": None, "proposer": None, "sampler": None, "matcher": None, "evaluation": None, "logger": None,
    "shots": Shots, "vis": Vis, "input": Input, "store": Store, "runtime": Runtime,
}  # fmt: skip
"""What is built from a group of settings; None: what its `_target_` names."""

CHOICES: dict[str, Any] = {
    "stage": Literal["all", "extract", "ablate"], "seed": int, "objective": str | None, "precision": Precision,
    "protocol": Protocol, "both_protocols": bool, "published_detections": bool,
    "detections": Kept,
}  # fmt: skip

Answer = TypeVar("Answer")


class Line(NamedTuple):
    """What was found out about a component."""

    component: str
    ok: bool
    message: str


def check_config(overrides: Sequence[str]) -> list[Line]:
    """Compose a configuration, build every component and read the annotations; load no network and no image.

    Names every mistake in the settings, missing weights and missing data, each on the line of its part. Whether this
    machine has the device is not checked. Raises RefexpError for overrides that cannot be composed.
    """
    plain = resolve(compose_config(overrides))
    choices = [attempt(key, check_choice, plain, key, hint) for key, hint in CHOICES.items()]
    lines = [line for line in choices if not line.ok]
    lines += [attempt(group, built, plain, group, kind) for group, kind in GROUPS.items()]
    lines.append(attempt("postprocess", built_steps, plain))
    return [*lines, attempt("dataset", read_annotations, plain)]


def attempt(component: str, function: Callable[..., str], *arguments: Any) -> Line:
    """What `function` says of a component, or how it fails. Whatever it raises is a line."""
    try:
        return Line(component, True, function(*arguments))
    except Exception as error:
        return Line(component, False, reason(error))


def check_choice(plain: dict[str, Any], key: str, hint: Any) -> str:
    """The value of a key that is no group."""
    return str(check(plain.get(key), hint, key))


def built(plain: dict[str, Any], group: str, kind: type | None) -> str:
    """The class of a component that could be built."""
    return type(build_part(plain, group, kind)).__name__


def built_steps(plain: dict[str, Any]) -> str:
    """The names of the steps."""
    return ", ".join(build_steps(plain)) or "no steps"


def read_annotations(plain: dict[str, Any]) -> str:
    """How much there is of the dataset, and of it for these shots. Draws the references."""
    data: Data = build(plain.get("dataset"), "dataset").load()
    found = f"{len(data.classes)} classes; {len(data.references.images)} images with references"
    found += f", {len(data.targets.images)} targets"
    try:
        sampler, shots = build(plain.get("sampler"), "sampler"), build(plain.get("shots"), "shots", Shots)
    except Exception:  # the lines of these parts say what is wrong
        return found
    left, drawn = choose_without_images(data, sampler, shots, plain["seed"])
    some = f"; {sum(map(len, drawn))} references of {len(left.classes)} classes drawn" if drawn else ""
    return found + some


def try_component(config: DictConfig) -> list[Line]:
    """Build encoder, proposer, matcher and steps of a configuration, and run each on two drawn images, twice.

    Every answer is checked (`method.contract`). It must be the same both times, and an encoder's must not depend on
    what else is in a batch. The matcher and the steps also get an image without proposals. What cannot be tried, since
    a component before it fails, has a line that says so.
    Raises RefexpError for a configuration that is not complete, and for a device that is not there.
    """
    plain = resolve(config)
    trial = Trial(plain, build(plain.get("runtime"), "runtime", Runtime).prepare())
    lines = [attempt("encoder", trial.try_encoder), attempt("proposer", trial.try_proposer)]
    if all(line.ok for line in lines):
        lines.append(attempt("matcher", trial.try_matcher))
    else:
        lines.append(Line("matcher", False, "not tried: it needs an encoder and a proposer that work"))
    for name, node in (plain.get("postprocess") or {}).items():
        step = f"postprocess.{name}"
        if not trial.candidates:
            lines.append(Line(step, False, "not tried: it needs a matcher that works"))
        elif node is not None:
            lines.append(attempt(step, trial.try_step, node, step))
    return lines


class Trial:
    """Components on two drawn images; each uses what those before it gave."""

    def __init__(self, plain: dict[str, Any], device: torch.device) -> None:
        self.plain, self.device = plain, device
        self.data = SyntheticDataset(references=4, targets=2, classes=["ladybird", "leaf"]).load()
        self.proposals: list[Proposals] = []
        self.candidates: list[Candidates] = []

    def targets(self, size: int) -> list[Target]:
        """The two images, at the size that a proposer wants."""
        split, found = self.data.targets, []
        for record in split.images.values():
            rgb = split.read(record)
            truth = tuple(split.mask(annotation) for annotation in split.by_image[record["id"]])
            found.append(Target(record["id"], rgb, to_square(rgb, size), truth))
        return found

    def references(self) -> list[Reference]:
        """One of each class."""
        split = self.data.references
        return [split.reference(a) for a in {a["category_id"]: a for a in reversed(split.annotations)}.values()]

    def bank(self, with_patches: bool) -> MemoryBank:
        """The references as a matcher gets them: two or more of each class, because calibration leaves one out."""
        split = self.data.references
        references = [split.reference(annotation) for annotation in split.annotations]
        per_class = [[r for r in references if r.label == label] for label in range(len(self.data.classes))]
        return learn(split, per_class, self.encoder, self.device, with_patches, self.data.classes)

    def chosen(self, group: str) -> Any:
        """The component that the configuration chooses; it has what its group asks for."""
        return build_part(self.plain, group)

    def load(self, network: Encoder | Proposer) -> str:
        """Load a network. Returns where its weights come from; the store's keys hold it."""
        weights = network.provenance()
        if not isinstance(weights, Weights):
            raise RefexpError(f"provenance gave {type(weights).__name__}; expected refexp.types.Weights.")
        load_network(network, self.device)
        return f"weights: {weights.origin}"

    def try_encoder(self) -> str:
        self.encoder = encoder = self.chosen("encoder")
        origin = self.load(encoder)
        squares = torch.stack([target.square for target in self.targets(encoder.input_size)]).to(self.device)

        def encode(images: torch.Tensor) -> torch.Tensor:
            return every_time(contract.check_tokens, encoder, encoder.encode(images), len(images))

        single = [twice(encode, image[None]) for image in squares]
        together = encode(squares)
        for alone, in_batch in zip(torch.cat(single), together, strict=True):
            apart = float((alone - in_batch).norm() / alone.norm().clamp(min=1e-12))
            if apart > CLOSE:
                raise RefexpError(f"forward of an image depends on the batch: two at once differ by {apart:.1%}.")
        for reference in self.references():
            view_reference(self.data.references, reference, encoder, self.device)
        return f"{type(encoder).__name__}: tokens {list(single[0].shape)}, the same alone and in a batch; {origin}"

    def try_proposer(self) -> str:
        self.proposer = proposer = self.chosen("proposer")
        origin = self.load(proposer)
        targets = self.targets(proposer.image_size)

        def propose(target: Target) -> MaskProposals:
            return every_time(contract.check_proposals, proposer, proposer.propose(target), target)

        found = [twice(propose, target) for target in targets]
        if proposer.mask_maker is not None:
            boxes = torch.tensor([[20.0, 30.0, 120.0, 140.0], [0.0, 0.0, 50.0, 40.0]])
            masks = proposer.masks_in_boxes(targets[0], boxes)
            every_time(contract.check_box_masks, proposer, masks, targets[0], len(boxes))
        counts = " and ".join(str(len(proposals)) for proposals in found)
        return f"{type(proposer).__name__}: {counts} proposals in two images; {origin}"

    def try_matcher(self) -> str:
        matcher: Matcher = self.chosen("matcher")
        bank = self.bank(needs(matcher, "patches"))
        targets = self.targets(self.proposer.image_size)
        proposals = extract(targets, self.encoder, self.proposer, self.device)
        if needs(matcher, "tokens"):
            pairs = zip(proposals, targets, strict=True)
            proposals = [with_tokens(found, target, self.encoder, self.device) for found, target in pairs]

        def match(of_image: Proposals) -> Candidates:
            return every_time(contract.check_matched, matcher, matcher.match(of_image, bank), of_image, bank)

        self.proposals = [*proposals, without_any(proposals[0])]
        self.candidates = found = [twice(match, of_image) for of_image in self.proposals]
        return f"{type(matcher).__name__}: {len(found[0])} and {len(found[1])} candidates in two images"

    def try_step(self, node: Any, key: str) -> str:
        step: Step = contract.check_offered("postprocess", build(node, key))

        def keep(given: Candidates, proposals: Proposals) -> tuple[Candidates, Proposals]:
            return every_time(contract.check_kept, step, step(given, proposals), given, proposals)

        images = list(zip(self.candidates, self.proposals, strict=True))
        kept = [twice(keep, *image) for image in images]
        before = sum(map(len, self.candidates))
        self.candidates, self.proposals = [found for found, _ in kept], [changed for _, changed in kept]
        after = sum(map(len, self.candidates))
        return f"{contract.name_of(step)}: {after} of {before} candidates stay"


def every_time(check: Callable[..., Answer], *arguments: Any) -> Answer:
    """Check an answer, even if one has passed before."""
    contract.forget()
    return check(*arguments)


def twice(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """What a function answers. Raises RefexpError if it changes its arguments, or if its second answer differs."""
    given = copy.deepcopy(arguments)
    first = copy.deepcopy(function(*arguments))
    if not same(given, arguments):
        raise RefexpError("changes what it is given, in place; expected it to work on a copy.")
    if not same(first, function(*arguments)):
        raise RefexpError("gives two answers to one question; expected the same each time.")
    return first


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return one == other


def without_any(proposals: Proposals) -> Proposals:
    """An image in which the proposer found nothing."""
    return replace(
        proposals,
        quality=proposals.quality[:0],
        boxes_lr=proposals.boxes_lr[:0],
        features=proposals.features[:0],
        masks=[],
    )
