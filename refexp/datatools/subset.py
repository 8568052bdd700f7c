"""Make a small data set from a large one: some images and some classes of a COCO file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refexp.data.coco import read_coco
from refexp.errors import RefexpError, did_you_mean
from refexp.files import atomic_path


def subset(path: Path, images: Sequence[str], classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the images with these ids, in the given order, and their annotations, in file order, as COCO content.

    classes: names to keep, in this order, even without instances. None keeps the classes that have instances.
    Raises RefexpError for an id or a class that the file lacks.
    """
    content = read_coco(path)
    by_id = {str(image["id"]): image for image in content["images"]}
    for id_ in images:
        if id_ not in by_id:
            raise RefexpError(
                f"{path}: none of its {len(by_id)} images has the id {id_}; an example of an id: {next(iter(by_id))}."
            )
    chosen = [by_id[id_] for id_ in dict.fromkeys(images)]
    ids = {image["id"] for image in chosen}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    categories = _categories(content, annotations, classes, path)
    kept = {category["id"] for category in categories}
    annotations = [a for a in annotations if a["category_id"] in kept]
    return content | {"images": chosen, "annotations": annotations, "categories": categories}


def _categories(
    content: dict[str, Any], annotations: list[dict[str, Any]], classes: Sequence[str] | None, path: Path
) -> list[dict[str, Any]]:
    if classes is None:
        occurring = {annotation["category_id"] for annotation in annotations}
        return [category for category in content["categories"] if category["id"] in occurring]
    by_name = {category["name"]: category for category in content["categories"]}
    for name in classes:
        if name not in by_name:
            raise RefexpError(f"{path}: unknown class '{name}'. {did_you_mean(name, by_name)}")
    return [by_name[name] for name in dict.fromkeys(classes)]


def copy_images(content: dict[str, Any], source: Path, target: Path) -> None:
    """Copy the images of COCO content from one folder to another. The file names stay the same.

    Raises RefexpError for a missing image and for a file name that leads out of the target folder.
    """
    for image in content["images"]:
        name = image["file_name"]
        if not (target / name).resolve().is_relative_to(target.resolve()):
            raise RefexpError(f"image {image['id']}: file_name {name} leads out of {target}; refexp does not copy it.")
        if not (source / name).is_file():
            raise RefexpError(f"image not found: {source / name}; check FROM, the first folder of --copy-images.")
        with atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)
