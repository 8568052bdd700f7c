"""report.html of a comparison: its numbers, and a gallery with the ground truth and the detections of both runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refexp import __version__
from refexp.data.coco import Data
from refexp.errors import RefexpError, reason
from refexp.evaluation.tide import HIT, IGNORED
from refexp.files import write_text
from refexp.show.harmless import harmless
from refexp.show.instances import annotated, detected
from refexp.show.page.drawing import page_picture
from refexp.show.page.mistakes import COLORS, NAMES, VERDICTS, ImageErrors, judge_all
from refexp.show.page.pictures import card, css, layers_of, save, write_part
from refexp.show.page.report import NAME, PLURALS, about, templates
from refexp.show.words import headline, percent, short

if TYPE_CHECKING:
    from refexp.show.compare import Comparison
    from refexp.types import ImageId

FILES = "classes.csv", "images.csv"
RUN_COLORS = "#e0752d", "#1f8fd6"
CHANGES = {"found by both": "#9aa1a8", "won": "#2bb673", "lost": "#f0383b", "found by none": "#6b5a4d"}
"""The verdicts on an instance, after those on detections, and their colors."""


def write_comparison(comparison: Comparison, out: Path, limit: int) -> Path:
    """Write report.html and its pictures into `out`. Returns the path of the page.

    limit: number of images to show, half of them those that lost most, half those that won most. If the data set or its
    images are gone, the page has only numbers and says so.
    """
    record, other = (run.record for run in comparison.runs)
    images, missing = [], None
    try:
        images = write_images(comparison, out / "report", limit) if limit else []
    except (RefexpError, OSError) as error:
        missing = reason(error)
    judgements = [{"name": NAMES[verdict], "color": color, "change": False} for verdict, color in COLORS.items()]
    judgements += [{"name": name, "color": color, "change": True} for name, color in CHANGES.items()]
    layers = [f"{letter}: {name}" for letter, name in zip("AB", comparison.names, strict=True)]
    folders = [str(run.path) for run in comparison.runs]
    page = {
        **about(out, FILES, ["refexp", "compare", *folders]),
        "title": " against ".join(comparison.names),
        "kinds": [],
        "facts": [short(record.targets), *(fact for fact in headline(record) if fact in headline(other))],
        "pages": [(name, os.path.relpath(f"{path}/{NAME}", out)) for name, path in zip(layers, folders, strict=True)],
        "result": str(comparison),
        "notes": list(dict.fromkeys(run.record.note for run in comparison.runs if run.record.note)),
        "plural": PLURALS[comparison.kind],
        "lowest": [f"{score:.2f}" for score in comparison.lowest],
        "classes": comparison.classes.to_dict("records"),
        "images": images,
        "missing": missing,
        "more": 0,
        "truth": True,
        "layers": layers,
        "sorts": {"low": "most lost first", "high": "most won first"},
        "numbered": {},
        "version": __version__,
        "data": {
            "classes": record.classes,
            "colors": [css(label) for label in range(len(record.classes))],
            "judgements": judgements,
            "threshold": 0,
            "runs": RUN_COLORS,
            "total": record.images,
            "curves": {},
            "scores": {},
            "charts": {},
        },
    }
    write_text(out / NAME, templates().get_template("compare.html").render(page))
    return out / NAME


def write_images(comparison: Comparison, folder: Path, limit: int) -> list[dict[str, Any]]:
    """Write pictures and layers of the images that changed most. Returns a record for each card of the gallery."""
    data, table = comparison.runs[0].data, comparison.images
    changed = table[(table["difference"].fillna(0) != 0) | (table["won"] > 0) | (table["lost"] > 0)]
    if len(changed) > limit:
        changed = changed.iloc[[*range((limit + 1) // 2), *range(len(changed) - limit // 2, len(changed))]]
    ids = list(data.targets.images)
    chosen = [ids[place] for place in changed["place"]]
    judged = [judge(comparison, number, data, set(chosen)) for number in (0, 1)]
    images: list[dict[str, Any]] = []
    for image_id, row in zip(chosen, changed.to_dict("records"), strict=True):
        record = data.targets.images[image_id]
        with harmless(f"{record['file_name']} on the page"):
            rgb = data.targets.read(record)
            layers = both_layers(data, image_id, rgb.shape[:2], [of_run[image_id] for of_run in judged])
            write_part(folder, f"layers/{len(images)}", layers)
            picture = save(page_picture(rgb), folder / "images" / f"{len(images)}.jpg")
            text = f"nAP {percent(row['nAP_A'])} to {percent(row['nAP_B'])}"
            shown = {"rank": row["difference"], "text": text, "found": layers["total"], "numbers": row}
            images.append(card(image_id, record["file_name"], picture, layers) | shown)
    return images


def judge(comparison: Comparison, number: int, data: Data, chosen: set[ImageId]) -> dict[ImageId, ImageErrors]:
    """Judge the detections of one of the two runs in these images, those with at least the score of its best F1."""
    lowest = comparison.lowest[number]
    found = [one.above(lowest) for one in comparison.runs[number].detections if one.image_id in chosen]
    return judge_all(data, found, comparison.kind)  # type: ignore[arg-type]


def both_layers(data: Data, image_id: ImageId, size: tuple[int, int], judged: list[ImageErrors]) -> dict[str, Any]:
    """The layers of both runs, as `layers_of` makes them. r: the run of a detection. j of an instance: see CHANGES."""
    truth = annotated(data.targets, image_id)
    both = [layers_of(truth, detected(errors.found), *size, errors) for errors in judged]
    for item, *verdicts in zip(both[0]["truth"], *(errors.of_truth for errors in judged), strict=True):
        if verdicts[0] != IGNORED:
            hits = tuple(verdict == HIT for verdict in verdicts)
            item["j"] = len(VERDICTS) + [(True, True), (False, True), (True, False), (False, False)].index(hits)
    found = [item | {"r": run} for run, layers in enumerate(both) for item in layers["found"]]
    return {"total": sum(layers["total"] for layers in both), "truth": both[0]["truth"], "found": found}
