"""The expensive half of a run, through the store: what is there is read, what is not is computed and kept."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from refexp.data.ahead import ReadAhead
from refexp.data.coco import Record, Split, has_mask
from refexp.encoders.base import Encoder
from refexp.errors import MissingData, RefexpError
from refexp.inputs.images import to_square
from refexp.machine.networks import load_network
from refexp.machine.progress import track
from refexp.machine.provenance import Clock, device_name
from refexp.masks import Rle
from refexp.method.box_masks import complete, without_mask
from refexp.method.memory import patches_of, view_reference
from refexp.method.pipeline import extract, tokens_of
from refexp.method.source import code_of
from refexp.proposers.base import Proposer
from refexp.store.entries import FORMAT, Entry, Store, digest
from refexp.store.travel import fingerprints
from refexp.types import ImageId, Patches, Proposals, Reference, Target, Weights

log = logging.getLogger(__name__)
Item = TypeVar("Item", Record, Reference)


OF_REFERENCES = ("reference_context", "reference_views")
"""Settings of an encoder that change references only, so the keys of targets are without them."""


class Extractor:
    """Encoder and proposer behind a store. Both networks are built when the first entry is missing, or never.
    What the store does not keep, patches of references, needs the encoder alone.

    settings: the resolved configuration of "encoder" and "proposer"; with the weights' SHA-256 part of every key.
    may_compute: False makes a missing entry an error (stage=ablate).
    """

    def __init__(
        self,
        encoder: Encoder,
        proposer: Proposer,
        store: Store,
        settings: Mapping[str, Mapping[str, Any]],
        device: torch.device,
        clock: Clock,
        may_compute: bool = True,
    ) -> None:
        self.encoder, self.proposer, self.store = encoder, proposer, store
        self.device, self.clock, self.may_compute = device, clock, may_compute
        self.weights: dict[str, Weights] = {"encoder": encoder.provenance(), "proposer": proposer.provenance()}
        components: dict[str, Encoder | Proposer] = {"encoder": encoder, "proposer": proposer}
        self.settings = {part: identity(component, settings[part]) for part, component in components.items()}
        self.maker = maker_of(proposer, settings["proposer"])
        self.loaded = self.encoder_loaded = False
        self._held: set[str] = set()
        self._patches: dict[ImageId, Patches] = {}

    def fill(self, split: Split, records: Sequence[Record], with_tokens: bool = False) -> None:
        """Compute what the store lacks of these targets: proposals, and tokens if they are wanted."""
        self.store.refresh()
        if lacking := self.lacking(split, records):
            for _ in track(self.proposals(split, lacking), len(lacking), "targets"):
                pass
        if with_tokens and (lacking := [one for one in records if self.needs_tokens(split, one)]):
            for _ in track(self._tokens(split, lacking), len(lacking), "target tokens"):
                pass

    def stored(self, split: Split, record: Record, with_tokens: bool = False) -> Proposals | None:
        """Read the proposals of a target from the store. None if the store lacks them or the wanted tokens."""
        entry = self.store.load(self.first_key(split, record))
        tokens = self.store.load(self.tokens_key(split, record)) if with_tokens else None
        if entry is None or (with_tokens and tokens is None):
            return None
        return replace(unpack(entry), tokens=torch.from_numpy(tokens["tokens"]).float() if tokens else None)

    def computed(
        self, split: Split, records: Sequence[Record], with_tokens: bool
    ) -> Iterator[tuple[ImageId, Proposals]]:
        """The same for several targets. What the store lacks is computed."""
        found = dict(self.proposals(split, records))
        tokens = dict(self._tokens(split, records)) if with_tokens else {}
        for image_id, proposals in found.items():
            yield image_id, replace(proposals, tokens=tokens.get(image_id))

    def proposals(self, split: Split, records: Sequence[Record]) -> Iterator[tuple[ImageId, Proposals]]:
        """Each of these images of the targets with its proposals, in an order that other jobs' work may change."""
        decoded: dict[ImageId, str] = {}  # the hash of the bytes from which the entry of an image is computed

        def key(record: Record) -> str:
            return self.target_key(split, record, self._truth(split, record), decoded.get(record["id"]))

        def read(record: Record) -> tuple[Target, str]:
            rgb, hashed = split.hashed(record)
            square = to_square(rgb, self.proposer.image_size)
            # Pinned, the copy to a GPU does not wait for the work before it.
            square = square.pin_memory() if self.device.type == "cuda" else square
            return Target(record["id"], rgb, square, self._truth(split, record)), hashed

        def compute(batch: Sequence[Record]) -> list[Entry]:
            self.load()
            with self.clock.stage("wait for images", len(batch)):
                pairs = [ahead.get(record) for record in batch]
            targets = [target for target, _ in pairs]
            decoded.update((target.id, hashed) for target, hashed in pairs)
            with self.clock.stage("extract", len(batch)):
                found = extract(targets, self.encoder, self.proposer, self.device)
            return [pack(proposals, self.store.dtype) for proposals in found]

        made_by = {"kind": "proposals"} | {part: name_of(self.settings[part]) for part in ("proposer", "encoder")}
        ahead = ReadAhead(records, read, wanted=lambda record: self.needs(split, record))
        try:
            for record, entry in self._entries(records, key, compute, made_by, self.encoder.batch):
                yield record["id"], unpack(entry)
        finally:
            ahead.close()

    def prototypes(self, split: Split, references: Sequence[Reference]) -> Iterator[tuple[ImageId, torch.Tensor]]:
        """Every reference's id with its instance prototype f32 [C]."""
        decoded: dict[ImageId, str] = {}
        noting = split.noting(decoded)

        def key(reference: Reference) -> str:
            return self.reference_key(split, reference, decoded.get(reference.image_id))

        def compute(batch: Sequence[Reference]) -> list[Entry]:
            (reference,) = batch
            self.load()
            with self.clock.stage("remember"):
                prototype = view_reference(noting, reference, self.encoder, self.device).prototype
            return [{"prototype": prototype.numpy().astype(self.store.dtype)}]

        made_by = {"kind": "prototype", "encoder": name_of(self.settings["encoder"])}
        for reference, entry in self._entries(references, key, compute, made_by):
            yield reference.id, torch.from_numpy(entry["prototype"].astype(np.float32))

    def with_masks(self, split: Split, references: Sequence[Sequence[Reference]]) -> list[list[Reference]]:
        """The references, those that come with a box only completed by the mask that the proposer makes of it.

        Raises RefexpError where the proposer makes no masks of boxes.
        """
        by_image = without_mask(reference for per_class in references for reference in per_class)
        lacking = list({reference.id: reference for of_image in by_image.values() for reference in of_image}.values())

        decoded: dict[ImageId, str] = {}
        noting = split.noting(decoded)

        def key(reference: Reference) -> str:
            return self.box_key(split, reference, decoded.get(reference.image_id))

        def compute(batch: Sequence[Reference]) -> list[Entry]:
            self.load()
            with self.clock.stage("masks of boxes"):
                (masked,) = complete(noting, batch, self.proposer)
            return [{"mask": np.frombuffer(masked.known_mask["counts"], dtype=np.uint8)}]

        made_by = {"kind": "mask of a box", "proposer": name_of(self.maker[0])}
        made: dict[ImageId, Reference] = {}
        for reference, entry in self._entries(lacking, key, compute, made_by):
            image = split.images[reference.image_id]
            mask = {"size": [image["height"], image["width"]], "counts": entry["mask"].tobytes()}
            made[reference.id] = replace(reference, mask=mask)
        return [[made.get(reference.id, reference) for reference in per_class] for per_class in references]

    def patches(self, split: Split, references: Sequence[Reference]) -> Iterator[tuple[ImageId, Patches]]:
        """Encode references with masks again, also with stage=ablate. Yields each one's id and patches.

        The store does not keep them, this object does: jobs of the same data set draw many of the same references.
        """
        for reference in references:
            if reference.id not in self._patches:
                self.load_encoder()
                with self.clock.stage("reference patches"):
                    view = view_reference(split, reference, self.encoder, self.device)
                    self._patches[reference.id] = patches_of(view, split, reference, self.encoder)
            yield reference.id, self._patches[reference.id]

    def _tokens(self, split: Split, records: Sequence[Record]) -> Iterator[tuple[ImageId, torch.Tensor]]:
        """Each of these targets with its tokens. Those that the store lacks are computed, also with stage=ablate."""
        decoded: dict[ImageId, str] = {}

        def key(record: Record) -> str:
            return self.tokens_key(split, record, decoded.get(record["id"]))

        def compute(batch: Sequence[Record]) -> list[Entry]:
            (record,) = batch
            self.load_encoder()
            with self.clock.stage("target tokens"):
                rgb, decoded[record["id"]] = split.hashed(record)
                target = Target(record["id"], rgb, to_square(rgb, self.proposer.image_size))
                return [{"tokens": tokens_of(target, self.encoder, self.device).numpy()}]

        made_by = {"kind": "tokens", "encoder": name_of(self.settings["encoder"])}
        for record, entry in self.store.share(records, key, compute, made_by):
            yield record["id"], torch.from_numpy(entry["tokens"]).float()

    def first_key(self, split: Split, item: Record | Reference) -> str:
        """Key of what is computed first from an image: a target's proposals; a reference's mask, or its prototype."""
        if not isinstance(item, Reference):
            return self.target_key(split, item, self._truth(split, item))
        return self.box_key(split, item) if item.mask is None else self.reference_key(split, item)

    def needs(self, split: Split, item: Record | Reference) -> bool:
        """Whether the store lacked that entry when this process last looked."""
        return self.store.size(self.first_key(split, item)) is None

    def lacking(self, split: Split, records: Sequence[Record]) -> list[Record]:
        """The targets whose proposals the store lacked when this process last looked.

        Keys take their time, so targets that were there are not looked for again: the jobs of a process ask often.
        """
        lacking = []
        for record in records:
            place = repr((record["id"], record["height"], record["width"], self._truth(split, record)))
            if place in self._held:
                continue
            if self.needs(split, record):
                lacking.append(record)
            else:
                self._held.add(place)
        return lacking

    def needs_tokens(self, split: Split, record: Record) -> bool:
        """Whether the store lacked the tokens of a target when this process last looked."""
        return self.store.size(self.tokens_key(split, record)) is None

    def same_entries(self, one: Split, other: Split) -> bool:
        """Whether both have the same images and, if the proposer sees it, the same ground truth."""
        if self.proposer.sees_truth and [a["id"] for a in one.annotations] != [a["id"] for a in other.annotations]:
            return False
        return list(one.images) == list(other.images)

    def _truth(self, split: Split, record: Record) -> tuple[Rle, ...]:
        """The masks of an image's annotations, if the proposer sees them."""
        if not self.proposer.sees_truth:
            return ()
        seen = split.by_image[record["id"]]
        return tuple(split.mask(a) for a in seen if has_mask(a) and not a.get("iscrowd", 0))

    def target_key(self, split: Split, record: Record, truth: Sequence[Rle], decoded: str | None = None) -> str:
        """Key of an image's proposals; `truth` only where the proposer sees it.

        decoded: hash of the bytes that were decoded. None takes that of the image's file, for all keys.
        """
        seen: list[Any] = [mask["counts"].decode() for mask in truth]
        if self.proposer.reads_ids:
            seen.append({"id": record["id"]})
        made_by = [
            (self._encoder_of_targets, self.weights["encoder"]),
            (self.settings["proposer"], self.weights["proposer"]),
        ]
        return self._key("proposals", split, record, made_by, seen, decoded)

    def tokens_key(self, split: Split, record: Record, decoded: str | None = None) -> str:
        """Key of a target's tokens, which depend on the square that the proposer gets, too."""
        made_by = [(self._encoder_of_targets, self.weights["encoder"])]
        return self._key("tokens", split, record, made_by, [self.proposer.image_size], decoded)

    @property
    def _encoder_of_targets(self) -> dict[str, Any]:
        return {name: value for name, value in self.settings["encoder"].items() if name not in OF_REFERENCES}

    def reference_key(self, split: Split, reference: Reference, decoded: str | None = None) -> str:
        """Key of a reference's prototype."""
        image = split.images[reference.image_id]
        seen = [reference.known_mask["counts"].decode(), list(reference.box)]
        made_by = [(self.settings["encoder"], self.weights["encoder"])]
        return self._key("prototype", split, image, made_by, seen, decoded)

    def box_key(self, split: Split, reference: Reference, decoded: str | None = None) -> str:
        """Key of the mask that the proposer makes of a reference's box."""
        image = split.images[reference.image_id]
        return self._key("box mask", split, image, [self.maker], list(reference.box), decoded)

    def _key(
        self,
        kind: str,
        split: Split,
        record: Record,
        made_by: Sequence[tuple[Mapping[str, Any], Weights]],
        more: Sequence[Any],
        decoded: str | None,
    ) -> str:
        image = [decoded or self.fingerprint(split, record), record["height"], record["width"]]
        sources = [[settings, weights.sha256 or weights.origin] for settings, weights in made_by]
        return digest([FORMAT[kind], kind, self.store.dtype, image, sources, more])

    def fingerprint(self, split: Split, record: Record) -> str:
        """The hash of an image's file; where the file is missing, that in the manifests of the store.

        Raises MissingData if there is neither.
        """
        try:
            return split.fingerprint(record)
        except MissingData:
            known = self.elsewhere.get((record["file_name"], record["height"], record["width"]), ())
            if len(known) == 1:
                return next(iter(known))
            if known:
                raise RefexpError(
                    f"{record['file_name']}: manifests of the store '{self.store.dir}' name {len(known)} images so; "
                    "import one of the data sets into another store (store.dir)."
                ) from None
            raise

    @cached_property
    def elsewhere(self) -> Mapping[tuple[str, int, int], set[str]]:
        """The hashes of images in the manifests of the store, by file name, height and width."""
        return fingerprints(Path(self.store.dir))

    def _entries(self, items: Sequence[Item], key: Callable[[Item], str], *how: Any) -> Iterator[tuple[Item, Entry]]:
        """Each item, an image's record or a reference, with its entry. how: the other arguments of `Store.share`."""
        if self.may_compute:
            yield from self.store.share(items, key, *how)
            return
        for item in items:
            entry = self.store.load(key(item))
            if entry is None:
                what, more = f"image {item['file_name']}" if isinstance(item, dict) else f"reference {item.id}", ""
                if isinstance(item, Reference):
                    more = " store.references=all (those of every seed and number of shots)"
                raise RefexpError(
                    f"stage=ablate: {what} is not in the store '{self.store.dir}'; run stage=extract{more} first."
                )
            yield item, entry

    def load(self) -> None:
        """Load both networks, unless they are."""
        if self.loaded:
            return
        log.info("%s on %s", "network of the proposer" if self.encoder_loaded else "networks", device_name(self.device))
        with self.clock.stage("load networks"):
            if not self.encoder_loaded:
                load_network(self.encoder, self.device)
            load_network(self.proposer, self.device)
        self.loaded = self.encoder_loaded = True

    def load_encoder(self) -> None:
        """Load the network of the encoder alone, unless it is loaded."""
        if self.encoder_loaded:
            return
        log.info("network of the encoder on %s", device_name(self.device))
        with self.clock.stage("load networks"):
            load_network(self.encoder, self.device)
        self.encoder_loaded = True


