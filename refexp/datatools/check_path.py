"""`refexp data check PATH`: what a run would repair, leave out or refuse in your data, without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from refexp.data.coco import Split, make_split, read_coco
from refexp.data.custom import access, existing_folder
from refexp.data.folder import image_files, photographs, read_content, usual_places
from refexp.data.readable import unreadable
from refexp.errors import RefexpError
from refexp.files import write_json
from refexp.inputs.names import locate
from refexp.inputs.repairs import collecting, line


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
    for name, why in bad.items():
        click.echo(f"    cannot be read: {name}: {why}")
    if not repairs.examples and not bad:
        click.echo("    nothing to repair")
    if fix:
        write_fixed(content, split, set(bad), fix)
    return not bad


def read_any(path: Path, images: Path | None) -> tuple[dict[str, Any], Split, str]:
    """Read data in any form. Returns COCO content, a split of all its images, and in one line what it is."""
    folder: Path | None = images
    content: dict[str, Any] = {}
    if path.is_dir():
        try:
            path, content = read_content(path)
        except RefexpError as error:
            split = photographs(path, image_files(path), {})
            return {}, split, f"{len(split.images)} photographs. As references: {error}"
        folder = path if path.is_dir() else images
    elif images:
        existing_folder(str(images), "--images")
    folder = folder or near(path)
    content = content if path.is_dir() else read_coco(path, folder)
    names = [category["name"] for category in content["categories"]]
    split = make_split(content, str(path), names, *access(folder))
    counts = (f"{len(content[part])} {part}" for part in ("images", "annotations", "categories"))
    return content, split, ", ".join(counts)


def near(path: Path) -> Path:
    """Return the first usual folder of a COCO file's images that holds one of them. Else the file's own folder."""
    names = [image["file_name"] for image in read_coco(path)["images"][:20]]
    places = [folder for folder in usual_places(path) if folder.is_dir()]
    return next((folder for folder in places if any(locate(folder, name) for name in names)), path.parent)


def write_fixed(content: dict[str, Any], split: Split, bad: set[str], out: Path) -> None:
    """Write the repaired annotations, without the images that cannot be read, as a COCO file."""
    if not content:
        raise RefexpError("--fix needs annotations; this folder has only photographs.")
    images = [image for image in content["images"] if image["file_name"] not in bad]
    kept = {image["id"] for image in images}
    annotations = [a for a in split.annotations if a["image_id"] in kept]
    write_json(out, content | {"images": images, "annotations": annotations})
    click.echo(f"{out}: {len(images)} images, {len(annotations)} annotations")
