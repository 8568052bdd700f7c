"""refexp data boxes2masks, with SAM2's smallest network and random weights, and with regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import refexp

from refexp.data.coco import annotation_rle, read_coco
from refexp.datatools.draw import write_folder
from refexp.masks import areas, decode
from refexp.proposers.base import Proposer


@pytest.fixture
def boxes(tmp_path) -> Path:
    """Three drawn photographs: the first annotation with its mask, all others with boxes only."""
    write_folder(tmp_path, ["ladybird", "leaf"], references=1, photos=3, seed=0)
    content = json.loads((tmp_path / "photos.json").read_text())
    for annotation in content["annotations"][1:]:
        annotation["segmentation"] = []
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return tmp_path


def data(*arguments: object) -> int:
    return refexp("data", *arguments)


def run(boxes: Path, *more: str) -> int:
    arguments = [boxes / "boxes.json", "--images", boxes / "photos", "--out", boxes / "out/masks.json"]
    return data("boxes2masks", *arguments, *more)


def test_sam2_answers_every_box(boxes, capsys):
    overlays = boxes / "overlays"
    sam2 = ("--proposer", "sam2_hiera_t", "--weights", "random", "--overlays", str(overlays))
    assert run(boxes, *sam2) == 0
    said = capsys.readouterr()
    assert "RANDOM WEIGHTS" in said.err and "masks.json: 3 images" in said.out
    before, after = (json.loads((boxes / name).read_text()) for name in ("boxes.json", "out/masks.json"))
    images = {image["id"]: image for image in after["images"]}
    assert after["annotations"][0] == before["annotations"][0]
    for old, new in zip(before["annotations"], after["annotations"], strict=True):
        assert {key: new[key] for key in old if key != "segmentation"} == {
            k: old[k] for k in old if k != "segmentation"
        }
        image = images[new["image_id"]]
        (mask,) = decode([annotation_rle(new, image["height"], image["width"])])
        assert mask.shape == (image["height"], image["width"]) and mask.any()
    made = len(after["annotations"]) - 1
    assert after["info"]["boxes2masks"] == f"{made} masks made of boxes by SAM2Proposer, weights: RANDOM weights"
    assert sorted(path.name for path in overlays.iterdir()) == [f"scene_{i:02d}.jpg" for i in (1, 2, 3)]
    assert np.asarray(Image.open(overlays / "scene_01.jpg")).std() > 5
    assert len(list((boxes / "out").iterdir())) == 1


def test_masks_belong_to_their_boxes(boxes):
    """Regions agree with drawn things: each made mask lies over the true one of the same annotation."""
    assert run(boxes, "--proposer", "regions") == 0
    truth = {a["id"]: a for a in read_coco(boxes / "photos.json")["annotations"]}
    content = read_coco(boxes / "out/masks.json")
    images = {image["id"]: image for image in content["images"]}
    overlaps = []
    for annotation in content["annotations"]:
        size = [images[annotation["image_id"]][side] for side in ("height", "width")]
        one, other = decode([annotation_rle(a, *size) for a in (annotation, truth[annotation["id"]])])
        overlaps.append((one & other).sum() / (one | other).sum())
    assert min(overlaps) > 0.1 and np.median(overlaps) > 0.75, overlaps


def test_one_call_an_image_and_a_box_where_there_is_no_mask(boxes, monkeypatch, caplog):
    from refexp.proposers.regions import RegionProposer

    calls = []

    def nothing(self: Proposer, target, corners: torch.Tensor):
        calls.append((target.id, len(corners)))
        empty = np.zeros((len(corners), *target.size), dtype=bool)
        from refexp.masks import encode

        return encode(empty)

    monkeypatch.setattr(RegionProposer, "masks_in_boxes", nothing)
    assert run(boxes, "--proposer", "regions") == 0
    content = read_coco(boxes / "out/masks.json")
    assert [id_ for id_, _ in calls] == [1, 2, 3] and sum(n for _, n in calls) == len(content["annotations"]) - 1
    second = content["annotations"][1]
    image = content["images"][second["image_id"] - 1]
    (area,) = areas([annotation_rle(second, image["height"], image["width"])])
    assert area == second["bbox"][2] * second["bbox"][3]
    assert f"no mask in the box of annotation {second['id']}; the box serves" in caplog.text


def remove_image(boxes):
    (boxes / "photos/scene_02.jpg").unlink()


def fill_all(boxes):
    (boxes / "boxes.json").write_text((boxes / "photos.json").read_text())


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (remove_image, ["--proposer", "regions"], "first scene_02.jpg"),
        (fill_all, ["--proposer", "regions"], "every annotation already has a mask"),
        (None, ["--proposer", "oracle"], "OracleProposer cannot make masks from boxes"),
        (None, ["--proposer", "sam3"], "proposer=sam3: no such option"),
        (None, ["--checkpoints", "no weights, here"], "no weights, here/sam2_hiera_large.pt"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(boxes, spoil, more, message, capsys):
    if spoil:
        spoil(boxes)
    assert run(boxes, *more) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1
    assert not (boxes / "out").exists()


def test_synthetic_folder(tmp_path, capsys):
    assert data("synthetic", tmp_path / "a", "--classes", "beach ball", "leaf", "--references", 2) == 0
    assert "SYNTHETIC: 8 photos of beach ball, leaf" in capsys.readouterr().out
    assert "SYNTHETIC" in (tmp_path / "a/SYNTHETIC.txt").read_text()
    names = sorted(path.name for path in (tmp_path / "a/refs/beach ball").iterdir())
    assert names == ["1.png", "1_mask.png", "2.png", "2_mask.png"]
    content = read_coco(tmp_path / "a/photos.json")
    for image in content["images"]:
        assert Image.open(tmp_path / "a/photos" / image["file_name"]).size == (image["width"], image["height"])
    assert data("synthetic", tmp_path / "b", "--classes", "laef") == 1
    assert "unknown class 'laef'. Did you mean 'leaf'" in capsys.readouterr().err
