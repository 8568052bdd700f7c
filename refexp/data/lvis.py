"""LVIS: COCO-format annotations where each image is annotated for some classes only. Classes have a frequency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from refexp.data.coco import Data, Record, Split, choose_classes, read_coco
from refexp.data.custom import CustomDataset
from refexp.errors import RefexpError
from refexp.types import ImageId

Frequency = Literal["rare", "common", "frequent"]
FREQUENCIES: tuple[Frequency, ...] = get_args(Frequency)
"""Classes in at most 10, in 11 to 100 and in more training images. A category's `frequency` is the initial letter."""


@dataclass(frozen=True)
class LvisSplit(Split):
    """A split with the extra fields of the federated LVIS protocol.

    groups: category id -> frequency, for every category of the file.
    Image records have `neg_category_ids`, the classes known to be absent, and `not_exhaustive_category_ids`, the
    classes with instances that are not annotated.
    """

    groups: dict[int | str, Frequency] = field(default_factory=dict)

    def frequencies(self) -> dict[int, Frequency]:
        """Return class index -> frequency, in class order."""
        return {label: self.groups[id_] for id_, label in sorted(self.labels.items(), key=lambda item: item[1])}


class LvisDataset(CustomDataset):
    """LVIS v1 (arXiv 1908.03195): images in a folder, one LVIS JSON for the references and one for the targets.

    The first four arguments are those of `CustomDataset`.
    frequency: groups of classes to keep, by the field `frequency` in the targets' file. None keeps all groups.
    classes: names to keep in these groups, in this order. None keeps all classes that both files have.
    """

    def __init__(
        self,
        images: str,
        references: str,
        targets: str,
        reference_images: str | None = None,
        frequency: Annotated[list[Frequency], Field(min_length=1)] | None = None,
        classes: list[str] | None = None,
    ) -> None:
        super().__init__(images, references, targets, reference_images, classes)
        self.frequency = frequency or list(FREQUENCIES)

    def load(self) -> Data:
        """Read both files. Raises RefexpError with the file or config key at fault."""
        references = read_coco(self.references, self.reference_images)
        targets = read_coco(self.targets, self.images)
        groups = check_lvis(targets, str(self.targets))
        group = {category["name"]: groups[category["id"]] for category in targets["categories"]}
        known, _ = choose_classes(references, targets, self.classes)
        classes = [name for name in known if group[name] in self.frequency]
        if not classes:
            raise RefexpError(f"dataset.frequency={self.frequency}: no class of {self.targets} matches.")
        reference_split, target_split = self.splits(references, targets, classes)
        given = {one.name: getattr(target_split, one.name) for one in fields(target_split)}
        return Data(tuple(classes), reference_split, LvisSplit(**given, groups=groups))


def federated_images(targets: LvisSplit) -> dict[ImageId, Record]:
    """Return what is known of the classes in each image, by image id. Images are numbered from 1.

    Category ids are label + 1. Only known classes can be evaluated in an image.
    Fields: `neg_category_ids`, the classes known to be absent; `not_exhaustive_category_ids`, the classes with
    instances that are not annotated; `known`, the classes known to be absent or present.
    """
    category = {id_: label + 1 for id_, label in targets.labels.items()}
    images = {}
    for number, (image_id, record) in enumerate(targets.images.items(), start=1):
        fields = ("neg_category_ids", "not_exhaustive_category_ids")
        lists = {field: [category[id_] for id_ in record[field] if id_ in category] for field in fields}
        size = {side: record[side] for side in ("height", "width")}
        images[image_id] = {"id": number, **size, **lists, "known": set(lists["neg_category_ids"])}
    for annotation in targets.annotations:
        images[annotation["image_id"]]["known"].add(category[annotation["category_id"]])
    return images


def check_lvis(content: dict[str, Any], source: str) -> dict[int | str, Frequency]:
    """Return category id -> frequency. Raises RefexpError if the COCO dict `content` lacks one of LVIS's fields."""
    names = {name[0]: name for name in FREQUENCIES}
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        _require(content["images"], name, lambda value: isinstance(value, list), source)
    _require(content["categories"], "frequency", lambda value: value in names, source)
    return {category["id"]: names[category["frequency"]] for category in content["categories"]}


def _require(records: Sequence[Record], field: str, fits: Callable[[Any], bool], source: str) -> None:
    for record in records:
        if not fits(record.get(field)):
            raise RefexpError(
                f"{source}: id {record['id']!r} has {field}={record.get(field)!r}; dataset=lvis needs the original "
                "LVIS annotations. For other annotations use dataset=custom."
            )
