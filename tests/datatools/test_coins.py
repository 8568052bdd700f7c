"""The photograph of coins that `make demo` ends with: three references, and what refexp finds with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from pycocotools import mask as coco_masks
from runs import refexp

from refexp.datatools.coins import write_coins


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coins")
    write_coins(folder)
    return folder


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_three_references_each_with_the_mask_of_one_coin(folder):
    names = sorted(path.name for path in (folder / "refs/coin").iterdir())
    assert names == ["1.png", "1_mask.png", "2.png", "2_mask.png", "3.png", "3_mask.png"]
    for number in (1, 2, 3):
        picture = np.asarray(Image.open(folder / f"refs/coin/{number}.png"), dtype=float)
        mask = np.asarray(Image.open(folder / f"refs/coin/{number}_mask.png")) > 0
        assert picture.shape == mask.shape == (84, 84)
        assert 0.15 < mask.mean() < 0.3
        assert picture[mask].mean() > picture[~mask].mean() + 40
        rows, columns = np.nonzero(mask)
        assert abs(columns.mean() - 42) < 4 and 0 < rows.min() < rows.max() < 83


def test_eighteen_coins_are_annotated(folder):
    content = read_json(folder / "photo.json")
    masks = [annotation["segmentation"] for annotation in content["annotations"]]
    assert Image.open(folder / "photo.jpg").size == (768, 438)
    assert len(masks) == 18
    overlaps = coco_masks.iou(masks, masks, [0] * 18)
    assert (overlaps - np.eye(18)).max() == 0
    assert all(3000 < annotation["area"] < 14000 for annotation in content["annotations"])


def test_most_coins_are_found_and_nothing_else(folder, tmp_path):
    """13 of 18 with scikit-image 0.26 and PyTorch 2.14; the floor leaves room for other versions of both."""
    command = [sys.executable, "-m", "refexp", "predict", "masks=true", f"references={folder / 'refs'}"]
    command += [
        f"images={folder / 'photo.jpg'}",
        f"store.dir={tmp_path / 'store'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    detections = [d for d in read_json(tmp_path / "run/detections.json") if d["score"] >= 0.5]
    coins = [annotation["segmentation"] for annotation in read_json(folder / "photo.json")["annotations"]]
    hits = coco_masks.iou([d["segmentation"] for d in detections], coins, [0] * len(coins)) >= 0.5
    assert hits.any(axis=1).all(), "a detection that is not a coin"
    assert hits.any(axis=0).sum() >= 11
    assert len(list((tmp_path / "run/masks").rglob("*.png"))) == len(detections)
    assert (tmp_path / "run/overlays/photo.jpg").is_file()
    assert (tmp_path / "run/report.html").is_file()


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    assert refexp("data", "coins", tmp_path / "coins") == 0
    assert "18 coins" in capsys.readouterr().out
    assert (tmp_path / "coins/refs/coin/3_mask.png").is_file()
