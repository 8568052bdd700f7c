"""Your own data set: a folder of images and two COCO files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refexp.data.coco import Data, Record, Split, choose_classes, make_split, read_coco
from refexp.errors import MissingData
from refexp.files import sha256
from refexp.inputs.frames import FileSize
from refexp.inputs.images import file_sizes, read_rgb
from refexp.inputs.names import OF_REFERENCE, check_files, images_elsewhere, locate, tell_spelling
from refexp.inputs.repairs import repaired


class CustomDataset:
    """Images in a folder, with one COCO JSON for the references and one for the targets.

    images: folder of the target images. It also holds the reference images, unless `reference_images` is set.
    classes: names to keep, in this order. None keeps every category that both files have.
    """

    def __init__(
        self,
        images: str,
        references: str,
        targets: str,
        reference_images: str | None = None,
        classes: list[str] | None = None,
    ) -> None:
        self.images = existing_folder(images, "dataset.images")
        self.reference_images = existing_folder(reference_images or images, "dataset.reference_images")
        self.references, self.targets = Path(references), Path(targets)
        self.classes = classes

    def load(self) -> Data:
        """Read both files. Raises RefexpError with the file or config key at fault."""
        references = read_coco(self.references, self.reference_images)
        targets = read_coco(self.targets, self.images)
        classes, left_out = choose_classes(references, targets, self.classes)
        if left_out:
            repaired("class left out, because only one annotation file has it", ", ".join(left_out), len(left_out))
        return Data(tuple(classes), *self.splits(references, targets, classes))

    def splits(
        self, references: dict[str, Any], targets: dict[str, Any], classes: Sequence[str]
    ) -> tuple[Split, Split]:
        """Make the two splits of these classes. Raises MissingData if target images are missing."""
        reference_split = make_split(references, str(self.references), classes, *access(self.reference_images))
        reference_split = replace(reference_split, tell_name=self.tell_name)
        target_split = make_split(targets, str(self.targets), classes, *access(self.images))
        check_files([record["file_name"] for record in target_split.images.values()], self.images, str(self.targets))
        return reference_split, target_split

    def tell_name(self, record: Record) -> None:
        """Note a reference's image that is found under another spelling of its name."""
        name = record["file_name"]
        if found := locate(self.reference_images, name):
            tell_spelling(name, found, self.reference_images, str(self.references), OF_REFERENCE)


def existing_folder(path: str, key: str) -> Path:
    """Return the folder. Raises MissingData with the config key if it does not exist and must."""
    if not Path(path).is_dir() and not images_elsewhere.get():
        raise MissingData(f"{key}: no such folder: {path}")
    return Path(path)


class Access(NamedTuple):
    """Functions of an image record: read the image, hash its content, read its file's size, and `Split.read_hashed`."""

    read: Callable[[Record], np.ndarray]
    fingerprint: Callable[[Record], str]
    size: Callable[[Record], FileSize | None]
    read_hashed: Callable[[Record], tuple[np.ndarray, str]]


def access(folder: Path) -> Access:
    """Return the functions of an image record in `folder`."""
    look = file_sizes(folder)

    def path(record: Record) -> Path:
        return locate(folder, record["file_name"]) or folder / record["file_name"]

    def read(record: Record) -> np.ndarray:
        return read_rgb(path(record), record["height"], record["width"])

    def read_hashed(record: Record) -> tuple[np.ndarray, str]:
        file = path(record)
        try:
            content = file.read_bytes()
        except (OSError, ValueError):
            return read(record), fingerprint(record)  # `read` says what is wrong with the file
        return read_rgb(file, record["height"], record["width"], content), hashlib.sha256(content).hexdigest()

    def fingerprint(record: Record) -> str:
        try:
            return sha256(path(record))
        except OSError as error:
            raise MissingData(f"image not found: {path(record)} ({error.strerror})") from None

    return Access(read, fingerprint, lambda record: look(record["file_name"]), read_hashed)
