"""Whole runs on photographs; skipped, and said so, where the real sets are missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT
from runs import run
from weights import save_dinov2, save_sam2

DATA = Path(os.environ.get("REFEXP_REAL_DATA", ROOT.parent / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (DATA / "microcontrollers").is_dir(),
    reason=f"REAL IMAGES MISSING: no {DATA}/microcontrollers; REFEXP_REAL_DATA names the folder that holds it",
)


def overrides(name: str, tmp_path: Path, images: int | None = None) -> list[str]:
    """The contract's keys for a real set, its targets cut to the first `images`."""
    folder = DATA / name
    targets = json.loads((folder / "annotations/val.json").read_text())
    targets["images"] = targets["images"][:images]
    kept = {image["id"] for image in targets["images"]}
    targets["annotations"] = [a for a in targets["annotations"] if a["image_id"] in kept]
    (tmp_path / "targets.json").write_text(json.dumps(targets))
    return [
        "dataset=custom",
        f"dataset.images={folder / 'images'}",
        f"dataset.references={folder / 'annotations/train.json'}",
        f"dataset.targets={tmp_path / 'targets.json'}",
        "seed=0",
    ]


@pytest.mark.parametrize(("name", "better"), [("microcontrollers", 0.2), ("coco_mini_a", 0.1)])
def test_pretrained_encoder_beats_chance(name, better, configure, tmp_path):
    common = [*overrides(name, tmp_path), "proposer=oracle", "shots=3", "shots.missing=drop", "vis.limit=0"]
    real = run(configure(*common), tmp_path / "real")
    chance = run(configure(*common, "matcher=shuffled"), tmp_path / "chance")
    assert real["segm/nAP50"] > chance["segm/nAP50"] + better


def test_regions_on_photographs(configure, tmp_path):
    common = [*overrides("microcontrollers", tmp_path, images=12), "shots=5", "vis.limit=1"]
    metrics = run(configure(*common), tmp_path / "out")
    assert metrics["segm/nAP50"] > 0.1
    assert len(list((tmp_path / "out/overlays").iterdir())) == 2


def test_sam2_and_dinov2_small(configure, tmp_path):
    run_official_layout(configure, tmp_path, "sam2_hiera_t", "vits14", images=1, points=6)


@pytest.mark.slow
def test_sam2_and_dinov2_small_on_three_images(configure, tmp_path):
    run_official_layout(configure, tmp_path, "sam2_hiera_t", "vits14", images=3, points=32)


@pytest.mark.slow
def test_sam2_and_dinov2_large(configure, tmp_path):
    run_official_layout(configure, tmp_path, "sam2_hiera_l", "vitl14", images=1, points=32)


def run_official_layout(configure, tmp_path, sam2: str, dinov2: str, images: int, points: int) -> None:
    """Seeded random weights, saved as the official files are, through the whole experiment."""
    weights = tmp_path / "weights"
    weights.mkdir()
    save_sam2(sam2, weights)
    save_dinov2(dinov2, weights)
    common = [*overrides("microcontrollers", tmp_path, images), "shots=1", f"checkpoints.dir={weights}"]
    networks = [f"encoder=dinov2_{dinov2}", f"proposer={sam2}", f"proposer.points_per_side={points}"]
    metrics = run(configure(*common, *networks, "vis.limit=1"), tmp_path / "out")
    assert 0 <= metrics["segm/nAP"] <= 1
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    assert "UNOFFICIAL" in (tmp_path / "out/WEIGHTS.txt").read_text()
    assert all("UNOFFICIAL" in weights["origin"] for weights in content["weights"].values())
