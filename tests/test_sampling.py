"""METHOD 0: which instances become references."""

from __future__ import annotations

import json
import logging

import pytest
from conftest import GOLDEN

from refexp.data.coco import Data, make_split, read_coco
from refexp.data.sampling import FileSampler, PaperSampler, Shots, choose_references, is_valid
from refexp.errors import RefexpError
from refexp.results import references_to_coco

GOLD = json.loads((GOLDEN / "sampling.json").read_text())
NAMES = [c["name"] for c in GOLD["coco"]["categories"]]


def make_data(content=GOLD["coco"], names=NAMES) -> Data:
    split = make_split(content, "golden", names, read=lambda record: None, fingerprint=lambda record: "")
    return Data(tuple(names), split, split)


def test_valid_annotations_are_the_published_ones():
    images = {i["id"]: i for i in GOLD["coco"]["images"]}
    valid = [
        a["id"]
        for a in GOLD["coco"]["annotations"]
        if is_valid(a, images[a["image_id"]]["width"], images[a["image_id"]]["height"]) and not a["iscrowd"]
    ]
    assert valid == GOLD["valid_ann_ids"]


@pytest.mark.parametrize(("seed", "shots"), [(33, 1), (33, 3), (42, 1), (42, 3)])
def test_choices_are_the_published_ones(seed, shots):
    data = make_data()
    chosen = PaperSampler().choose(data.references, Shots(shots), seed)
    for category, expected in GOLD["choices"][f"seed{seed}_shot{shots}"]:
        found = [[a["image_id"], [a["id"]]] for a in chosen[data.references.labels[category]]]
        assert found == expected


def test_class_order_of_the_config_does_not_change_the_draw():
    forward = PaperSampler().choose(make_data().references, Shots(3), 33)
    backward = PaperSampler().choose(make_data(names=NAMES[::-1]).references, Shots(3), 33)
    assert [forward[i] for i in range(4)] == [backward[3 - i] for i in range(4)]


def test_too_few_references_is_an_error_that_names_the_classes():
    with pytest.raises(RefexpError, match=r"too few valid references for 30 shots: dog \(\d+\)"):
        choose_references(make_data(), PaperSampler(), Shots(30), seed=0)


def few() -> Data:
    """The golden set with one valid bicycle left."""
    content = json.loads(json.dumps(GOLD["coco"]))
    bicycles = [a for a in content["annotations"] if a["category_id"] == 2 and a["id"] in GOLD["valid_ann_ids"]]
    content["annotations"] = [a for a in content["annotations"] if a not in bicycles[1:]]
    return make_data(content)


def test_drop_leaves_the_class_out_everywhere(caplog):
    with caplog.at_level(logging.WARNING):
        data, references = choose_references(few(), PaperSampler(), Shots(2, missing="drop"), seed=0)
    assert data.classes == ("dog", "person", "car")
    assert all(len(per_class) == 2 for per_class in references)
    assert data.targets.labels == {18: 0, 1: 1, 3: 2}
    assert not any(a["category_id"] == 2 for a in data.targets.annotations)
    assert "1 classes left out" in caplog.text
    assert "bicycle" in caplog.text


def test_repeat_repeats_in_order():
    _, references = choose_references(few(), PaperSampler(), Shots(3, missing="repeat"), seed=0)
    bicycle = references[3]
    assert [a["id"] for a in bicycle] == [bicycle[0]["id"]] * 3


def test_any_instance_but_a_crowd_may_serve():
    _, references = choose_references(make_data(), PaperSampler(), Shots(8, valid="any", missing="drop"), seed=0)
    chosen = [a for per_class in references for a in per_class]
    assert any(a["id"] not in GOLD["valid_ann_ids"] for a in chosen)
    assert not any(a["iscrowd"] for a in chosen)


def test_references_can_be_read_back(tmp_path):
    data, references = choose_references(make_data(), PaperSampler(), Shots(3), seed=33)
    path = tmp_path / "references.json"
    path.write_text(json.dumps(references_to_coco(references, data)))
    read_coco(path)
    _, again = choose_references(make_data(), FileSampler(str(path)), Shots(3), seed=0)
    assert again == references


def test_references_of_another_dataset_are_refused(tmp_path):
    content = json.loads(json.dumps(GOLD["coco"]))
    content["annotations"][0]["id"] = 12345
    path = tmp_path / "references.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RefexpError, match=r"sampler.path: annotation 12345 \(dog\)"):
        FileSampler(str(path)).choose(make_data().references, Shots(1), 0)
