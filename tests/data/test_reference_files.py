"""Reference sets from files: every published format, matched to a split's annotations, and nothing that runs code."""

from __future__ import annotations

import collections
import copy
import json
import os
import pickle
from pathlib import Path

import pytest
from conftest import GOLDEN, ROOT

from refexp.data.coco import Data, make_split
from refexp.data.reference_files import Listed, Lookup, read_references
from refexp.data.sampling import FileSampler, PaperSampler, Shots, choose_references
from refexp.errors import RefexpError
from refexp.folders.run_folder import references_to_coco

SETS = Path(os.environ.get("REFEXP_REFERENCE_SETS", ROOT.parent / "shared" / "reference_sets"))
PUBLISHED = sorted(SETS.rglob("*.json"))
GOLD = json.loads((GOLDEN / "sampling.json").read_text())["coco"]

needs_published = pytest.mark.skipif(
    not PUBLISHED,
    reason=f"PUBLISHED REFERENCE SETS MISSING: nothing in {SETS}; REFEXP_REFERENCE_SETS names their folder",
)


def make_data(content) -> Data:
    names = [category["name"] for category in content["categories"]]
    split = make_split(content, "train.json", names, read=lambda record: None, fingerprint=lambda record: "")
    return Data(tuple(names), split, split)


def bird_data(*extra: dict, masks: bool = True) -> Data:
    """Two images in VOC's folders; birds 1 and 2 (difficult) and a cat in the first, birds 4 and 5 in the second."""
    boxes = {1: [49, 96, 341, 225], 2: [10, 10, 40, 40], 3: [49, 96, 341, 225], 4: [5, 6, 70, 80], 5: [5, 9, 70, 80]}
    annotations = [
        {"id": id_, "image_id": 7 if id_ < 4 else 8, "category_id": 2 if id_ == 3 else 9, "bbox": box, "iscrowd": 0}
        for id_, box in boxes.items()
    ]
    annotations[1]["difficult"] = 1
    if masks:
        annotations[0]["segmentation"] = [[49, 96, 390, 96, 390, 321]]
    images = [
        {"id": 7, "file_name": "VOC2012/JPEGImages/2010_000616.jpg", "width": 500, "height": 400},
        {"id": 8, "file_name": "VOC2007/JPEGImages/003656.jpg", "width": 500, "height": 400},
    ]
    categories = [{"id": 2, "name": "cat"}, {"id": 9, "name": "bird"}]
    return make_data({"images": images, "annotations": [*annotations, *extra], "categories": categories})


def chosen_ids(path: Path, data: Data, n: int) -> dict[str, list]:
    found = FileSampler(str(path)).choose(data.references, Shots(n), 0, data.classes)
    return {name: [a["id"] for a in found[label]] for label, name in enumerate(data.classes)}


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def dump(path: Path, content, protocol: int | None = None) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


# Published k-shot lists


@needs_published
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.relative_to(SETS)))
def test_every_published_list_is_read_whole_and_found(path):
    content = json.loads(path.read_text())
    listed = read_references(path, shots=1)
    assert collections.Counter(r.name for r in listed) == {name: len(entries) for name, entries in content.items()}
    assert [(r.image, list(r.box)) for r in listed] == [(e["image"], e["bbox"]) for es in content.values() for e in es]

    # The data themselves are not here: a split that holds just these boxes, below another root and a little off.
    data = make_data(as_coco(content))
    chosen = FileSampler(str(path)).choose(data.references, Shots(1000), 0, data.classes)
    expected = [a["id"] for a in data.references.annotations]
    assert [a["id"] for label in range(len(data.classes)) for a in chosen[label]] == expected


UNUSED = {
    "clipart1k/10": 16, "clipart1k/5": 5, "DIOR/10": 45, "DIOR/5": 13, "UODD/10": 10, "UODD/5": 2, "ArTaxOr/10": 2,
}  # fmt: skip
"""Listed instances that the paper's code never uses, by set and shots; 0 in the other lists."""


