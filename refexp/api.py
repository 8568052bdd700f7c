"""The Python API: a model that learns classes from references and detects them in images. It writes no files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from refexp.config.building import build
from refexp.config.components import Input, build_networks, build_part, build_steps
from refexp.config.composing import compose_config, resolve
from refexp.data.coco import Data, Split, make_split
from refexp.data.folder import read_given, to_content
from refexp.data.sampling import AllSampler, Shots, choose_references
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError, shown
from refexp.inputs.images import as_rgb, made_upright, open_upright, to_square
from refexp.inputs.mask_files import as_mask
from refexp.inputs.records import class_name
from refexp.inputs.refusals import limit_pixels
from refexp.machine.networks import load_network
from refexp.machine.provenance import weights_note
from refexp.machine.runtime import Runtime
from refexp.method.box_masks import complete, without_mask
from refexp.method.memory import learn
from refexp.method.pipeline import Matcher, Step, detect, extract, needs, with_tokens
from refexp.proposers.base import Proposer
from refexp.types import Detections, ImageId, MemoryBank, Reference, Target

log = logging.getLogger(__name__)

Picture = str | Path | Image.Image | np.ndarray
"""An image file, a PIL image, or an array: u8 [H, W, 3] in RGB order, or u8 [H, W] (gray)."""


def load(*overrides: str) -> Model:
    """Build a model and load its networks; see `refexp.load`."""
    settings = resolve(compose_config(overrides))
    limit_pixels(build(settings.get("input") or {}, "input", Input).max_pixels)
    device = build(settings.get("runtime"), "runtime", Runtime).prepare()
    proposer, encoder = build_networks(settings)
    model = Model(
        encoder=encoder,
        proposer=proposer,
        matcher=build_part(settings, "matcher"),
        steps=build_steps(settings),
        device=device,
    )
    load_network(model.encoder, device)
    load_network(model.proposer, device)
    return model


class Model:
    """Loaded networks, and the classes learned from references. `refexp.load` makes a model.

    encoder, proposer, matcher, steps, device: the components and the device of the networks.
    classes: the names of the K learned classes; empty before `remember`.
    bank: the memory bank of the references (METHOD 1.5); None before `remember`.

    Example:
        >>> import numpy as np, refexp
        >>> image = np.full((240, 320, 3), 120, dtype=np.uint8)
        >>> image[60:180, 100:220] = (220, 40, 40)               # draw a red square
        >>> mask = (image == (220, 40, 40)).all(axis=2)
        >>> model = refexp.load().remember({"square": [(image, mask)]})
        >>> detections = model.predict(np.fliplr(image))
        >>> detections.classes[detections.labels[0]]
        'square'
    """

    def __init__(
        self, encoder: Encoder, proposer: Proposer, matcher: Matcher, steps: Mapping[str, Step], device: torch.device
    ) -> None:
        if proposer.sees_truth:
            raise RefexpError(
                f"{type(proposer).__name__} needs annotated targets, and refexp.load has none; choose another proposer."
            )
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
        """Learn classes from references. Classes learned before are forgotten.

        Args:
            references: one of
                - a folder `refs/<class>/` of images with an alpha channel or a `<stem>_mask.png`;
                - a folder with COCO, Pascal VOC, YOLO or LabelMe annotations;
                - a COCO JSON. If its annotations have only boxes, the proposer makes the masks;
                - `{class: [(image, mask), ...]}`. An image is a file, a PIL image or an array, see `Picture`. A mask is
                  a file, a PIL image or an array [H, W] with non-zero values on the object.
            reference_images: folder of the images of a COCO JSON. None searches beside the JSON.

        Returns:
            The model itself.

        Raises:
            RefexpError: a file is missing or invalid, a mask is empty or does not have the size of its image, or there
                are no references. The message contains the file or reference.

        Example:
            >>> import numpy as np, refexp
            >>> image = np.zeros((240, 320, 3), dtype=np.uint8)
            >>> image[60:180, 100:220] = 255
            >>> model = refexp.load()
            >>> model.remember({"square": [(image, image[..., 0])]}).classes
            ('square',)
        """
        data, per_class = choose_references(self._read(references, reference_images), AllSampler(), Shots(1), seed=0)
        masked: dict[ImageId, Reference] = {}
        for of_image in without_mask(reference for of_class in per_class for reference in of_class).values():
            masked |= {reference.id: reference for reference in complete(data.references, of_image, self.proposer)}

        known = [[masked.get(reference.id, reference) for reference in of_class] for of_class in per_class]
        with_patches = needs(self.matcher, "patches")
        self.bank = learn(data.references, known, self.encoder, self.device, with_patches, data.classes)
        self.classes = data.classes
        return self

    def predict(self, image: Picture, image_id: ImageId | None = None) -> Detections:
        """Detect the learned classes in an image.

        Args:
            image: a file, a PIL image or an array, see `Picture`.
            image_id: id of the image in the result. None takes the file name, or 0 without a file.

        Returns:
            The detections, sorted by score. There are many, also with low scores: filter them with `Detections.above`.

        Raises:
            RefexpError: `remember` was not called, or the image cannot be read.

        Example:
            >>> import numpy as np, refexp
            >>> image = np.zeros((240, 320, 3), dtype=np.uint8)
            >>> image[60:180, 100:220] = 255
            >>> model = refexp.load().remember({"square": [(image, image[..., 0])]})
            >>> model.predict(image, image_id="white.png").above(0.9).image_id
            'white.png'
        """
        if self.bank is None:
            raise RefexpError("no references yet: call model.remember('refs/') first.")
        if image_id is None:
            image_id = Path(image).name if isinstance(image, (str, Path)) else 0
        rgb = to_rgb(image)
        target = Target(image_id, rgb, to_square(rgb, self.proposer.image_size))
        (proposals,) = extract([target], self.encoder, self.proposer, self.device)
        if needs(self.matcher, "tokens"):
            proposals = with_tokens(proposals, target, self.encoder, self.device)
        found = detect(image_id, proposals, self.bank, self.matcher, self.steps.values())
        return replace(found, classes=self.classes)

    def _read(self, references: Any, reference_images: str | Path | None) -> Data:
        """Read references of any supported kind. They serve as both splits, because there are no targets."""
        if isinstance(references, Mapping):
            classes, split = given_in_memory(references)
        elif not isinstance(references, (str, os.PathLike)):
            raise RefexpError(
                f"references must be a file, a folder or {{class: [(image, mask), ...]}}, "
                f"not {type(references).__name__}."
            )
        else:
            path, folder = Path(references), Path(reference_images) if reference_images else None
            if not path.exists():
                raise RefexpError(f"references: no such file or folder: {path}")
            classes, split = read_given(path, folder)
        return Data(classes, split, split)


def given_in_memory(references: Mapping[str, Sequence[tuple[Picture, Any]]]) -> tuple[tuple[str, ...], Split]:
    """Convert `{class: [(image, mask), ...]}` to class names and a split. Raises RefexpError with the reference."""
    pictures: dict[str, np.ndarray] = {}
    found = []
    seen: set[str] = set()
    for key, pairs in references.items():
        name = class_name(key)
        if name is None:
            raise RefexpError(f"references: the name of a class must be a text, not {shown(repr(key))}.")
        if name in seen:
            raise RefexpError(f"references: two classes have the name {shown(name)}; join their references.")
        seen.add(name)
        if not isinstance(pairs, Iterable) or isinstance(pairs, str):
            raise RefexpError(f"references of {name} must be a list of pairs, not {type(pairs).__name__}.")
        listed = list(pairs)
        if not listed:
            log.warning("class %s is left out: it has no references", name)
        for position, pair in enumerate(listed):
            where = f"{name}[{position}]"
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise RefexpError(f"reference {where} must be a pair (image, mask), not {type(pair).__name__}.")
            image, mask = pair
            pictures[where], array = to_rgb(image), as_mask(mask, f"the mask of reference {where}")
            if array.shape != pictures[where].shape[:2] or not array.any():
                raise RefexpError(
                    f"reference {where}: the mask has size {list(array.shape)} and {int(array.sum())} pixels on the "
                    f"object; it must have the image's size {list(pictures[where].shape[:2])} and must not be empty."
                )
            found.append((name, where, array))
    content = to_content(found)  # `where` serves as image id, so that messages name the reference
    classes = tuple(category["name"] for category in content["categories"])
    split = make_split(
        content, "references", classes, lambda record: pictures[record["id"]], lambda record: record["id"]
    )
    return classes, split


def to_rgb(image: Picture) -> np.ndarray:
    """Convert a picture to u8 [H, W, 3], with its EXIF rotation applied. Other depths are scaled to 8 bits.

    Raises RefexpError for a file that is not an image, and for an array of another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        image = np.asarray(image)  # without the rules of subclasses such as np.matrix
        if image.dtype != np.uint8 or not image.size or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise RefexpError(
                f"an image array must be u8 [H, W, 3] in RGB order, not {image.dtype} {list(image.shape)}."
            )
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if isinstance(image, Image.Image):
        return as_rgb(made_upright(image, "this image"), "this image")
    if not isinstance(image, (str, os.PathLike)):
        raise RefexpError(f"an image must be a file, a PIL image or a NumPy array, not {type(image).__name__}.")
    return as_rgb(open_upright(Path(image)), image)
