"""A whole run, as a person starts it: what it prints, what it leaves, how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from PIL import Image
from pycocotools import mask as coco_mask
from runs import run

from refexp.config.components import build_experiment
from refexp.experiment.prepare import warn_without_effect


@pytest.fixture(scope="module")
def finished(tmp_path_factory, drawn):
    """The contract's command, run once as a process."""
    import subprocess
    import sys

    from conftest import ROOT, Folder

    root = tmp_path_factory.mktemp("run")
    folder = Folder(root / "data", drawn)
    output = root / "out"
    process = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *folder.overrides(output), "vis.limit=2", "vis.score_threshold=0"],
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return process, folder, output


def test_exit_code_and_table(finished):
    process, _, output = finished
    assert process.returncode == 0, process.stderr
    assert "nAP50" in process.stdout
    assert "targets.json: 2 classes, 1 shot, seed 0, 4 images" in process.stdout.replace("\n", "")
    assert "ladybird" in process.stdout
    assert f"results in {output}" in process.stdout.replace("\n", "")


def test_metrics_file(finished):
    _, folder, output = finished
    content = json.loads((output / "metrics.json").read_text())
    metrics = content["metrics"]
    for kind in ("bbox", "segm"):
        for name in ("nAP", "nAP50", "nAP75", "nAP/ladybird", "nAP/leaf"):
            assert 0 <= metrics[f"{kind}/{name}"] <= 1
    assert metrics["segm/nAP50"] > 0.3  # true masks, real weights, two classes
    assert content["seed"] == 0
    assert content["classes"] == ["ladybird", "leaf"]
    assert content["images"] == 4
    assert "ImageNet" in content["weights"]["encoder"]["origin"]
    assert content["stages"]["extract"]["items"] == 4
    assert content["peak_memory_mib"]["process"] > 0
    assert {"torch", "refexp", "python"} <= set(content["versions"])


def test_detections_file(finished):
    _, folder, output = finished
    detections = json.loads((output / "detections.json").read_text())
    assert detections
    sizes = {i["id"]: [i["height"], i["width"]] for i in folder.targets["images"]}
    for found in detections:
        assert set(found) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert found["segmentation"]["size"] == sizes[found["image_id"]]
        assert found["bbox"] == coco_mask.toBbox(found["segmentation"]).tolist()
        assert 0 < found["score"] <= 1


def test_references_file_repeats_the_run(finished, configure, tmp_path):
    _, folder, output = finished
    references = json.loads((output / "references.json").read_text())
    assert {"images", "annotations", "categories"} <= set(references)
    overrides = [o for o in folder.overrides() if not o.startswith("seed")]
    again = run(
        configure(*overrides, "seed=7", "sampler=file", f"sampler.path={output / 'references.json'}", "vis.limit=0"),
        tmp_path / "again",
    )
    assert again == json.loads((output / "metrics.json").read_text())["metrics"]
    assert (tmp_path / "again/detections.json").read_bytes() == (output / "detections.json").read_bytes()


def test_overlays(finished):
    _, _, output = finished
    pictures = sorted(path.name for path in (output / "overlays").iterdir())
    assert pictures == ["1.jpg", "4.jpg", "references.jpg"]
    assert np.asarray(Image.open(output / "overlays/1.jpg")).std() > 10
    assert (output / "config.yaml").is_file()
    assert (output / "run.log").is_file()


def test_string_ids_and_class_order(configure, folder, tmp_path):
    plain = run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "plain")
    for content in folder.content.values():
        for image in content["images"]:
            image["id"] = f"image/{image['id']}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"image/{annotation['image_id']}"
            annotation["category_id"] = {1: 17, 2: 4}[annotation["category_id"]]
        content["categories"] = [{"id": 17, "name": "ladybird"}, {"id": 4, "name": "leaf"}]
    folder.save()
    renamed = run(
        configure(*folder.overrides(), "dataset.classes=[leaf,ladybird]", "vis.limit=1"), tmp_path / "renamed"
    )
    assert renamed == pytest.approx(plain)
    found = json.loads((tmp_path / "renamed/detections.json").read_text())
    assert {f["category_id"] for f in found} <= {17, 4}
    assert all(str(f["image_id"]).startswith("image/") for f in found)
    assert (tmp_path / "renamed/overlays/image/1.jpg").is_file()


