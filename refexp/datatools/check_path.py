"""`refexp data check PATH`: what a run would repair, leave out or refuse in your data, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from refexp.data.coco import Split, has_mask, make_split, read_coco
from refexp.data.custom import access
from refexp.data.folder import image_files, image_places, photographs, read_content, without_root
from refexp.data.readable import LISTED, unreadable
from refexp.errors import RefexpError
from refexp.files import write_json
from refexp.inputs.frames import fits
from refexp.inputs.geometry import Shape, shape_of
from refexp.inputs.names import locate, tell_spelling
from refexp.inputs.records import Record
from refexp.inputs.repairs import collecting, line
from refexp.masks import to_json
from refexp.types import ImageId


def check_path(path: Path, images: Path | None, fix: Path | None) -> bool:
    """Print the repairs that a run would make. Returns whether a run could read everything.

    path: a COCO file, a folder of references or a folder of photographs. images: the folder of a COCO file's images;
    None searches beside it. fix: write the repaired COCO file here. Raises RefexpError for data that cannot be used.
    """
    with collecting() as repairs:
        content, split, what = read_any(path, images)
        bad = unreadable(split, list(split.images.values()), lambda record: True, "images")
    click.echo(f"{path}: {what}")
    for kind, (count, example) in repairs.found.items():
        click.echo(f"    {line(kind, count, example)}")
    absent = all(why.startswith("image not found") for why in bad.values())
    if absent and 1 < len(bad) == len(split.images):
        first = next(iter(bad.values()))
        click.echo(f"    none of its {len(bad)} images was found, first: {first}; give their folder: --images DIR")
        return False
    for id_, why in list(bad.items())[:LISTED]:
        click.echo(f"    cannot be read: {split.images[id_]['file_name']}: {why}")
    if len(bad) > LISTED:
        click.echo(f"    and {len(bad) - LISTED} more that cannot be read")
    if not repairs.examples and not bad:
        click.echo("    nothing to repair")
    if fix:
        write_fixed(content, split, set(bad), fix)
    return not bad


def read_any(path: Path, images: Path | None) -> tuple[dict[str, Any], Split, str]:
    """Read data in any form. Returns COCO content, a split of all its images, and in one line what it is."""
    if path.is_dir():
        try:
            path, content = read_content(path)
        except RefexpError as error:
            split = photographs(path, image_files(path), {})
            return {}, split, f"{len(split.images)} photographs. As references: {error}"
    else:
        content = read_coco(path, *without_root(path, image_places(path, images)))
    folder = path if path.is_dir() else most_likely(content, image_places(path, images))
    settle_names(content, folder, path)
    names = [category["name"] for category in content["categories"]]
    split = make_split(content, str(path), names, *access(folder))
    counts = (f"{len(content[part])} {part}" for part in ("images", "annotations", "categories"))
    boxes = sum(not has_mask(annotation) for annotation in split.annotations)
    return content, split, ", ".join(counts) + (f"; annotations with only a box: {boxes}" if boxes else "")


def most_likely(content: dict[str, Any], places: Sequence[Path]) -> Path:
    """Return the folder that holds the first images, and else the first folder: its missing images are then listed."""
    names = [image["file_name"] for image in content["images"][:20]]
    as_written = {folder: sum((folder / name).is_file() for name in names) for folder in places}
    found = {folder: sum(locate(folder, name) is not None for name in names) for folder in places}
    return max(places, key=lambda folder: (as_written[folder], found[folder]))


def settle_names(content: dict[str, Any], folder: Path, path: Path) -> None:
    """Write the names of the files that are there into the records of images that have another spelling."""
    for image in content["images"]:
        if found := locate(folder, image["file_name"]):
            tell_spelling(image["file_name"], found, folder, str(path))
            image["file_name"] = found.relative_to(folder).as_posix()


def write_fixed(content: dict[str, Any], split: Split, bad: set[ImageId], out: Path) -> None:
    """Write the repaired annotations, without the images that cannot be read, as a COCO file."""
    if not content:
        raise RefexpError("--fix needs annotations; this folder has only photographs.")
    images = [image for image in content["images"] if image["id"] not in bad]
    if not images:
        raise RefexpError(f"--fix: none of the images can be read, so {out} would be empty; set --images.")
    kept = {image["id"] for image in images}
    annotations = [clipped(a, split) for a in split.annotations if a["image_id"] in kept]
    write_json(out, content | {"images": images, "annotations": annotations})
    click.echo(f"{out}: {len(images)} images, {len(annotations)} annotations")


def clipped(annotation: Record, split: Split) -> Record:
    """Return an annotation whose polygons end at the image's border: as an RLE, if they leave it."""
    image, shape = split.images[annotation["image_id"]], shape_of(annotation.get("segmentation"))
    if not isinstance(shape, Shape) or fits(shape, (image["height"], image["width"])):
        return annotation
    return annotation | {"segmentation": to_json(split.mask(annotation))}