def identity(component: Encoder | Proposer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a component from others in a store key: all settings that matter, its revision, and foreign code.

    A setting that is itself a component has its own identity there.
    """
    kind = type(component)
    parameters = inspect.signature(kind).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    given = {name: value for name, value in {**defaults, **settings}.items() if name not in component.inert}
    if not given.get("reference_views"):
        given.pop("reference_views", None)  # so that keys from before this setting existed stay valid
    matters = {name: _identified(value, getattr(component, name, None)) for name, value in given.items()}
    code, revision = code_of(kind), component.revision
    return matters | ({"code": code} if code else {}) | ({"revision": revision} if revision else {})


def maker_of(proposer: Proposer, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Weights]:
    """Identity and weights of the proposer that makes the masks of boxes.

    That is all that these masks depend on: the boxes file of the proposer around it does not change them.
    """
    maker = proposer.mask_maker
    given = _settings_of(maker, proposer, settings)
    if maker is None or given is None:
        maker, given = proposer, settings
    return identity(maker, given), maker.provenance()


def _settings_of(part: Proposer | None, built: Any, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of a part, among those of what was built around it. None if it is not there."""
    if built is part:
        return settings
    inner = built if isinstance(built, Mapping) else vars(built)
    within = ((inner.get(name), value) for name, value in settings.items() if isinstance(value, Mapping))
    found = (_settings_of(part, one, value) for one, value in within if isinstance(one, (Mapping, Proposer)))
    return next((given for given in found if given is not None), None)


def _identified(value: Any, built: Any) -> Any:
    """A setting, with the identities of the components that were built from it."""
    if not isinstance(value, Mapping):
        return value
    if isinstance(built, (Encoder, Proposer)):
        return identity(built, value)
    parts = built if isinstance(built, Mapping) else {}
    return {name: _identified(one, parts.get(name)) for name, one in value.items()}


def name_of(settings: Mapping[str, Any]) -> str:
    """`DINOv2(arch=vitl14, ...)`: settings as one reads them."""
    arguments = ", ".join(f"{key}={value}" for key, value in settings.items() if key != "_target_")
    return f"{str(settings['_target_']).rsplit('.', 1)[-1]}({arguments})"


def pack(proposals: Proposals, dtype: str) -> Entry:
    """Proposals as arrays: the masks' run-length codes end to end, with their lengths."""
    counts = [mask["counts"] for mask in proposals.masks]
    return {
        "quality": proposals.quality.numpy(),
        "boxes_lr": proposals.boxes_lr.numpy().astype(np.int16),
        "features": proposals.features.numpy().astype(dtype),
        "masks": np.frombuffer(b"".join(counts), dtype=np.uint8),
        "mask_lengths": np.array([len(c) for c in counts], dtype=np.int64),
        "size": np.array(proposals.size, dtype=np.int64),
    }


def unpack(entry: Entry) -> Proposals:
    """The inverse of `pack`."""
    size = [int(side) for side in entry["size"]]
    ends = entry["mask_lengths"].cumsum().tolist()
    codes, lengths = entry["masks"].tobytes(), entry["mask_lengths"].tolist()
    masks = [{"size": size, "counts": codes[end - n : end]} for end, n in zip(ends, lengths, strict=True)]
    return Proposals(
        quality=torch.from_numpy(entry["quality"]),
        boxes_lr=torch.from_numpy(entry["boxes_lr"].astype(np.float32)),
        features=torch.from_numpy(entry["features"].astype(np.float32, copy=False)),
        masks=masks,
        size=(size[0], size[1]),
    )
