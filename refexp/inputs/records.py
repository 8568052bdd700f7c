"""The records of a COCO file: ids, names and links, each settled once, so that nothing behind this door is malformed.

A value that can mean one thing only is that thing: 1.0 is 1, and "1" is 1 where only 1 exists. A record that nobody can
use is left out and counted. A file is refused if most of its annotations would be left out.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from refexp.errors import RefexpError, shown
from refexp.inputs.frames import Look, settle_geometry
from refexp.inputs.geometry import MOST_PIXELS
from refexp.inputs.repairs import repaired, summed_up
from refexp.inputs.values import is_true, whole

Record = dict[str, Any]
Id = int | str

PARTS = ("images", "annotations", "categories")
LARGEST_SIDE = 1 << 20
FLAGS = ("ignore", "difficult", "isimpossible")
"""Fields of annotations that are true or false, besides iscrowd."""


def check_coco(content: Any, source: str, look: Look | None = None) -> None:
    """Settle a COCO annotation set in place. Afterwards each record has what its `FIELDS` promise.

    look: reads the size of an image file, for images whose written size is missing or holds not all coordinates.
    Notes every repair. Raises RefexpError if `content` is not a COCO set, and for what has no single meaning.
    """
    if not isinstance(content, dict):
        raise RefexpError(f"{source}: is a JSON {_kind(content)}, not a COCO file with images and annotations.")
    for part in PARTS:
        if not isinstance(content.get(part), list):
            raise RefexpError(
                f"{source}: has no list '{part}'; a COCO file needs the lists images, annotations and categories."
            )
    if not content["images"]:
        raise RefexpError(f"{source}: contains no images.")
    door = Door(source)
    total = len(content["annotations"])
    with summed_up():
        images = door.images(content["images"], _used(content["annotations"], "image_id"))
        categories, merged = door.categories(content["categories"], _used(content["annotations"], "category_id"))
        annotations = door.annotations(content["annotations"], images, categories, merged)
        annotations = settle_geometry(annotations, images, source, look, door.leave_out)
        door.check_rest(total)
    content |= {"images": list(images.values()), "annotations": annotations, "categories": list(categories.values())}


def _kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "number")


def _used(annotations: list[Any], field: str) -> set[str]:
    """Return the texts of all ids that annotations name, to know which other records matter."""
    values = (annotation.get(field) for annotation in annotations if type(annotation) is dict)
    return {str(value) for value in {value for value in values if type(value) in (int, str, float)}}


def identifier(value: Any) -> Id | None:
    """Return an id: a whole number or a text that is not empty. None for anything else."""
    if isinstance(value, str):
        return value or None
    return None if isinstance(value, bool) else whole(value)


def meaning(value: Any, known: Mapping[Id, Any]) -> Id | None:
    """Return the known id that a value means: itself, or the only one with the same text. None if there is none."""
    if type(value) in (int, str) and value in known:
        return value
    id_ = identifier(value)
    if id_ in known:
        return id_
    other = whole(id_) if isinstance(id_, str) else str(id_)
    return other if id_ is not None and other in known else None


class Door:
    """Settles the records of one file, and counts what it leaves out. source: the file in messages."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def leave_out(self, why: str, record: Any) -> None:
        """Count an annotation that is left out."""
        name = f"annotation {shown(record.get('id'))}" if isinstance(record, dict) else f"record {shown(record)}"
        self.first.setdefault(why, name)
        self.left_out[why] += 1

    def check_rest(self, total: int) -> None:
        """Note the annotations that were left out. Raises RefexpError if they are more than half of the file's."""
        if 2 * sum(self.left_out.values()) > total:
            reasons = "; ".join(
                f"{count} {why}, first {self.first[why]}" for why, count in self.left_out.most_common(3)
            )
            raise RefexpError(
                f"{self.source}: {sum(self.left_out.values())} of {total} annotations cannot be used: {reasons}. "
                "Fix the program that wrote this file, or the folder of its images."
            )
        for why, count in self.left_out.items():
            repaired(f"annotation left out: {why}", f"{self.source}, {self.first[why]}", count)

    def fail(self, what: str) -> NoReturn:
        """Raise RefexpError about this file."""
        raise RefexpError(f"{self.source}: {what}")

    def images(self, records: list[Any], used: set[str]) -> dict[Id, Record]:
        """Settle the image records: unique ids, file names with forward slashes, and a whole size or None."""
        found: dict[Id, Record] = {}
        nameless = []
        for position, record in enumerate(records):
            id_ = identifier(record.get("id")) if isinstance(record, dict) else None
            if id_ is None:
                repaired("image record without a usable id left out", f"{self.source}, images[{position}]")
                continue
            record["id"] = id_
            name = record.get("file_name")
            if not isinstance(name, str) or not name.strip("/\\ "):
                name = self._other_name(record)
            if name is None:
                if str(id_) in used:
                    nameless.append(id_)
                else:
                    repaired("image without file_name left out", f"{self.source}, image {shown(id_)}")
                continue
            record["file_name"] = name.replace("\\", "/") if "\\" in name else name  # tools on Windows
            for side in ("width", "height"):
                written = record.get(side)
                if type(written) is not int or not 0 < written < LARGEST_SIDE:
                    size = whole(written)
                    record[side] = size if size is not None and 0 < size < LARGEST_SIDE else None
            if (record["width"] or 0) * (record["height"] or 0) >= MOST_PIXELS:
                record["width"] = record["height"] = None
            if id_ in found:
                if any(found[id_][key] != record[key] for key in ("file_name", "width", "height")):
                    self.fail(f"duplicate id {shown(id_)} in 'images', with different file names or sizes.")
                repaired("image record written twice", f"{self.source}, image {shown(id_)}")
                continue
            found[id_] = record
        if nameless:
            self.fail(f"{len(nameless)} annotated images have no file_name, first image {shown(nameless[0])}; add it.")
        if not found:
            self.fail("contains no usable images.")
        return found

    def _other_name(self, record: Record) -> str | None:
        """Return the file name in another field of an image record, if one of them has it."""
        name = record.get("file_name")
        if isinstance(name, int) and not isinstance(name, bool):
            return str(name)
        url = next((record[key] for key in ("coco_url", "flickr_url") if isinstance(record.get(key), str)), "")
        name = url.rsplit("/", 1)[-1].split("?")[0]
        if name:
            repaired("file name taken from the image's URL", f"{self.source}, image {shown(record['id'])}")
        return name or None

    def categories(self, records: list[Any], used: set[str]) -> tuple[dict[Id, Record], dict[Id, Id]]:
        """Settle the categories. Returns them by id, and ids of further categories of the same name -> the id kept.

        Some tools add a category for the whole data set. It has no annotations, but it can have the name of a class.
        """
        found: dict[Id, Record] = {}
        for position, record in enumerate(records):
            id_ = identifier(record.get("id")) if isinstance(record, dict) else None
            name = class_name(record.get("name")) if isinstance(record, dict) else None
            where = f"{self.source}, categories[{position}]"
            if id_ is None or name is None:
                if id_ is not None and str(id_) in used:
                    self.fail(f"category {shown(id_)} has annotations but no name; add it.")
                repaired("category without a usable id or name left out", where)
                continue
            if name != record["name"]:
                repaired("category name with a number, blanks or another spelling", where)
            if id_ in found and found[id_]["name"] != name:
                self.fail(
                    f"duplicate id {shown(id_)} in 'categories', for {shown(found[id_]['name'])} and {shown(name)}."
                )
            if id_ in found:
                repaired("category written twice", where)
                continue
            found[id_] = record | {"id": id_, "name": name}
        return self._merge(found, used)

    def _merge(self, found: dict[Id, Record], used: set[str]) -> tuple[dict[Id, Record], dict[Id, Id]]:
        taken = {record["name"] for id_, record in found.items() if str(id_) in used}
        kept = {id_: record for id_, record in found.items() if str(id_) in used or record["name"] not in taken}
        by_name: dict[str, Id] = {}
        merged: dict[Id, Id] = {}
        for id_, record in kept.items():
            first = by_name.setdefault(record["name"], id_)
            if first == id_:
                continue
            if (record.get("supercategory") or None) != (kept[first].get("supercategory") or None):
                self.fail(f"duplicate category name '{shown(record['name'])}'; rename or merge these categories.")
            repaired("categories of the same name merged", f"{self.source}, {shown(record['name'])}")
            merged[id_] = first
        return {id_: record for id_, record in kept.items() if id_ not in merged}, merged

    def annotations(
        self, records: list[Any], images: dict[Id, Record], categories: dict[Id, Record], merged: dict[Id, Id]
    ) -> list[Record]:
        """Settle ids, links and flags of the annotations, and leave out those that belong to nothing."""
        known = categories | {id_: categories[first] for id_, first in merged.items()}
        names = {record["name"]: id_ for id_, record in categories.items()}
        files: dict[str, Id] = {}
        kept: list[Record] = []
        taken: set[Id] = set()
        again: list[Record] = []
        for record in records:
            if not isinstance(record, dict):
                self.leave_out("is not a JSON object", record)
                continue
            image_id, category_id, id_ = record.get("image_id"), record.get("category_id"), record.get("id")
            if type(image_id) not in (int, str) or image_id not in images:
                files = files or {image["file_name"]: key for key, image in images.items()}
                image_id = record["image_id"] = self._link(record, "image_id", images, files)
                if image_id is None:
                    continue
            if type(category_id) not in (int, str) or category_id not in categories:
                category_id = self._link(record, "category_id", known, names)
                if category_id is None:
                    continue
                record["category_id"] = merged.get(category_id, category_id)
            if type(id_) is not int or id_ in taken:
                record["id"] = id_ = identifier(id_)
                if id_ is None or id_ in taken:
                    again.append(record)
            if id_ is not None:
                taken.add(id_)
            if record.setdefault("iscrowd", 0) not in (0, 1) or type(record["iscrowd"]) is not int:
                self._settle_flag(record, "iscrowd")
            for flag in FLAGS:
                if flag in record:
                    self._settle_flag(record, flag)
            kept.append(record)
        self._number(again, taken)
        return kept

    def _link(self, record: Record, field: str, known: dict[Id, Record], by_name: dict[str, Id]) -> Id | None:
        """Return the id of the image or category that an annotation means. None if it is left out."""
        value = record.get(field)
        id_ = meaning(value, known)
        if id_ is None and isinstance(value, str):
            id_ = by_name.get(value)
        if id_ is None:
            part = "images" if field == "image_id" else "categories"
            self.leave_out(f"its {field} is not in '{part}'" if field in record else f"has no {field}", record)
        elif id_ != value or type(id_) is not type(value):
            repaired(f"{field} in another spelling", f"{self.source}, annotation {shown(record.get('id'))}")
        return id_

    def _settle_flag(self, record: Record, flag: str) -> None:
        written = record[flag]
        if type(written) is int and written in (0, 1):
            return
        record[flag] = int(is_true(written))
        if written is not None and not isinstance(written, bool) and written not in ("", "0", "1"):
            repaired(f"{flag} that is neither 0 nor 1", f"{self.source}, annotation {shown(record.get('id'))}")

    def _number(self, records: list[Record], taken: set[Id]) -> None:
        """Give new ids to annotations without one, or with one that is taken."""
        free = 1 + max((id_ for id_ in taken if isinstance(id_, int)), default=0)
        for number, record in enumerate(records, start=free):
            repaired("annotation id missing or taken", f"{self.source}, annotation {shown(record['id'])}")
            record["id"] = number


def class_name(value: Any) -> str | None:
    """Return a class name: a text without outer blanks, control characters and lone surrogates, in Unicode's NFC."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    text = value.encode(errors="replace").decode() if not value.isascii() else value
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else " " for sign in text)
    return unicodedata.normalize("NFC", text).strip() or None
