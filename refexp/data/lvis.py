"""LVIS: COCO-format annotations where every image is annotated for some classes only, and classes have a frequency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from refexp.data.coco import Data, Record, Split, choose_classes, read_coco
from refexp.data.custom import CustomDataset
from refexp.errors import RefexpError

Frequency = Literal["rare", "common", "frequent"]
FREQUENCIES: tuple[Frequency, ...] = get_args(Frequency)
"""Classes in at most 10, in 11 to 100 and in more training images; a category's field `frequency` holds the initial."""


@dataclass(frozen=True)
class LvisSplit(Split):
    """A split with what the federated protocol needs.

    groups: category id -> frequency, for every category of the file. Image records hold `neg_category_ids`, classes
    known to be absent, and `not_exhaustive_category_ids`, classes of which not every instance is annotated.
    """

    groups: dict[int | str, Frequency]

    def frequencies(self) -> dict[int, Frequency]:
        """Class index -> frequency, in class order."""
        return {label: self.groups[id_] for id_, label in sorted(self.labels.items(), key=lambda item: item[1])}


class LvisDataset(CustomDataset):
    """LVIS v1 (arXiv 1908.03195): images below a folder, LVIS JSON for references and for targets.

    The first four arguments are `CustomDataset`'s. frequency: groups of classes to keep, by the targets' own field
    `frequency`; None keeps all. classes: names to keep of those, in this order; None keeps all that both files know.
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
        """Read both files. Raises RefexpError that names the file or key at fault."""
        references, targets = read_coco(self.references), read_coco(self.targets)
        groups = check_lvis(targets, str(self.targets))
        group = {category["name"]: groups[category["id"]] for category in targets["categories"]}
        known, _ = choose_classes(references, targets, self.classes, "dataset.classes")
        classes = [name for name in known if group[name] in self.frequency]
        if not classes:
            raise RefexpError(f"dataset.frequency={self.frequency}: no class of {self.targets} is left.")
        reference_split, target_split = self.splits(references, targets, classes)
        given = {field.name: getattr(target_split, field.name) for field in fields(target_split)}
        return Data(tuple(classes), reference_split, LvisSplit(**given, groups=groups))


def check_lvis(content: dict[str, Any], source: str) -> dict[int | str, Frequency]:
    """Category id -> frequency. Raises RefexpError if the COCO dict `content` lacks one of LVIS's own fields."""
    names = {name[0]: name for name in FREQUENCIES}
    for field in ("neg_category_ids", "not_exhaustive_category_ids"):
        _require(content["images"], field, lambda value: isinstance(value, list), source)
    _require(content["categories"], "frequency", lambda value: value in names, source)
    return {category["id"]: names[category["frequency"]] for category in content["categories"]}


def _require(records: Sequence[Record], field: str, fits: Callable[[Any], bool], source: str) -> None:
    for record in records:
        if not fits(record.get(field)):
            raise RefexpError(
                f"{source}: id {record['id']!r} has {field}={record.get(field)!r}; LVIS's own annotations are needed "
                "(dataset=custom takes any others)."
            )