@needs_published
@pytest.mark.parametrize("path", sorted(SETS.glob("CDFSOD/*/annotations/*")), ids=lambda path: f"{path.parts[-3:]}")
def test_the_paper_s_rule_leaves_out_the_known_number_of_instances(path):
    """Of several instances of a class in one image, the first is repeated. Only clipart1k's motorbikes are too few."""
    content, shots = json.loads(path.read_text()), int(path.name.split("_")[0])
    data = make_data(as_coco(content))
    standard, published = (
        FileSampler(str(path), protocol).choose(data.references, Shots(shots), 0, data.classes)
        for protocol in ("standard", "published")
    )
    unused = sum(len({a["id"] for a in standard[c]} - {a["id"] for a in published[c]}) for c in standard)
    assert unused == UNUSED.get(f"{path.parts[-3]}/{shots}", 0)
    assert {len(of_class) for of_class in published.values()} == {shots}
    few = [name for c, name in enumerate(data.classes) if len(standard[c]) < shots]
    assert few == (["motorbike"] if path.parts[-3] == "clipart1k" and shots == 10 else [])


def as_coco(content: dict) -> dict:
    """The split that the list could have been drawn from, its images below another root."""
    names = sorted({e["image"] for entries in content.values() for e in entries})
    images = [
        {"id": i, "file_name": "/".join(name.split("/")[1:]), "width": 9999, "height": 9999}
        for i, name in enumerate(names)
    ]
    annotations = [
        {"id": f"{c}-{i}", "image_id": names.index(e["image"]), "category_id": c, "bbox": [s + 0.4 for s in e["bbox"]]}
        for c, entries in enumerate(content.values())
        for i, e in enumerate(entries)
    ]
    categories = [{"id": c, "name": name} for c, name in enumerate(content)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("image", ["PascalVOC/VOC2012/JPEGImages/2010_000616.jpg", "2010_000616.png", 7])
def test_a_list_is_matched_by_image_and_nearest_box_of_the_class(tmp_path, image):
    # VOC's box counts from 1: one pixel off each way.
    path = write(tmp_path / "a.json", {"bird": [{"image": image, "bbox": [50, 97, 340, 224]}], "dog": []})
    assert chosen_ids(path, bird_data(), 5) == {"bird": [1], "cat": []}
    near = write(tmp_path / "b.json", {"bird": [{"image": "003656.jpg", "bbox": [5, 8, 70, 80]}]})
    assert chosen_ids(near, bird_data(), 5)["bird"] == [5]


def test_the_folder_tells_images_of_one_name_apart():
    content = {
        "images": [
            {"id": i, "file_name": f"{folder}/1.jpg", "width": 99, "height": 99} for i, folder in enumerate("ab")
        ],
        "annotations": [{"id": i, "image_id": i, "category_id": 0, "bbox": [5, 5, 40, 40]} for i in range(2)],
        "categories": [{"id": 0, "name": "bird"}],
    }
    lookup = Lookup(make_data(content).references)
    assert [lookup.find(Listed(f"root/{f}/1.jpg", (5, 5, 40, 40), name="bird"), 0)[0]["id"] for f in "ab"] == [0, 1]


@pytest.mark.parametrize(
    ("image", "box"), [("2010_000616.jpg", [49, 96, 345, 225]), ("2010_000617.jpg", [49, 96, 341, 225])]
)
def test_a_reference_that_the_split_lacks_is_named(tmp_path, image, box):
    path = write(tmp_path / "list.json", {"bird": [{"image": image, "bbox": box}]})
    named = rf"class bird, image {image}, box \[49, 96, {box[2]}, 225\], of .*list.json is not in train.json"
    with pytest.raises(RefexpError, match=named):
        chosen_ids(path, bird_data(), 1)


def test_a_list_serves_where_the_split_has_no_masks(tmp_path):
    data = bird_data(masks=False)
    path = write(tmp_path / "list.json", {"bird": [{"image": "003656.jpg", "bbox": [5, 6, 70, 80]}]})
    _, references = choose_references(data, FileSampler(str(path)), Shots(1, missing="drop"), 0)
    assert [reference.id for reference in references[0]] == [4]
    assert references[0][0].mask is None


def test_the_first_are_taken_and_too_few_is_settled_as_elsewhere(tmp_path):
    entries = [{"image": "003656.jpg", "bbox": box} for box in ([5, 9, 70, 80], [5, 6, 70, 80])]
    cat = {"image": 7, "bbox": [49, 96, 341, 225]}
    path = write(tmp_path / "list.json", {"bird": entries, "cat": [cat]})
    assert chosen_ids(path, bird_data(), 1) == {"bird": [5], "cat": [3]}
    with pytest.raises(RefexpError, match=r"too few valid references for 2 shots: cat \(1\)"):
        choose_references(bird_data(), FileSampler(str(path)), Shots(2), 0)
    _, references = choose_references(bird_data(), FileSampler(str(path)), Shots(2, missing="repeat"), 0)
    assert [[reference.id for reference in per_class] for per_class in references] == [[3, 3], [5, 4]]


# COCO files and FsDet's folders


def coco_of(data: Data, ids: list[int]) -> dict:
    split = data.references
    return references_to_coco([[split.reference(a) for a in split.annotations if a["id"] in ids]], data)


def test_coco_categories_are_matched_by_name(tmp_path):
    content = copy.deepcopy(coco_of(bird_data(), [1, 5]))
    for category in content["categories"]:
        category["id"] += 100
    for annotation in content["annotations"]:
        annotation["category_id"] += 100
    assert chosen_ids(write(tmp_path / "refs.json", content), bird_data(), 5) == {"bird": [1, 5], "cat": []}


def test_a_coco_annotation_must_agree_with_the_split(tmp_path):
    content = copy.deepcopy(coco_of(bird_data(), [1]))
    content["annotations"][0]["bbox"][2] += 10
    with pytest.raises(RefexpError, match=r"annotation 1 \(bird\), image 7, box \[49, 96, 351, 225\]"):
        chosen_ids(write(tmp_path / "refs.json", content), bird_data(), 1)


def test_a_seed_folder_gives_each_class_its_file_for_the_shots(tmp_path):
    folder = tmp_path / "seed33"
    data = bird_data()
    # A class's file may hold other classes' annotations too: they count for nothing.
    write(folder / "full_box_1shot_bird_trainval.json", coco_of(data, [5]))
    write(folder / "full_box_2shot_bird_trainval.json", coco_of(data, [1, 4]))
    write(folder / "full_box_1shot_cat_trainval.json", coco_of(data, [3, 5]))
    write(folder / "readme.txt", "nothing")
    assert chosen_ids(folder, data, 1) == {"bird": [5], "cat": [3]}
    assert chosen_ids(folder, data, 2) == {"bird": [1, 4], "cat": [3]}
    assert chosen_ids(folder, data, 3) == {"bird": [1, 4], "cat": [3]}
    (folder / "full_box_1shot_bird_trainval.json").unlink()
    assert chosen_ids(folder, data, 1) == {"bird": [1], "cat": [3]}


def test_of_listed_images_all_instances_of_the_class_serve_but_difficult_ones(tmp_path):
    folder = tmp_path / "seed1"
    crowd = {"id": 6, "image_id": 7, "category_id": 9, "bbox": [0, 0, 99, 99], "iscrowd": 1}
    lines = "datasets/VOC2012/JPEGImages/2010_000616.jpg\ndatasets/VOC2007/JPEGImages/003656.jpg\n"
    file = write(folder / "box_5shot_bird_train.txt", lines)
    assert chosen_ids(folder, bird_data(crowd), 5)["bird"] == [1, 4, 5]
    assert chosen_ids(file, bird_data(crowd), 2)["bird"] == [1, 4]
    write(folder / "box_5shot_bird_train.txt", "datasets/VOC2012/JPEGImages/2010_999999.jpg\n")
    with pytest.raises(RefexpError, match=r"class bird, image datasets/VOC2012/JPEGImages/2010_999999.jpg, of"):
        chosen_ids(folder, bird_data(), 1)


# Pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_papers_pickles_are_read(tmp_path, protocol):
    data = make_data(GOLD)
    chosen = PaperSampler().choose(data.references, Shots(3), 33)
    content = {
        category: [{"img_id": a["image_id"], "ann_ids": [a["id"]]} for a in chosen[label]]
        for category, label in data.references.labels.items()
    }
    path = dump(tmp_path / "few_shot_3shot_seed33.pkl", content, protocol)
    assert FileSampler(str(path)).choose(data.references, Shots(3), 0, data.classes) == chosen


@pytest.mark.parametrize(
    "entry", [{"image_id": 8, "id": 5}, {"img_id": 8, "ann_id": 5}, {"img_id": 8, "ann_ids": (5,)}]
)
@pytest.mark.parametrize("key", ["bird", 9])
def test_pickles_may_call_things_otherwise(tmp_path, key, entry):
    assert chosen_ids(dump(tmp_path / "x.pickle", {key: [entry]}), bird_data(), 1)["bird"] == [5]


@pytest.mark.parametrize("entry", [{"img_id": 7, "ann_ids": [5]}, {"img_id": 7, "ann_ids": [3]}])
def test_a_pickled_reference_of_another_image_or_class_is_refused(tmp_path, entry):
    with pytest.raises(RefexpError, match=rf"annotation {entry['ann_ids'][0]} \(category 9\), image 7, of"):
        chosen_ids(dump(tmp_path / "x.pkl", {9: [entry]}), bird_data(), 1)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["refs.pkl", "refs.json"])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, protocol, name):
    trace = tmp_path / "ran"
    path = dump(tmp_path / name, {9: [Malicious(f"touch {trace}")]}, protocol)
    if name == "refs.pkl" or protocol >= 2:
        with pytest.raises(RefexpError, match=rf"the pickle .*{name} asks for (posix|nt)\.system"):
            read_references(path, 1)
    else:
        with pytest.raises(RefexpError, match="unknown format"):
            read_references(path, 1)
    assert not trace.exists()


