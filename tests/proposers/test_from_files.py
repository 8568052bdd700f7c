"""Proposals from files: boxes of a detector, masks of another program, and the union of several proposers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import run

from refexp.config.building import build
from refexp.config.components import build_experiment
from refexp.config.composing import compose_config, resolve
from refexp.data.coco import annotation_rle
from refexp.errors import RefexpError
from refexp.inputs.images import to_square
from refexp.machine.provenance import Clock
from refexp.masks import boxes_xywh, decode, encode, to_json, to_low_res
from refexp.method import contract
from refexp.method.extraction import Extractor
from refexp.proposers.base import Proposer, proposals_of
from refexp.proposers.boxes import BoxProposer
from refexp.proposers.file import FileProposer
from refexp.proposers.oracle import OracleProposer
from refexp.proposers.regions import RegionProposer
from refexp.proposers.union import UnionProposer
from refexp.types import Reference, Target, Weights

CPU = torch.device("cpu")
SIZE = (60, 80)


class HalfBoxes(Proposer):
    """The left half of each box, but no mask in boxes that begin left of column 10."""

    image_size = 256

    def __init__(self, threads: int = 1, margin: int = 0, weights: str = "a") -> None:
        self.weights = weights

    inert = Proposer.inert | {"threads"}

    def provenance(self):
        return Weights(self.weights, kind="random" if self.weights == "random" else "published")

    def load(self, device):
        self.device = device

    def propose(self, target):
        return proposals_of([0.25], [full(target)])

    def masks_in_boxes(self, target, boxes):
        assert self.device == CPU and target.square.shape[-1] == self.image_size
        masks = np.zeros((len(boxes), *target.size), dtype=bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            if x1 >= 10:
                mask[y1:y2, x1 : (x1 + x2) // 2] = True
        return encode(masks)


def full(target):
    return encode(np.ones((1, *target.size), dtype=bool))[0]


def target(id_=7, side: int = 256) -> Target:
    return Target(id_, np.full((*SIZE, 3), 90, dtype=np.uint8), torch.full((3, side, side), 0.4))


def write(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)


def box(image_id, score, *xywh, **more):
    return {"image_id": image_id, "category_id": 1, "bbox": list(xywh), "score": score, **more}


def proposed(proposer: Proposer, of: Target | None = None):
    of = of or target(side=proposer.image_size)
    contract.forget()
    proposer.load(CPU)
    return contract.check_proposals(proposer, proposer.propose(of), of)


# --- boxes


def test_each_box_gets_a_mask(tmp_path):
    records = [
        box(7, 0.3, 20, 10, 20, 30),
        box(8, 0.9, 0, 0, 9, 9),
        box(7, 0.8, 40, 0, 10, 10),
        box(7, 0.5, 2, 4, 6, 8),
    ]
    found = proposed(BoxProposer(write(tmp_path / "b.json", records), HalfBoxes()))
    torch.testing.assert_close(found.quality, torch.tensor([0.8, 0.5, 0.3]))
    assert boxes_xywh(found.masks).tolist() == [[40, 0, 5, 10], [2, 4, 6, 8], [20, 10, 10, 30]]  # the 2nd: the box
    assert torch.equal(found.masks_lr, to_low_res(decode(found.masks)))


def test_the_best_k_boxes(tmp_path):
    records = [box(7, score, 20, 10, 20, 30) for score in (0.1, 0.9, 0.5)]
    found = proposed(BoxProposer(write(tmp_path / "b.json", records), HalfBoxes(), k=2))
    torch.testing.assert_close(found.quality, torch.tensor([0.9, 0.5]))


def test_boxes_are_clipped_and_those_outside_are_left_out(tmp_path):
    records = [box(7, 0.9, 60, 50, 40, 40), box(7, 0.8, 90, 0, 5, 5), box(7, 0.7, -10, -10, 5, 5)]
    found = proposed(BoxProposer(write(tmp_path / "b.json", records), HalfBoxes()))
    assert boxes_xywh(found.masks).tolist() == [[60, 50, 10, 10]]


def test_ids_in_another_spelling(tmp_path):
    proposer = BoxProposer(write(tmp_path / "b.json", [box("7", 0.5, 20, 0, 9, 9)]), HalfBoxes())
    assert len(proposed(proposer)) == len(proposed(proposer, target("7"))) == 1
    both = write(tmp_path / "c.json", [box("7", 0.5, 20, 0, 9, 9), box(7, 0.6, 20, 0, 9, 9)])
    assert proposed(BoxProposer(both, HalfBoxes())).quality.tolist() == [pytest.approx(0.6)]


def test_an_image_without_boxes_has_no_proposals(tmp_path, caplog):
    proposer = BoxProposer(write(tmp_path / "b.json", [box("photo.jpg", 0.5, 20, 0, 9, 9)]), HalfBoxes())
    for id_ in (1, 2):
        assert len(proposed(proposer, target(id_))) == 0
    assert len(proposed(BoxProposer(write(tmp_path / "e.json", []), HalfBoxes()))) == 0
    assert "b.json has no records of image 1; such images get no proposals" in caplog.text


def test_targets_without_records_are_counted(tmp_path, caplog):
    records = [box("./a/1.jpg", 0.5, 20, 0, 9, 9), box("2.jpg", 0.5, 20, 0, 9, 9)]
    boxes = BoxProposer(write(tmp_path / "b.json", records), HalfBoxes())
    for proposer in (boxes, FileProposer(write(tmp_path / "m.json", [r | {"segmentation": [1]} for r in records]))):
        for one in (proposer, UnionProposer({"a": RegionProposer(), "b": proposer})):
            with pytest.raises(RefexpError) as error:
                one.check([7, 8])
            says = "has no record of any target; its image ids are like a/1.jpg, the targets' like 7."
            assert str(error.value) == f"{proposer.file} {says}"
    caplog.clear()
    boxes.check(["a/1.jpg", "./2.jpg"])
    (tmp_path / "b.json").unlink()  # it is read once
    assert len(proposed(boxes, target("a/1.jpg"))) == 1 and not caplog.text
    boxes.check(["a/1.jpg", "3.jpg", "4.jpg"])
    assert len(proposed(boxes, target("3.jpg"))) == 0
    assert [r.message.split(" ", 1)[1] for r in caplog.records] == [
        "has no records of 2 of 3 images, first image 3.jpg; they get no proposals"
    ]
    with pytest.raises(RefexpError, match=r"e\.json has no record of any target; it is empty"):
        FileProposer(write(tmp_path / "e.json", [])).check([7])


def test_the_regions_make_masks_too(tmp_path):
    rgb = np.full((100, 200, 3), 40, dtype=np.uint8)
    rgb[20:70, 50:120] = (220, 60, 30)
    of = Target(1, rgb, to_square(rgb, 512))
    found = proposed(BoxProposer(write(tmp_path / "b.json", [box(1, 0.5, 50, 20, 70, 50)]), RegionProposer()), of)
    (mask,) = decode(found.masks)
    assert mask[20:70, 50:120].mean() > 0.9 and mask.sum() < 1.1 * 50 * 70


def test_references_with_boxes_only_get_their_masks_from_the_maker(tmp_path):
    proposer = BoxProposer(write(tmp_path / "b.json", []), HalfBoxes())
    proposer.load(CPU)
    (mask,) = proposer.masks_in_boxes(target(), torch.tensor([[20.0, 0, 40, 10]]))
    assert boxes_xywh([mask])[0].tolist() == [20, 0, 10, 10]


def test_the_maker_must_know_boxes(tmp_path):
    node = {"_target_": "refexp.proposers.boxes.BoxProposer", "file": write(tmp_path / "b.json", [])}
    with pytest.raises(RefexpError, match=r"masks: OracleProposer cannot make masks from boxes; choose SAM2"):
        build(node | {"masks": {"_target_": "refexp.proposers.oracle.OracleProposer"}}, "proposer")
    nobody, somebody = UnionProposer({"a": OracleProposer()}), UnionProposer({"a": OracleProposer(), "b": HalfBoxes()})
    with pytest.raises(ValueError, match="masks: UnionProposer cannot make masks from boxes"):
        BoxProposer(node["file"], nobody)
    assert nobody.mask_maker is None
    assert BoxProposer(node["file"], somebody).mask_maker is somebody.parts["b"]
    with pytest.raises(
        RefexpError, match=r"proposer\.masks\.image_size=9: input should be greater than or equal to 256"
    ):
        build(node | {"masks": {"_target_": "refexp.proposers.oracle.OracleProposer", "image_size": 9}}, "proposer")


GOOD = [box(1, 0.5, 0, 0, 9, 9), box(1, 0.4, 0, 0, 9, 9)]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (
            {"images": []},
            "is not a COCO results file; expected a list of records with image_id, score and bbox or mask.",
        ),
        (
            [3, *GOOD[:1], box(None, 1, 0, 0, 9, 9)],
            "2 of 3 annotations cannot be used: 1 is not a JSON object, first record 3; 1 has no image_id, "
            "first annotation 2. Fix the program that wrote this file, or the folder of its images.",
        ),
        ([box(1, 87.5, 0, 0, 9, 9)], "record 0 has the score 87.5; expected scores in [0, 1]."),
        (
            [{"image_id": 1, "bbox": [0, 0, 9, 9]}],
            "1 of 1 annotations cannot be used: 1 has no score, first annotation 0",
        ),
        ([box(1, 0.5, 0, 0, 9)], "1 has no bbox with an area, first annotation 0"),
        ([box(1, 0.5, 0, 0, 9, -1)], "1 has no bbox with an area, first annotation 0"),
        ([box(1, 0.5, 0, 0, "nine", 9)], "1 has no bbox with an area, first annotation 0"),
    ],
)
def test_malformed_boxes(records, says, tmp_path):
    proposer = BoxProposer(write(tmp_path / "b.json", records), HalfBoxes())
    with pytest.raises(RefexpError) as error:
        proposer.load(CPU)
    assert str(error.value).startswith(str(tmp_path / "b.json")) and says in str(error.value)
    assert "\n" not in str(error.value)


def test_single_bad_records_are_left_out_and_counted(tmp_path, caplog):
    proposer = BoxProposer(write(tmp_path / "b.json", [*GOOD, box(1, 0.5, 0, 0, 0, 9)]), HalfBoxes())
    assert len(proposed(proposer, target(1))) == 2
    assert "annotation left out: has no bbox with an area: 1, first: " in caplog.text


@pytest.mark.parametrize("text", ["", "[", "[{}]\n[{}]", "<html>", "[" * 5000])
def test_files_that_are_no_json(text, tmp_path):
    (tmp_path / "b.json").write_text(text)
    for proposer in (BoxProposer(str(tmp_path / "b.json"), HalfBoxes()), FileProposer(str(tmp_path / "b.json"))):
        with pytest.raises(RefexpError, match=r"b\.json (is|has several JSON values)"):
            proposer.load(CPU)


def test_a_missing_file_is_named_before_anything_is_loaded(tmp_path):
    for make in (lambda path: BoxProposer(path, HalfBoxes()), FileProposer):
        with pytest.raises(RefexpError, match=r"proposer\.file: no such file: .*none\.json"):
            make(str(tmp_path / "none.json"))


# --- masks


def test_masks_of_a_file(tmp_path):
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, 5:20, 10:30] = masks[1, 30:, 50:] = True  # the third is empty
    rles = encode(masks)
    polygon = [[10, 5, 30, 5, 30, 20, 10, 20]]
    records = [
        {"image_id": 7, "score": s, "segmentation": to_json(m)} for s, m in zip((0.2, 0.9, 0.8), rles, strict=True)
    ]
    records.append({"image_id": 7, "score": 0.6, "segmentation": polygon})
    found = proposed(FileProposer(write(tmp_path / "m.json", records), image_size=256))
    torch.testing.assert_close(found.quality, torch.tensor([0.9, 0.6, 0.2]))
    np.testing.assert_array_equal(decode(found.masks), masks[[1, 0, 0]])
    best = proposed(FileProposer(write(tmp_path / "m.json", records), k=1, image_size=256))
    assert best.masks == found.masks[:1]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (
            to_json(encode(np.ones((1, 9, 9), dtype=bool))[0]),
            "has an RLE mask of size [9, 9], but its image has [60, 80].",
        ),
        ({"size": list(SIZE), "counts": "~~"}, "has a broken RLE mask ('counts' cannot be decoded)."),
        ([[1, 2, "x", 4, 5, 6]], "has an invalid polygon; expected [x1, y1, x2, y2, x3, y3, ...]."),
        ("mask.png", "has a mask that is neither polygons nor RLE."),
    ],
)
def test_malformed_masks(mask, says, tmp_path):
    proposer = FileProposer(write(tmp_path / "m.json", [{"image_id": 7, "score": 1, "segmentation": mask}]))
    proposer.load(CPU)
    with pytest.raises(RefexpError) as error:
        proposer.propose(target())
    assert str(error.value) == f"{tmp_path / 'm.json'}: record 0 {says}"


# --- union


def test_a_union_has_the_proposals_of_all(tmp_path):
    boxes = BoxProposer(write(tmp_path / "b.json", [box(7, 0.5, 20, 0, 10, 10)]), HalfBoxes())
    masks = FileProposer(
        write(tmp_path / "m.json", [{"image_id": 7, "score": 0.75, "segmentation": [[0, 0, 9, 0, 9, 9]]}])
    )
    union = UnionProposer({"b": masks, "a": boxes, "c": HalfBoxes(), "d": None})
    assert union.image_size == 1024 and not union.sees_truth
    found = proposed(union)
    assert found.quality.tolist() == [0.5, 0.75, 0.25]  # by name
    alone = [proposed(part, target(side=part.image_size)) for part in (boxes, masks, HalfBoxes())]
    assert found.masks == [mask for part in alone for mask in part.masks]
    assert torch.equal(found.masks_lr, torch.cat([part.masks_lr for part in alone]))
    (mask,) = UnionProposer({"a": masks, "b": union}).masks_in_boxes(target(), torch.tensor([[20.0, 0, 40, 10]]))
    assert boxes_xywh([mask])[0].tolist() == [20, 0, 10, 10]


def test_a_union_without_box_masks_says_so(tmp_path):
    with pytest.raises(RefexpError, match="UnionProposer cannot make masks from boxes"):
        UnionProposer({"a": OracleProposer()}).masks_in_boxes(target(), torch.zeros(1, 4))
    assert UnionProposer({"a": OracleProposer(), "b": RegionProposer()}).sees_truth
    with pytest.raises(RefexpError, match="proposer: parts: at least one proposer is needed"):
        build({"_target_": "refexp.proposers.union.UnionProposer", "parts": {"a": None}}, "proposer")


def test_random_weights_of_a_part_mark_the_whole(tmp_path):
    boxes = BoxProposer(write(tmp_path / "b.json", []), HalfBoxes(weights="random"))
    assert boxes.provenance().kind == UnionProposer({"a": RegionProposer(), "b": boxes}).provenance().kind == "random"


# --- keys of the store


@pytest.fixture(scope="module")
def key_of():
    """`key_of(node)` -> the key of a target's proposals with this proposer. more: changes of the target's record.

    With `box=` a reference, the key of its mask.
    """
    small = ["dataset.targets=1", "dataset.references=8", "dataset.classes=[ladybird,leaf]"]
    experiment = build_experiment(compose_config(small))
    split = replace(experiment.dataset.load().targets, fingerprint=lambda record: "always the same pixels")
    record = next(iter(split.images.values()))

    def key(node, box=None, **more) -> str:
        settings, proposer = experiment.config | {"proposer": node}, build(node, "proposer")
        extractor = Extractor(experiment.encoder, proposer, experiment.store, settings, CPU, Clock())
        return extractor.box_key(split, box) if box else extractor.target_key(split, record | more, ())

    return key


def test_keys_hold_the_content_and_the_settings_of_the_parts(tmp_path, key_of):
    maker = {"_target_": f"{__name__}.HalfBoxes"}
    node = {"_target_": "refexp.proposers.boxes.BoxProposer", "file": write(tmp_path / "b.json", GOOD), "masks": maker}
    elsewhere = {"file": str(shutil.copy(tmp_path / "b.json", tmp_path / "elsewhere.json"))}
    same = [node, node | elsewhere, node | {"k": 100}, node | {"masks": maker | {"threads": 8, "margin": 0}}]
    assert len({key_of(one) for one in same}) == 1
    others = [
        node | {"file": write(tmp_path / "other.json", GOOD[:1])},
        node | {"k": 99},
        node | {"masks": maker | {"margin": 1}},
        node | {"masks": maker | {"weights": "b"}},
        node | {"masks": {"_target_": "refexp.proposers.regions.RegionProposer"}},
    ]
    union = {"_target_": "refexp.proposers.union.UnionProposer"}
    unions = [union | {"parts": {"a": one}} for one in (*same, *others)]
    assert len({key_of(one) for one in (*same, *others)}) == 1 + len(others)
    assert len({key_of(one) for one in unions}) == 1 + len(others)


def test_keys_hold_the_content_of_a_file_of_masks(tmp_path, key_of):
    def node(name, *records):
        return {"_target_": "refexp.proposers.file.FileProposer", "file": write(tmp_path / name, records)}

    assert key_of(node("a.json", *GOOD)) == key_of(node("b.json", *GOOD)) != key_of(node("c.json", *GOOD[:1]))


def test_keys_hold_the_id_of_the_image_where_the_proposals_depend_on_it(tmp_path, key_of):
    path = write(tmp_path / "b.json", GOOD)
    regions = {"_target_": "refexp.proposers.regions.RegionProposer"}
    masks = {"_target_": "refexp.proposers.file.FileProposer", "file": path}
    boxes = {"_target_": "refexp.proposers.boxes.BoxProposer", "file": path, "masks": regions}
    union = {"_target_": "refexp.proposers.union.UnionProposer"}
    with_file, without = union | {"parts": {"a": regions, "b": masks}}, union | {"parts": {"a": regions}}
    for node, distinct in ((masks, 2), (boxes, 2), (with_file, 2), (regions, 1), (without, 1)):
        assert len({key_of(node, id=1), key_of(node, id=2)}) == distinct


def test_keys_of_masks_of_boxes_hold_the_maker_alone(tmp_path, key_of):
    maker = {"_target_": f"{__name__}.HalfBoxes"}
    boxes = {"_target_": "refexp.proposers.boxes.BoxProposer", "masks": maker}
    node, other = (boxes | {"file": write(tmp_path / f"{len(r)}.json", r)} for r in (GOOD, GOOD[:1]))
    union = {"_target_": "refexp.proposers.union.UnionProposer"}
    oracle = {"_target_": "refexp.proposers.oracle.OracleProposer"}
    same = [maker, node, other, node | {"k": 9}, node | {"masks": maker | {"threads": 8}}]
    same.append(union | {"parts": {"a": oracle, "b": other, "c": None}})
    others = [node | {"masks": maker | more} for more in ({"margin": 1}, {"weights": "b"})]
    box = Reference(1, 1, 0, (1.0, 2.0, 30.0, 40.0), None)
    assert len({key_of(one, box) for one in same}) == 1
    assert len({key_of(one, box) for one in (*same, *others, oracle)}) == 4


# --- runs


def test_runs_from_files(folder, configure, tmp_path):
    """The annotated masks, then these and the annotated boxes together."""
    shapes = {image["id"]: (image["height"], image["width"]) for image in folder.targets["images"]}
    boxes = [box(a["image_id"], 0.9, *a["bbox"]) for a in folder.targets["annotations"]]
    masks = [
        {"image_id": a["image_id"], "score": 0.9, "segmentation": to_json(annotation_rle(a, *shapes[a["image_id"]]))}
        for a in folder.targets["annotations"]
    ]
    common = [one for one in folder.overrides() if not one.startswith("proposer=")]
    of_boxes, of_masks = write(tmp_path / "boxes (1).json", boxes), write(tmp_path / "masks.json", masks)
    both = ["proposer=union", "~proposer.parts.regions", "+proposer@proposer.parts.boxes=boxes"]
    both += ["+proposer@proposer.parts.masks=file", f"proposer.parts.boxes.file={of_boxes}"]
    proposers = {
        "masks": ["proposer=file", f"proposer.file={of_masks}"],
        "both": [*both, f"proposer.parts.masks.file={of_masks}"],
    }
    quick = ["vis.limit=0", "vis.report=false", "evaluation.diagnostics=false"]
    for name, proposer in proposers.items():
        assert run(configure(*common, *proposer, *quick), tmp_path / name)["segm/nAP50"] > 0.5
    origins = [
        json.loads((tmp_path / name / "metrics.json").read_text())["weights"]["proposer"]["origin"]
        for name in proposers
    ]
    assert origins == ["masks of masks.json", "boxes of boxes (1).json + masks of masks.json"]


def test_a_run_refuses_a_file_of_other_images_before_it_computes(folder, configure, tmp_path, monkeypatch):
    monkeypatch.setattr("refexp.encoders.efficientnet.EfficientNetLite0.load", lambda *_: pytest.fail("too late"))
    path = write(tmp_path / "boxes.json", [box(99, 0.5, 1, 2, 3, 4)])
    common = [one for one in folder.overrides() if not one.startswith("proposer=")]
    config = configure(*common, "proposer=boxes", "proposer@proposer.masks=regions", f"proposer.file={path}")
    with pytest.raises(RefexpError, match=r"boxes\.json has no record of any target; its image ids are like 99, "):
        run(config, tmp_path / "run")


def test_the_recipe_of_fsod_vfm_composes():
    plain = resolve(compose_config(["experiment=fsod_vfm", "boxes=my boxes (1).json"]))
    assert plain["proposer"]["file"] == "my boxes (1).json"
    assert plain["proposer"]["masks"]["model"] == "sam2.1_hiera_l"
    assert list(plain["postprocess"]) == ["sort", "diffusion", "topk"]
    with pytest.raises(RefexpError, match=r"boxes must be given: boxes=\.\.\."):
        resolve(compose_config(["experiment=fsod_vfm"]))
