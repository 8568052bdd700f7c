"""The image files of the report page: pictures, their masks as layers, crops and references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from refexp.files import write_json, write_picture, write_text
from refexp.folders.run_folder import RunFolder
from refexp.machine.progress import track
from refexp.masks import boxes_xywh, to_json
from refexp.show.gallery import MAX_CLASSES, MAX_SHOTS
from refexp.show.harmless import harmless
from refexp.show.instances import Instance, annotated, detected
from refexp.show.overlays import color
from refexp.show.page.drawing import box_path, crop, mask_path, page_picture, page_scales
from refexp.show.page.mistakes import VERDICTS, ImageErrors
from refexp.types import ImageId

LAYERS = 50
"""The page holds this many detections per image, those with the highest scores. detections.json has all of them."""
TARGETS = "targets.json"
"""Lists the page's pictures and their instances for other readers of the folder, such as W&B. See `write_images`."""


@dataclass
class Pictures:
    """Records for the template: the images, the crops (misses, then false positives), and each class's references."""

    images: list[dict[str, Any]] = field(default_factory=list)
    crops: list[list[dict[str, Any]]] = field(default_factory=lambda: [[], []])
    references: list[dict[str, Any]] = field(default_factory=list)


def write_part(folder: Path, name: str, content: Any) -> None:
    """Write data that the page loads on demand. It is a script, because a page opened from disk cannot fetch JSON."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    write_text(folder / f"{name}.js", f"refexpPart({json.dumps(name)},{text});\n")


def save(picture: Image.Image, path: Path) -> dict[str, Any]:
    """Write a JPEG. Returns its file name and size for the template."""
    write_picture(path, picture, quality=85, optimize=True)
    return {"file": path.name, "width": picture.width, "height": picture.height}


def write_images(
    run: RunFolder,
    folder: Path,
    ids: Sequence[ImageId],
    errors: dict[ImageId, ImageErrors],
    cut_out: Sequence[Sequence[Instance]],
    score_threshold: float,
) -> Pictures:
    """Write the pictures, their layers, and the crops of the instances in `cut_out`. Reads each image once.

    Also writes targets.json. For each picture it has the file, the image id, the image size, and the instances with
    label, box, mask and score (null for annotations). It has no detection below the threshold.
    """
    targets = run.data.targets
    found_in = {found.image_id: found for found in run.detections}
    written = Pictures(crops=[[{}] * len(row) for row in cut_out])
    listed: list[dict[str, Any]] = []
    for image_id in track(ids, len(ids), "report"):
        record, found, truth = targets.images[image_id], detected(found_in[image_id]), annotated(targets, image_id)
        with harmless(f"{record['file_name']} on the page"):
            number = len(listed)
            rgb = targets.read(record)
            picture = save(page_picture(rgb), folder / "images" / f"{number}.jpg")
            layers = layers_of(truth, found, rgb.shape[0], rgb.shape[1], errors.get(image_id))
            write_part(folder, f"layers/{number}", layers)
            shown = [*truth, *(one for one in found if one.score and one.score >= score_threshold)]
            of_image = {"file": f"images/{number}.jpg", "image": image_id, "size": list(rgb.shape[:2])}
            listed.append(of_image | {"instances": listing(shown)})
            written.images.append({**card(image_id, record["file_name"], picture, layers), "found": len(found)})
            for row, items in enumerate(cut_out):
                for position, one in enumerate(items):
                    if one.image_id == image_id:
                        cut = save(crop(rgb, one), folder / "crops" / f"{row}-{position}.jpg")
                        key = f"{'t' if one.score is None else 'f'}{one.row}"
                        named = {"name": run.data.classes[one.label], "text": one.text, "image": number, "show": key}
                        written.crops[row][position] = cut | named
    written.crops = [[item for item in row if item] for row in written.crops]
    write_json(folder / TARGETS, listed)
    return written


def card(image_id: ImageId, name: str, picture: dict[str, Any], layers: dict[str, Any]) -> dict[str, Any]:
    """A picture of the gallery, and what it shows, so that the page can filter before it loads the layers.

    truth, shown: each class and verdict once, `c:j` and `c:j:s:r` with the best score and the run.
    """
    best: dict[tuple[Any, ...], float] = {}
    for layer in layers["found"]:  # highest score of a run first
        best.setdefault((layer["c"], layer.get("j", ""), layer.get("r", 0)), layer["s"])
    truth = sorted({(layer["c"], layer.get("j", "")) for layer in layers["truth"]})
    return picture | {
        "id": image_id,
        "name": name,
        "truth": " ".join(f"{c}:{j}" for c, j in truth),
        "shown": " ".join(f"{c}:{j}:{s}:{r}" for (c, j, r), s in best.items()),
    }


def listing(instances: Sequence[Instance]) -> list[dict[str, Any]]:
    """Instances in the format of targets.json."""
    return [
        {"label": one.label, "box": list(one.box), "mask": one.mask and to_json(one.mask), "score": one.score}
        for one in instances
    ]


def layers_of(
    truth: Sequence[Instance], found: Sequence[Instance], height: int, width: int, errors: ImageErrors | None
) -> dict[str, Any]:
    """An image's masks for the page, with short keys to keep files small: class c, score s, path d, verdict j."""
    scales = page_scales((height, width))
    layers: dict[str, Any] = {"total": len(found), "truth": [], "found": []}
    for one in truth:
        path = mask_path(one.mask) if one.mask else box_path(one.box, scales)
        verdict = {"j": VERDICTS.index(errors.of_truth[one.row])} if errors else {}
        layers["truth"].append({"c": one.label, "d": path} | verdict)
    for one in found[:LAYERS]:
        verdict = {"j": VERDICTS.index(errors.judgement.kinds[one.row])} if errors else {}
        assert one.mask is not None and one.score is not None
        layers["found"].append({"c": one.label, "s": round(one.score, 4), "d": mask_path(one.mask)} | verdict)
    return layers


def write_references(run: RunFolder, folder: Path) -> list[dict[str, Any]]:
    """Write crops of at most MAX_SHOTS references of each of the first MAX_CLASSES classes.

    Returns one record per class for the template.
    """
    split, classes = run.data.references, run.data.classes
    shown = [per_class[:MAX_SHOTS] for per_class in run.references[:MAX_CLASSES]]
    wanted: dict[ImageId, list[tuple[int, int]]] = {}
    for label, per_class in enumerate(shown):
        for position, reference in enumerate(per_class):
            wanted.setdefault(reference.image_id, []).append((label, position))
    crops: list[dict[int, dict[str, Any]]] = [{} for _ in shown]
    for image_id, places in wanted.items():
        name = split.images[image_id]["file_name"]
        with harmless(f"the reference in {name} on the page"):
            rgb = split.read(split.images[image_id])
            for label, position in places:
                mask = shown[label][position].known_mask
                one = Instance(image_id, position, label, boxes_xywh([mask])[0].tolist(), mask)
                picture = save(crop(rgb, one), folder / f"{label}-{position}.jpg")
                crops[label][position] = {**picture, "alt": f"{classes[label]} in {name}"}
    return [
        {"name": classes[label], "color": css(label), "crops": [of_class[position] for position in sorted(of_class)]}
        for label, of_class in enumerate(crops)
    ]


def css(label: int) -> str:
    """A class's color in CSS notation."""
    return "#{:02x}{:02x}{:02x}".format(*color(label))
