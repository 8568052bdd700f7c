"""COCO results files: a JSON list of boxes or masks with scores, as detectors write them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from refexp.errors import MissingData, RefexpError, shown
from refexp.inputs.geometry import box_of
from refexp.inputs.records import Door, Id, Record, identifier, meaning
from refexp.inputs.repairs import summed_up
from refexp.inputs.texts import read_json
from refexp.inputs.values import number

log = logging.getLogger(__name__)


class Results:
    """The records of a results file by image, best score first. Ties keep the order of the file.

    Each record has `id` (its position in the file), `score` in [0, 1], and `bbox` or `segmentation`.
    Classes are ignored.
    """

    def __init__(self, path: Path, field: Literal["bbox", "segmentation"]) -> None:
        """Read a file. field: what each record must have. Records without it are left out and counted.

        Raises MissingData if the file does not exist. Raises RefexpError if it is not a results file, if a score is
        outside [0, 1], or if more than half of its records cannot be used.
        """
        self.path = path
        door = Door(str(path))
        content = read_json(path, "results file")
        if not isinstance(content, list):
            door.fail("is not a COCO results file; expected a list of records with image_id, score and bbox or mask.")
        self.by_image: dict[Id, list[Record]] = defaultdict(list)
        with summed_up():
            for position, record in enumerate(content):
                self._add(door, position, record, field)
            door.check_rest(len(content))
        for records in self.by_image.values():
            records.sort(key=lambda record: -record["score"])
        self.told = False

    def check(self, image_ids: Collection[Id]) -> None:
        """Warn once with the number of these images that have no records.

        Raises RefexpError if no image has any.
        """
        lacking = [image_id for image_id in image_ids if self._key(image_id) is None]
        if not lacking:
            return
        if len(lacking) == len(image_ids):
            like = f"its image ids are like {shown(next(iter(self.by_image)))}" if self.by_image else "it is empty"
            raise RefexpError(
                f"{self.path} has no record of any target; {like}, the targets' like {shown(lacking[0])}."
            )
        log.warning(
            "%s has no records of %d of %d images, first image %s; they get no proposals",
            self.path, len(lacking), len(image_ids), shown(lacking[0]),
        )  # fmt: skip
        self.told = True

    def _key(self, image_id: Id) -> Id | None:
        return meaning(_plain(image_id), self.by_image)

    def _add(self, door: Door, position: int, record: Any, field: str) -> None:
        if not isinstance(record, dict):
            door.leave_out("is not a JSON object", record)
            return
        image_id, score = identifier(_plain(record.get("image_id"))), number(record.get("score"))
        value = record.get(field)
        numbered = {**record, "id": position}
        if image_id is None:
            door.leave_out("has no image_id", numbered)
        elif score is None:
            door.leave_out("has no score", numbered)
        elif not 0 <= score <= 1:
            door.fail(f"record {position} has the score {score:g}; expected scores in [0, 1].")
        elif field == "bbox" and (value := has_area(value)) is None:
            door.leave_out("has no bbox with an area", numbered)
        elif not value:
            door.leave_out("has no segmentation", numbered)
        else:
            self.by_image[image_id].append({"id": position, "score": score, field: value})

    def best(self, image_id: Id, k: int | None) -> list[Record]:
        """Return the `k` records of an image with the highest scores (None: all), best first.

        Ids 7 and "7" mean the same image if the file has only one of them; "./a.jpg" and "a.jpg" always do. Warns once
        if an image has no records, unless `check` did.
        """
        key = self._key(image_id)
        if key is None:
            if not self.told:
                log.warning("%s has no records of image %s; such images get no proposals", self.path, shown(image_id))
            self.told = True
            return []
        return self.by_image[key][:k]


def _plain(image_id: Any) -> Any:
    """Return an image id without the `./` before a path."""
    return image_id.removeprefix("./") if isinstance(image_id, str) else image_id


def has_area(value: Any) -> list[float] | None:
    """Return a box `x y w h` of four numbers whose sides are positive. None for anything else."""
    box = box_of(value)
    return box if box and min(box[2:]) > 0 else None


def existing_file(path: str) -> Path:
    """Return the file. Raises MissingData if it does not exist."""
    if not Path(path).is_file():
        raise MissingData(f"proposer.file: no such file: {path}")
    return Path(path)