def test_even_harmless_classes_are_not_looked_up(tmp_path):
    with pytest.raises(RefexpError, match=r"asks for collections\.OrderedDict"):
        read_references(dump(tmp_path / "x.pkl", collections.OrderedDict(a=[])), 1)


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "is not valid JSON"),
        ("x.json", "[1]", "has an unknown format; supported formats: COCO JSON"),
        ("x.json", "{}", "lists no references"),
        ("x.json", {"annotations": []}, "has no list 'images'"),
        ("x.json", {"bird": 3}, "has an unknown format"),
        ("x.json", {"bird": [{"bbox": [1, 2, 3, 4]}]}, r"x.json: bird\[0\] has no image"),
        ("x.json", {"bird": [{"image": "a.jpg", "bbox": [1, 2, 3]}]}, r"bird\[0\]: bbox must be .* not \[1, 2, 3\]"),
        ("x.json", '{"bird": [{"image": "a.jpg", "bbox": [1, 2, 3, NaN]}]}', r"bird\[0\]: bbox must be"),
        ("x.json", '{"bird": [{"image": "a.jpg", "bbox": [1, 2, 3, ' + "9" * 400 + "]}]}", r"bird\[0\]: bbox must be"),
        ("x.json", {"dog": [{"image": "a.jpg", "bbox": [1, 2, 3, 4]}]}, "none of the dataset's classes; it lists dog"),
        ("x.txt", "a.jpg\n", r"the name of an image list must be box_<n>shot_<class>_train.txt"),
        ("x.pkl", "no pickle", "is not a readable pickle"),
        ("seed1/x.txt", "a.jpg\n", "has an unknown format"),
    ],
)
def test_what_cannot_be_read_says_so_in_one_line(tmp_path, name, content, message):
    with pytest.raises(RefexpError, match=message) as caught:
        chosen_ids(write(tmp_path / name, content), bird_data(), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1], {9: 3}, {9: [3]}, {9: [{"img_id": 7}]}, {9: [{"img_id": [7], "ann_ids": 5}]}])
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    with pytest.raises(RefexpError, match=r"sampler.path: .*x.pkl"):
        read_references(dump(tmp_path / "x.pkl", content), 1)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(RefexpError, match=r"sampler.path: file not found: .*nowhere"):
        read_references(tmp_path / "nowhere", 1)
    with pytest.raises(RefexpError, match=r"contains no full_box_<n>shot_<class>_trainval.json"):
        read_references(tmp_path, 1)