def test_random_weights_are_said_everywhere(configure, folder, tmp_path, capsys):
    run(configure(*folder.overrides(), "weights=random", "vis.limit=1"), tmp_path / "out")
    assert "RANDOM WEIGHTS" in capsys.readouterr().out
    assert "RANDOM" in (tmp_path / "out/WEIGHTS.txt").read_text()
    assert "RANDOM" in json.loads((tmp_path / "out/metrics.json").read_text())["weights"]["encoder"]["origin"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["precision=bfloat16"], ["precision=bfloat16 has no effect: the encoder and the proposer ignore it"]),
        (["precision=bfloat16", "experiment=paper"], []),
        (["precision=tf32", "experiment=paper"], ["precision=tf32: cpu does not support TF32 and computes in float32"]),
    ],
)
def test_a_key_without_effect_is_said(overrides, said, configure, caplog):
    warn_without_effect(OmegaConf.to_container(configure(*overrides), resolve=True), torch.device("cpu"))
    assert caplog.messages == said


def test_left_out_classes_are_named(configure, folder, tmp_path, capsys):
    folder.references["annotations"] = [a for a in folder.references["annotations"] if a["category_id"] == 1]
    folder.save()
    run(configure(*folder.overrides(), "shots.missing=drop", "vis.limit=0"), tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["classes"] == ["ladybird"]
    assert content["classes_left_out"] == ["leaf"]
    assert "1 class (1 left out)" in capsys.readouterr().out
    assert "segm/nAP/leaf" not in content["metrics"]


@pytest.mark.parametrize("recipe", [path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")])
def test_every_recipe_composes(recipe, configure, tmp_path):
    (tmp_path / "boxes.json").write_text("[]")
    boxes = [f"boxes={tmp_path / 'boxes.json'}"] if recipe == "fsod_vfm" else []
    config = configure(f"experiment={recipe}", f"data_root={tmp_path}", *boxes)
    assert config.name == recipe
    config.weights = "random"
    for key in ("images", "reference_images"):
        if config.dataset.get(key):
            Path(config.dataset[key]).mkdir(parents=True, exist_ok=True)
    build_experiment(config)


def test_embedded_default_needs_nothing(configure, tmp_path):
    """`python main.py` in small: synthetic images, regions, real ImageNet weights."""
    metrics = run(configure("shots=1", "dataset.references=24", "dataset.targets=2", "vis.limit=0"), tmp_path)
    assert metrics["segm/nAP50"] > 0


def test_multirun_gives_each_job_its_folder(command, folder, tmp_path):
    process = command(
        "-m", *[o for o in folder.overrides() if not o.startswith(("shots", "seed"))],
        "shots=1,2", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}", "vis.limit=0",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    runs = [json.loads((tmp_path / f"sweep/{job}/metrics.json").read_text()) for job in range(4)]
    assert [(r["shots"], r["seed"]) for r in runs] == [(1, 0), (1, 1), (2, 0), (2, 1)]


MISTAKES = {
    "typo in a key": (["encoder.inputsize=3"], "encoder.inputsize"),
    "typo in a top-level key": (["sede=3"], "sede"),
    "unknown option": (["proposer=sam3"], "sam2_hiera_l"),
    "no such shots": (["shots=7"], "shots=custom shots.n=7"),
    "impossible number": (["postprocess.nms.iou_threshold=2"], "postprocess.nms.iou_threshold=2"),
    "impossible choice": (["shots.missing=maybe"], "'error', 'drop', 'repeat' or 'keep'"),
    "word for a number": (["seed=abc"], "seed='abc'"),
    "not given": (["dataset=custom"], "dataset.images"),
    "a part removed": (["~matcher"], "matcher=None: expected a mapping"),
    "a part emptied": (["vis=null"], "vis=None: expected a mapping"),
    "a number for a step": (["postprocess.nms=3"], "postprocess.nms=3: expected a mapping"),
    "missing checkpoint": (["encoder=dinov2_vitl14"], "dinov2_vitl14_pretrain.pth"),
    "missing SAM2": (["proposer=sam2_hiera_l"], "segment_anything_2/072824/sam2_hiera_large.pt"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake, command):
    overrides, expected = MISTAKES[mistake]
    process = command(*overrides)
    assert process.returncode == 1
    assert expected in process.stderr + process.stdout
    assert "Traceback" not in process.stderr + process.stdout
    lines = [line for line in (process.stderr + process.stdout).splitlines() if line.strip()]
    assert len(lines) <= 2, lines


def test_help_lists_groups_and_keys(command):
    process = command("--help")
    assert process.returncode == 0
    for word in ("artaxor, clipart1k, coco", "shots.missing", "seed", "sam2.1_hiera_b+"):
        assert word in process.stdout


@pytest.mark.parametrize("mistake", ["encoder=dino", "shots=7", "matcher=prototyp"])
def test_an_unknown_option_names_the_choices(command, mistake):
    done = command(mistake)
    assert done.returncode == 1
    assert f"{mistake}: no such option." in done.stderr and "Choices: " in done.stderr
