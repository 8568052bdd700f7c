"""refexp from Python: a model that remembers references and finds their classes in images. No file is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from refexp.config.building import build, build_all
from refexp.config.components import build_networks
from refexp.config.composing import composed, resolve
from refexp.data.coco import Data, Split, make_split
from refexp.data.folder import read_given, to_content
from refexp.data.images import as_rgb, open_upright, to_mask, to_square
from refexp.data.sampling import AllSampler, Shots, choose_references
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.machine.provenance import weights_note
from refexp.machine.runtime import Runtime
from refexp.method.box_masks import check_box, complete, without_mask
from refexp.method.memory import build_bank, view_reference
from refexp.method.pipeline import Matcher, Step, detect, extract
from refexp.proposers.base import Proposer
from refexp.types import Detections, ImageId, MemoryBank, Reference, Target

log = logging.getLogger(__name__)

Picture = str | Path | Image.Image | np.ndarray
"""An image file, a PIL image, or u8 [H, W, 3] in RGB order (or [H, W], grey)."""


def load(*overrides: str) -> Model:
    """A model of the components that these overrides choose, its networks loaded.

    overrides: as on the command line; of them encoder, proposer, matcher, postprocess, weights, precision, compile,
    checkpoints and runtime have an effect. None: the embedded default. Raises RefexpError for a mistake in them.
    """
    settings = resolve(composed(overrides))
    device = build(settings.get("runtime"), "runtime", Runtime).prepare()
    proposer, encoder = build_networks(settings)
    model = Model(
        encoder=encoder,
        proposer=proposer,
        matcher=build(settings.get("matcher"), "matcher"),
        steps=build_all(settings.get("postprocess"), "postprocess"),
        device=device,
    )
    model.encoder.load(device)
    model.proposer.load(device)
    return model


class Model:
    """Loaded networks, and what they remember."""

    def __init__(
        self, encoder: Encoder, proposer: Proposer, matcher: Matcher, steps: Mapping[str, Step], device: torch.device
    ) -> None:
        if proposer.sees_truth:
            raise RefexpError(f"{type(proposer).__name__} gives back annotations, and here are none; choose another.")
        self.encoder, self.proposer, self.matcher, self.steps = encoder, proposer, matcher, steps
        self.device = device
        self.classes: tuple[str, ...] = ()
        self.bank: MemoryBank | None = None
        if note := weights_note({"encoder": encoder.provenance(), "proposer": proposer.provenance()}):
            log.warning(note)

    def remember(
        self,
        references: str | Path | Mapping[str, Sequence[tuple[Picture, Any]]],
        reference_images: str | Path | None = None,
    ) -> Model:
        """Learn the classes from references; what was remembered before is forgotten. Gives the model itself.

        references: a folder `refs/<class>/` of images with an alpha channel or a `<stem>_mask.png`; a COCO JSON, whose
        images lie in `reference_images` or beside it, and whose boxes without masks get one from the proposer; or
        `{class: [(image, mask), ...]}`, a mask being a file, a PIL image or an array [H, W], 0 but on the thing.
        """
        data, per_class = choose_references(self._read(references, reference_images), AllSampler(), Shots(1), seed=0)
        masked: dict[ImageId, Reference] = {}
        for of_image in without_mask(reference for of_class in per_class for reference in of_class).values():
            for reference in of_image:
                check_box(reference, data.references)
            masked |= {reference.id: reference for reference in complete(data.references, of_image, self.proposer)}

        def prototype(reference: Reference) -> torch.Tensor:
            whole = masked.get(reference.id, reference)
            return view_reference(data.references, whole, self.encoder, self.device).prototype

        self.bank = build_bank(torch.stack([prototype(reference) for reference in of_class]) for of_class in per_class)
        self.classes = data.classes
        return self

    def predict(self, image: Picture, image_id: ImageId | None = None) -> Detections:
        """What is found in an image, best first. image_id: how results call it; None: its file name, or 0."""
        if self.bank is None:
            raise RefexpError("no references yet: model.remember('refs/') first.")
        if image_id is None:
            image_id = Path(image).name if isinstance(image, (str, Path)) else 0
        rgb = to_rgb(image)
        target = Target(image_id, rgb, to_square(rgb, self.proposer.image_size))
        (proposals,) = extract([target], self.encoder, self.proposer, self.device)
        found = detect(image_id, proposals, self.bank, self.matcher, self.steps.values())
        return replace(found, classes=self.classes)

    def _read(self, references: Any, reference_images: str | Path | None) -> Data:
        if isinstance(references, Mapping):
            classes, split = given_in_memory(references)
        else:
            path, folder = Path(references), Path(reference_images) if reference_images else None
            if not path.exists():
                raise RefexpError(f"references: no such file or folder: {path}")
            classes, split = read_given(path, folder)
        return Data(classes, split, split)


def given_in_memory(references: Mapping[str, Sequence[tuple[Picture, Any]]]) -> tuple[tuple[str, ...], Split]:
    """`{class: [(image, mask), ...]}` as class names and a split. Raises RefexpError that names the reference."""
    pictures: dict[str, np.ndarray] = {}
    found = []
    for name, pairs in references.items():
        if not len(pairs):
            log.warning("no references of %s, which is left out", name)
        for position, pair in enumerate(pairs):
            where = f"{name}[{position}]"
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise RefexpError(f"reference {where} must be a pair (image, mask), not {type(pair).__name__}.")
            image, mask = pair
            pictures[where], array = to_rgb(image), as_mask(mask)
            if array.shape != pictures[where].shape[:2] or not array.any():
                raise RefexpError(
                    f"reference {where}: the mask is {list(array.shape)} with {int(array.sum())} pixels on the thing; "
                    f"it must be as large as the image, {list(pictures[where].shape[:2])}, and not empty."
                )
            found.append((name, where, array))
    content = to_content(found)
    classes = tuple(category["name"] for category in content["categories"])
    split = make_split(
        content, "references", classes, lambda record: pictures[record["id"]], lambda record: record["id"]
    )
    return classes, split


def to_rgb(image: Picture) -> np.ndarray:
    """A picture as u8 [H, W, 3], upright. Raises RefexpError for a file that is no image and for other arrays."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not image.size or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise RefexpError(
                f"an image array must be u8 [H, W, 3] in RGB order, not {image.dtype} {list(image.shape)}."
            )
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if isinstance(image, Image.Image):
        try:
            return as_rgb(ImageOps.exif_transpose(image), Path("this image"))
        except (OSError, SyntaxError, ValueError) as error:
            raise RefexpError(f"cannot read this image: {error}") from None
    return as_rgb(open_upright(Path(image)), Path(image))


def as_mask(mask: Any) -> np.ndarray:
    """A mask file, PIL image or array [H, W] as bool [H, W]: where it is not 0."""
    if isinstance(mask, (str, Path)):
        mask = open_upright(Path(mask))
    return to_mask(mask) if isinstance(mask, Image.Image) else np.asarray(mask) != 0
