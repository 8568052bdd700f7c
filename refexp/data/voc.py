"""PASCAL VOC, converted by `refexp data voc2coco`: by the standard protocol, or as the paper's conversion has it."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from refexp.data.coco import Data, Record, Split
from refexp.data.custom import CustomDataset
from refexp.data.protocols import SHORT_TRUTH, Protocol, one_short


class VocDataset(CustomDataset):
    """VOC's images in a folder, with one converted file for the references and one for the targets.

    The other arguments are those of `CustomDataset`.
    protocol: "standard" takes boxes and order from the file. "published" gives the references the boxes and the order
    of the paper's conversion, so that a seed draws the same ones. There, w = xmax - xmin and h = ymax - ymin of the XML
    file, one pixel less than the box has, and the objects that VOC marks as difficult come last in each image.

    By either protocol, the targets are marked as one pixel short in the published ground truth, so that one run can
    evaluate both.
    """

    def __init__(
        self,
        images: str,
        references: str,
        targets: str,
        reference_images: str | None = None,
        classes: list[str] | None = None,
        protocol: Protocol = "standard",
    ) -> None:
        super().__init__(images, references, targets, reference_images, classes)
        self.protocol = protocol

    def load(self) -> Data:
        """Read both files. Raises RefexpError with the file or config key at fault."""
        data = super().load()
        for annotation in data.targets.annotations:
            annotation[SHORT_TRUTH] = True
        return replace(data, references=published_references(data.references)) if self.protocol == "published" else data


def published_references(references: Split) -> Split:
    """Give the annotations the published boxes and order. Ids stay, so that lists of references find them."""
    ordered = chain.from_iterable(sorted(of_image, key=_difficult) for of_image in references.by_image.values())
    return replace(references, annotations=[_shorten(annotation) for annotation in ordered])


def _difficult(annotation: Record) -> bool:
    return bool(annotation.get("difficult", 0))


def _shorten(annotation: Record) -> Record:
    x, y, w, h = one_short(annotation["bbox"])
    return annotation | {"bbox": [x, y, w, h], "area": w * h}
