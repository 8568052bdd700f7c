"""METHOD 0: which instances become references."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from conftest import GOLDEN

from refexp.data.coco import Data, make_split, read_coco
from refexp.data.sampling import (
    AllSampler,
    DiverseSampler,
    FileSampler,
    PaperSampler,
    Shots,
    choose_references,
    farthest,
)
from refexp.errors import RefexpError
from refexp.folders.run_folder import references_to_coco

GOLD = json.loads((GOLDEN / "sampling.json").read_text())
NAMES = [c["name"] for c in GOLD["coco"]["categories"]]


def make_data(content=GOLD["coco"], names=NAMES) -> Data:
    split = make_split(content, "golden", names, read=lambda record: None, fingerprint=lambda record: "")
    return Data(tuple(names), split, split)


def test_valid_annotations_are_the_published_ones():
    images = {i["id"]: i for i in GOLD["coco"]["images"]}
    valid = [a["id"] for a in GOLD["coco"]["annotations"] if Shots(1).may_serve(a, images[a["image_id"]])]
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


BOXES = {"small": [60, 50, 20, 20], "border": [2, 50, 100, 100], "good": [60, 50, 120, 100]}


def cats(*kinds: str, **classes: list[str]) -> Data:
    """A class of instances of these kinds, each in an image of its own, "same" in the first; and more classes."""
    names = {"cat": list(kinds), **classes}
    images, annotations = [], []
    for number, (label, kind) in enumerate((i, kind) for i, of_class in enumerate(names.values()) for kind in of_class):
        x, y, w, h = BOXES.get(kind, BOXES["good"])
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 320, "height": 240})
        record = {"id": number, "image_id": 0 if kind == "same" else number, "category_id": label, "bbox": [x, y, w, h]}
        record |= {"crowd": {"iscrowd": 1}, "impossible": {"isimpossible": 1}}.get(kind, {})
        annotations.append(record if kind == "box" else record | {"segmentation": [[x, y, x + w, y, x + w, y + h]]})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return make_data({"images": images, "annotations": annotations, "categories": categories}, list(names))


REASONS = [
    (["small", "small", "good"], "cat (1): 2 smaller than 32 pixels. What helps: fewer shots (at most 1), or "
     "shots.missing=repeat or keep, or shots.valid=any (enough for cat), or annotate more."),
    (["border", "border"], "cat (0): 2 within 10 pixels of the border. What helps: shots.valid=any (enough for cat), "
     "or annotate more."),
    (["crowd", "crowd"], "cat (0): 2 marked as a crowd. What helps: annotate more."),
    (["impossible", "small"], "cat (0): 1 marked impossible, 1 smaller than 32 pixels. What helps: shots.valid=any "
     "(enough for cat), or annotate more."),
    (["good", "same"], "cat (1): 1 in an image that gave one already. What helps: fewer shots (at most 1), or "
     "shots.missing=repeat or keep, or sampler=diverse (enough for cat), or annotate more."),
    (["good", "box"], "cat (1): 1 without a mask. What helps: fewer shots (at most 1), "
     "or shots.missing=repeat or keep, or masks for the boxes (refexp data boxes2masks) (enough for cat), "
     "or annotate more."),
    (["small"], "cat (0): 1 smaller than 32 pixels. What helps: annotate more."),
    ([], "cat (0): 0 annotations. What helps: annotate more."),
]  # fmt: skip


@pytest.mark.parametrize(("kinds", "message"), REASONS, ids=["-".join(kinds) for kinds, _ in REASONS])
def test_too_few_says_why_and_what_would_help(kinds, message):
    with pytest.raises(RefexpError) as error:
        choose_references(cats(*kinds), PaperSampler(), Shots(2), seed=0)
    assert str(error.value) == f"golden: too few valid references for 2 shots: {message}"


def test_what_would_help_is_enough():
    """Each remedy, taken."""
    for kinds, shots, sampler in (
        (["small", "border"], Shots(2, valid="any"), PaperSampler()),
        (["good", "same"], Shots(2), DiverseSampler()),
        (["good", "small"], Shots(1), PaperSampler()),
    ):
        _, references = choose_references(cats(*kinds), sampler, shots, 0, Looks())
        assert [len(of_class) for of_class in references] == [shots.n]


def test_too_few_with_other_classes_and_other_settings():
    data = cats("small", "small", dog=["good", "good"], bird=[])
    with pytest.raises(
        RefexpError, match=r"bird \(0\): 0 annotations\. What helps: leave these classes out \(.*drop"
    ) as error:
        choose_references(data, PaperSampler(), Shots(2), seed=0)
    assert "shots.valid=any (enough for cat)" in str(error.value)
    for missing in ("drop", "repeat", "keep"):
        with pytest.raises(RefexpError, match=r"cat \(0\): 2 smaller than 32 pixels\. What helps: shots\.valid=any"):
            choose_references(cats("small", "small"), PaperSampler(), Shots(2, missing=missing), seed=0)
    many = cats("crowd", **{f"class {i}": ["crowd"] for i in range(9)})
    with pytest.raises(RefexpError, match=r"class 1 .*; 7 more classes") as error:
        choose_references(many, DiverseSampler(), Shots(1), 0, Looks())
    assert len(str(error.value)) < 300


def test_too_few_in_a_file_names_the_file(tmp_path):
    data = cats("good", "good", "small")
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"cat": [{"image": "0.jpg", "bbox": BOXES["good"]}]}))
    with pytest.raises(RefexpError) as error:
        choose_references(data, FileSampler(str(path)), Shots(2), 0)
    assert str(error.value) == (
        f"sampler.path: {path}: too few valid references for 2 shots: cat (1). What helps: fewer shots (at most 1), or "
        "shots.missing=repeat or keep, or list more references in references.json."
    )


def test_all_references_and_all_of_them_crowds():
    with pytest.raises(RefexpError, match="golden: all 2 annotations of the chosen classes are crowds, so no"):
        choose_references(cats("crowd", "crowd"), AllSampler(), Shots(1), 0)


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
    assert [reference.id for reference in bicycle] == [bicycle[0].id] * 3


def test_keep_makes_do_with_fewer():
    data, references = choose_references(few(), PaperSampler(), Shots(2, missing="keep"), seed=0)
    assert [len(per_class) for per_class in references] == [2, 2, 2, 1]
    assert data.classes == make_data().classes


def test_the_filter_can_be_set():
    big = Shots(1, min_side=100)
    kept = [a for a in make_data().references.annotations if big.may_serve(a, {"width": 10**6, "height": 10**6})]
    assert kept and all(min(a["bbox"][2:]) >= 100 for a in kept)
    annotation = {"bbox": [5, 20, 50, 50]}
    assert Shots(1, border=5).may_serve(annotation, {"width": 60, "height": 80})
    assert not Shots(1, border=6).may_serve(annotation, {"width": 60, "height": 80})


def test_any_instance_but_a_crowd_may_serve():
    _, references = choose_references(make_data(), PaperSampler(), Shots(8, valid="any", missing="drop"), seed=0)
    chosen = {reference.id for per_class in references for reference in per_class}
    assert not chosen <= set(GOLD["valid_ann_ids"])
    assert not any(a["iscrowd"] for a in make_data().references.annotations if a["id"] in chosen)


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


class Looks:
    """A stand-in for the encoder: prototypes by annotation id, and who was asked for."""

    def __init__(self, prototypes=None) -> None:
        self.prototypes, self.asked = prototypes, []

    def __call__(self, references):
        self.asked = [a["id"] for a in references]
        if self.prototypes is None:
            return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(id_)) for id_ in self.asked])
        return torch.tensor([self.prototypes[id_] for id_ in self.asked], dtype=torch.float32)


def one_class(count: int) -> Data:
    images = [{"id": 0, "file_name": "0.jpg", "width": 999, "height": 999}]
    annotations = [
        {
            "id": i,
            "image_id": 0,
            "category_id": 5,
            "bbox": [50, 50, 60, 60],
            "segmentation": [[50, 50, 110, 50, 110, 110]],
        }
        for i in range(count)
    ]
    return make_data({"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "x"}]}, ["x"])


def diverse(data: Data, n: int, seed: int, looks, pool: int = 200) -> list[list]:
    _, references = choose_references(data, DiverseSampler(pool), Shots(n), seed, looks)
    return [[reference.id for reference in per_class] for per_class in references]


def test_farthest_point_choice_by_hand():
    angles = torch.deg2rad(torch.tensor([0.0, 10, 90, 180, 181, 265]))
    # Lengths do not matter, only directions do.
    rows = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([1.0, 9, 1, 2, 50, 3])[:, None]
    assert farthest(rows, 4, first=0) == [0, 3, 2, 5]
    assert farthest(rows, 99, first=1)[:2] == [1, 4]
    assert sorted(farthest(rows, 99, first=1)) == [0, 1, 2, 3, 4, 5]


def test_equally_far_references_come_in_file_order():
    # The same direction at several lengths: equal but for rounding.
    rows = torch.rand(1, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 9, 50)[:, None]
    assert farthest(rows, 5, first=3) == [3, 0, 1, 2, 4]
    assert farthest(torch.eye(40), 5, first=20) == [20, 0, 1, 2, 3]


def test_diverse_references_cover_what_the_class_looks_like():
    # Nine of ten look alike: whichever comes first, the other kind is the second.
    looks = Looks({i: [1.0, 0.01 * i] if i != 6 else [0.0, 1.0] for i in range(10)})
    drawn = [diverse(one_class(10), 2, seed, looks)[0] for seed in range(20)]
    assert all(6 in ids for ids in drawn)
    assert len({ids[0] for ids in drawn}) > 4


def test_diverse_draws_depend_on_the_seed_alone():
    names = [c["name"] for c in GOLD["coco"]["categories"]]
    data = make_data()
    forward = diverse(data, 3, 33, Looks())
    assert forward == diverse(data, 3, 33, Looks())
    assert forward != diverse(data, 3, 34, Looks())
    assert forward[::-1] == diverse(make_data(names=names[::-1]), 3, 33, Looks())
    assert [ids[:2] for ids in forward] == diverse(data, 2, 33, Looks())
    assert forward[1:2] == diverse(make_data(names=names[1:2]), 3, 33, Looks())


def test_diverse_compares_valid_references_and_at_most_a_pool_of_them():
    looks = Looks()
    diverse(make_data(), 1, 0, looks)
    assert sorted(looks.asked) == GOLD["valid_ann_ids"]
    data = one_class(50)
    asked = []
    for seed in range(3):
        (ids,) = diverse(data, 4, seed, looks, pool=10)
        assert len(looks.asked) == 10 and looks.asked == sorted(looks.asked)
        assert set(ids) <= set(looks.asked)
        asked.append(tuple(looks.asked))
    assert len(set(asked)) == 3
    with pytest.raises(RefexpError, match=r"sampler.pool=3: less than shots.n=4"):
        diverse(data, 4, 0, looks, pool=3)


def test_too_few_diverse_references_are_settled_as_elsewhere():
    with pytest.raises(RefexpError, match=r"bicycle \(1\)"):
        diverse(few(), 2, 0, Looks())
    data, references = choose_references(few(), DiverseSampler(), Shots(2, missing="drop"), 0, Looks())
    assert data.classes == ("dog", "person", "car") and all(len(per_class) == 2 for per_class in references)
