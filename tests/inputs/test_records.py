"""Records of COCO files: a value with one meaning is read, a record that nobody can use is left out and counted."""

from __future__ import annotations

import pytest

from refexp.errors import RefexpError
from refexp.inputs.records import check_coco
from refexp.inputs.repairs import collecting

POLYGON = [[60, 50, 180, 50, 180, 150]]


def coco(count: int = 3) -> dict:
    ids = range(1, count + 1)
    return {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 320, "height": 240} for k in ids],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [60, 50, 120, 100], "segmentation": POLYGON} for k in ids
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


def settled(content: dict) -> tuple[dict, dict]:
    """The content behind the door, and the repairs with their counts."""
    with collecting() as repairs:
        check_coco(content, "f.json")
    return content, {what: count for what, (count, _) in repairs.found.items()}


def test_sound_data_are_untouched():
    content, repairs = settled(coco())
    sound = coco()
    for annotation in sound["annotations"]:
        annotation["iscrowd"] = 0
    assert (content, repairs) == (sound, {})


@pytest.mark.parametrize(
    ("part", "field", "spell"),
    [
        ("annotations", "image_id", str), ("annotations", "image_id", float), ("annotations", "category_id", str),
        ("annotations", "category_id", lambda _: "cat"), ("annotations", "image_id", lambda k: f"{k}.jpg"),
        ("images", "id", float), ("images", "width", float), ("images", "width", str), ("annotations", "id", float),
        ("categories", "id", str), ("annotations", "id", str),
    ],
)  # fmt: skip
def test_a_value_that_can_mean_one_thing_only(part, field, spell):
    content = coco()
    for record in content[part]:
        record[field] = spell(record[field])
    content, _ = settled(content)
    images, categories = ({record["id"] for record in content[name]} for name in ("images", "categories"))
    assert len(content["annotations"]) == 3
    for annotation in content["annotations"]:
        assert annotation["image_id"] in images
        assert annotation["category_id"] in categories
    assert {(type(image["width"]), image["width"]) for image in content["images"]} == {(int, 320)}


@pytest.mark.parametrize("value", [True, None, [1], {"a": 1}, 1.5, float("inf"), "", 10**400])
@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_an_annotation_that_belongs_to_nothing_is_left_out(field, value):
    content = coco()
    content["annotations"][1][field] = value
    content, repairs = settled(content)
    assert [a["id"] for a in content["annotations"]] == [1, 3]
    assert list(repairs.values()) == [1]


@pytest.mark.parametrize("record", [None, 7, "cat", []])
def test_a_record_that_is_none_is_left_out(record):
    content = coco()
    content["annotations"][1] = record
    content["images"].append(record)
    content["categories"].append(record)
    content, repairs = settled(content)
    assert [len(content[part]) for part in ("images", "annotations", "categories")] == [3, 2, 1]
    assert len(repairs) == 3


def test_missing_and_repeated_annotation_ids_become_unique():
    content = coco(4)
    del content["annotations"][1]["id"]
    content["annotations"][3]["id"] = 1
    content, repairs = settled(content)
    assert [a["id"] for a in content["annotations"]] == [1, 4, 3, 5]
    assert repairs == {"annotation id missing or taken": 2}


def test_records_written_twice_and_categories_of_one_name():
    content = coco()
    content["images"].append(dict(content["images"][0]))
    content["categories"] += [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    content["annotations"][0]["category_id"] = 2
    content, repairs = settled(content)
    assert (len(content["images"]), len(content["categories"])) == (3, 1)
    assert {a["category_id"] for a in content["annotations"]} == {1}
    assert set(repairs) == {
        "image record written twice", "category written twice", "categories of the same name merged"
    }  # fmt: skip


def test_an_unused_image_without_a_file_name_is_left_out():
    content = coco()
    content["images"] += [
        {"id": 9, "width": 1, "height": 1},
        {"id": 10, "width": 9, "height": 9, "coco_url": "u/9.jpg"},
    ]
    content, _ = settled(content)
    assert [image["file_name"] for image in content["images"]] == ["1.jpg", "2.jpg", "3.jpg", "9.jpg"]


@pytest.mark.parametrize(
    ("name", "clean"), [(7, "7"), (" cat ", "cat"), ("a\nb", "a b"), ("e\u0301", "\xe9"), ("\ud800x", "?x")]
)
def test_class_names_are_clean_texts(name, clean):
    content = coco()
    content["categories"][0]["name"] = name
    content, _ = settled(content)
    assert content["categories"][0]["name"] == clean


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["images"].append({**c["images"][0], "file_name": "other.jpg"}), "duplicate id 1 in 'images'"),
        (lambda c: c["categories"].append({"id": 1, "name": "dog"}), "duplicate id 1 in 'categories'"),
        (lambda c: c["images"][0].pop("file_name"), "1 annotated images have no file_name, first image 1"),
        (lambda c: c["categories"][0].update(name=None), "category 1 has annotations but no name"),
        (
            lambda c: [a.update(image_id=99) for a in c["annotations"][1:]],
            "2 of 3 annotations cannot be",
        ),
        (lambda c: c.pop("categories"), "has no list 'categories'"),
    ],
)
def test_what_has_no_single_meaning_is_refused(spoil, message):
    content = coco()
    spoil(content)
    with pytest.raises(RefexpError, match=message):
        settled(content)


def test_flags_are_true_for_one_and_true_only():
    content = coco(9)
    values = (1, True, 1.0, "1", "True", "false", "no", 2, [0])
    for annotation, value in zip(content["annotations"], values, strict=True):
        annotation["iscrowd"] = value
    content, _ = settled(content)
    assert [a["iscrowd"] for a in content["annotations"]] == [1, 1, 1, 1, 1, 0, 0, 0, 0]


def test_strict_refuses_every_repair():
    content = coco()
    content["annotations"][1]["image_id"] = "2"
    refused = r"input\.strict=true: image_id in another spelling: 1, first: f\.json, annotation 2"
    with pytest.raises(RefexpError, match=refused), collecting(strict=True):
        check_coco(content, "f.json")
