"""task=predict: a folder of photographs and references as people have them; and the tutorial, as written."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from runs import outputs, ranks, run

import refexp.data.custom
from refexp.config.components import build_experiment
from refexp.data.folder import FolderDataset, read_reference_mask
from refexp.datatools.draw import write_folder
from refexp.errors import RefexpError
from refexp.experiment.prepare import readable_targets
from refexp.folders.run_folder import RunFolder
from refexp.inputs.images import upright_size
from refexp.inputs.repairs import Repairs
from refexp.machine.provenance import Clock
from refexp.machine.ranks import Ranks
from refexp.masks import decode
from refexp.method.extraction import Extractor
from refexp.rank import Rank

NAMES = ["ladybird", "leaf"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in the processes started here: with another number of threads last digits may differ (docs/scaling.md)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_folder(folder, NAMES, references=2, photos=3, seed=0)
    (folder / "photos/more").mkdir()
    (folder / "photos/scene_03.jpg").rename(folder / "photos/more/scene_03.jpg")
    return folder


@pytest.fixture
def scenes(drawn_folder, tmp_path) -> Path:
    """References and photographs that a test may spoil."""
    shutil.copytree(drawn_folder, tmp_path / "scenes")
    return tmp_path / "scenes"


def overrides(scenes: Path, *more: str) -> list[str]:
    return ["task=predict", f"references={scenes / 'refs'}", f"images={scenes / 'photos'}", *more]


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def coco_references(scenes: Path) -> dict:
    """The references as an annotation tool would export them."""
    data = FolderDataset(str(scenes / "photos"), str(scenes / "refs")).load()
    categories = data.references.categories(data.classes)
    images, annotations = list(data.references.images.values()), data.references.annotations
    return json.loads(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


# --- what a run leaves


@pytest.fixture(scope="module")
def finished(drawn_folder, tmp_path_factory):
    """One run as a process, with all it can write."""
    root = tmp_path_factory.mktemp("predict")
    process = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *overrides(drawn_folder, "masks=true", "vis.score_threshold=0.4"),
         "runtime.threads=1", f"hydra.run.dir={root / 'out'}"],
        cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process, root / "out"


def test_detections_are_coco_results_by_file_name(finished):
    _, output = finished
    found = read_json(output / "detections.json")
    assert {f["image_id"] for f in found} == {"scene_01.jpg", "scene_02.jpg", "more/scene_03.jpg"}
    assert {f["category_id"] for f in found} == {1, 2}
    categories = read_json(output / "references.json")["categories"]
    assert categories == [{"id": 1, "name": "ladybird"}, {"id": 2, "name": "leaf"}]
    assert read_json(output / "metrics.json")["metrics"] == {}
    assert read_json(output / "metrics.json")["references"] == {"ladybird": 2, "leaf": 2}


def test_the_summary_lists_what_passes_the_threshold(finished):
    process, output = finished
    every = read_json(output / "detections.json")
    passed = [f for f in every if f["score"] >= 0.4]
    rows = list(csv.DictReader((output / "summary.csv").open()))
    assert 0 < len(rows) == len(passed) < len(every)
    for row, found in zip(rows, passed, strict=True):
        assert row["image"] == found["image_id"] and row["class"] == NAMES[found["category_id"] - 1]
        assert [float(row[side]) for side in ("x", "y", "width", "height")] == found["bbox"]
        assert float(row["score"]) == pytest.approx(found["score"], abs=1e-4)
        rle = found["segmentation"] | {"counts": found["segmentation"]["counts"].encode()}
        assert int(row["area"]) == decode([rle]).sum()
    best = [row for row in rows if row["number"] == "1"]
    assert len(best) == len({row["image"] for row in rows})
    ladybirds = sum(row["class"] == "ladybird" for row in rows)
    assert re.search(rf"ladybird\W+2\W+{ladybirds}\W", process.stdout)


def test_masks_are_those_of_the_summary(finished):
    _, output = finished
    rows = list(csv.DictReader((output / "summary.csv").open()))
    expected = {f"{row['image']}/{int(row['number']):03d}_{row['class']}.png": int(row["area"]) for row in rows}
    written = {path.relative_to(output / "masks").as_posix() for path in (output / "masks").rglob("*.png")}
    assert written == set(expected)
    for name, area in expected.items():
        picture = np.asarray(Image.open(output / "masks" / name))
        assert set(np.unique(picture)) == {0, 255} and (picture == 255).sum() == area


def test_overlays_of_all_images_show_the_prediction_alone(finished, drawn_folder):
    _, output = finished
    names = ["more/scene_03.jpg", "references.jpg", "scene_01.jpg", "scene_02.jpg"]
    assert sorted(p.relative_to(output / "overlays").as_posix() for p in (output / "overlays").rglob("*.jpg")) == names
    photo = Image.open(drawn_folder / "photos/scene_01.jpg")
    scale = 720 / max(photo.size)
    overlay = Image.open(output / "overlays/scene_01.jpg")
    assert overlay.size == (round(photo.width * scale), round(photo.height * scale) + 24)


def test_ranks_and_stages_find_the_same(finished, drawn_folder, tmp_path):
    expected = (finished[1] / "detections.json").read_bytes()
    folders = [f"store.dir={tmp_path / 'store'}", "vis.limit=0", "runtime.threads=1"]
    processes = ranks(2, overrides(drawn_folder, *folders, f"hydra.run.dir={tmp_path / 'two'}"), tmp_path)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert (tmp_path / "two/detections.json").read_bytes() == expected


def test_extract_then_ablate(finished, configure, drawn_folder, tmp_path):
    with pytest.raises(RefexpError, match=r"stage=ablate: .* is not in the store"):
        run(configure(*overrides(drawn_folder, "stage=ablate")), tmp_path / "early")
    assert run(configure(*overrides(drawn_folder, "stage=extract")), tmp_path / "extract") == {}
    assert not (tmp_path / "extract/summary.csv").exists()
    run(configure(*overrides(drawn_folder, "stage=ablate", "summary=json", "vis.limit=1")), tmp_path / "ablate")
    assert (tmp_path / "ablate/detections.json").read_bytes() == (finished[1] / "detections.json").read_bytes()
    rows = read_json(tmp_path / "ablate/summary.json")
    assert rows and all(row["score"] >= 0.5 and len(row["box"]) == 4 for row in rows)
    assert len(list((tmp_path / "ablate/overlays").iterdir())) == 2
    assert not (tmp_path / "ablate/summary.csv").exists() and not (tmp_path / "ablate/masks").exists()


def test_what_an_earlier_run_left_in_the_folder_goes(finished, configure, drawn_folder, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished[1], output)
    own = ["notes.txt", "overlays/own.png", "masks/photo.jpg/own.png"]
    for name in own:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("mine")
    run(configure(*overrides(drawn_folder, "vis.limit=0", "vis.report=false", "summary=null")), output)
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    left = {name for name in files if not name.startswith((".hydra/", "run.log", "status.json", "progress.csv"))}
    assert left == {*own, "config.yaml", "references.json", "detections.json", "metrics.json", "per_image.csv"}
    (output / "references.json").unlink()  # no folder of a run
    RunFolder(output).begin({}, {}, None)
    assert (output / "metrics.json").exists()


def test_what_a_run_left_is_not_searched(finished, scenes):
    """Neither in a folder among the photographs, nor if the photographs' own folder is the run's."""
    for output in (scenes / "photos/found", scenes / "photos"):
        shutil.copytree(finished[1], output, dirs_exist_ok=True)
        data = FolderDataset(str(scenes / "photos"), str(scenes / "refs")).load()
        assert list(data.targets.images) == ["more/scene_03.jpg", "scene_01.jpg", "scene_02.jpg"]


def test_it_finds_what_an_evaluation_of_the_same_references_finds(finished, configure, scenes, tmp_path):
    """The same references and photographs as annotated data, all references taken."""
    targets = read_json(scenes / "photos.json")
    targets["images"][2]["file_name"] = "more/scene_03.jpg"
    (scenes / "photos.json").write_text(json.dumps(targets))
    keys = {"images": scenes / "photos", "targets": scenes / "photos.json"}
    keys |= {"references": finished[1] / "references.json", "reference_images": scenes / "refs"}
    data = [f"dataset.{key}={path}" for key, path in keys.items()]
    steps = "postprocess=one_class"  # as the task has them
    metrics = run(configure("dataset=custom", *data, "sampler=all", steps, "vis.limit=0"), tmp_path / "out")
    assert metrics["segm/nAP50"] > 0.2
    assert read_json(tmp_path / "out/metrics.json")["shots"] == "all"
    evaluated, predicted = (read_json(folder / "detections.json") for folder in (tmp_path / "out", finished[1]))
    names = {image["id"]: image["file_name"] for image in targets["images"]}
    renamed = [row | {"image_id": names[row["image_id"]]} for row in evaluated]
    assert sorted(renamed, key=lambda row: row["image_id"]) == predicted


# --- references


def test_references_with_an_alpha_channel_or_a_mask(scenes, tmp_path):
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:50] = True
    rgb = np.full((40, 60, 3), 90, dtype=np.uint8)
    Image.fromarray(np.dstack([rgb, mask * 255]).astype(np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(rgb).save(tmp_path / "photo.jpg")
    kinds = {"L": mask * 1, "1": mask, "RGB": np.dstack([mask * 7] * 3), "RGBA": np.dstack([rgb, mask * 255])}
    np.testing.assert_array_equal(read_reference_mask(tmp_path / "alpha.png", None), mask)
    for mode, values in kinds.items():
        picture = Image.fromarray(values if mode == "1" else values.astype(np.uint8))
        assert picture.mode == mode
        picture.save(tmp_path / "photo_mask.png")
        np.testing.assert_array_equal(read_reference_mask(tmp_path / "photo.jpg", tmp_path / "photo_mask.png"), mask)
    for first in (0, 1):  # of a palette the number of a colour says nothing: black may come first or last
        picture = Image.fromarray((mask ^ bool(first)).astype(np.uint8), mode="P")
        picture.putpalette([0, 0, 0, 250, 250, 250] if not first else [250, 250, 250, 0, 0, 0])
        picture.save(tmp_path / "photo_mask.png")
        np.testing.assert_array_equal(read_reference_mask(tmp_path / "photo.jpg", tmp_path / "photo_mask.png"), mask)
    # A mask file goes before the alpha channel.
    Image.fromarray(np.ones((40, 60), dtype=np.uint8)).save(tmp_path / "alpha_mask.png")
    assert read_reference_mask(tmp_path / "alpha.png", tmp_path / "alpha_mask.png").all()


def test_a_turned_photograph_and_its_upright_mask(scenes):
    path = scenes / "refs/leaf/9.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    mask = np.zeros((60, 40), dtype=np.uint8)
    mask[5:20, 10:30] = 1
    Image.fromarray(mask).save(path.with_name("9_mask.png"))
    data = FolderDataset(str(scenes / "photos"), str(scenes / "refs")).load()
    (annotation,) = (a for a in data.references.annotations if a["id"] == "leaf/9.jpg")
    assert annotation["bbox"] == [10, 5, 20, 15]
    assert data.references.read(data.references.images["leaf/9.jpg"]).shape == (60, 40, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_every_format_is_read_upright(suffix, orientation, tmp_path, scenes):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"in/deep/photo{suffix}"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    data = FolderDataset(str(tmp_path / "in"), str(scenes / "refs")).load()
    (record,) = data.targets.images.values()
    turned = orientation == 6 and suffix != ".bmp"
    assert (record["width"], record["height"]) == upright_size(path) == ((40, 60) if turned else (60, 40))
    assert data.targets.read(record).shape == (record["height"], record["width"], 3)
    assert record["id"] == f"deep/photo{suffix}"


def test_what_lies_among_the_photographs(scenes, caplog):
    """References kept there, hidden files and files of other kinds are not searched; one image alone is."""
    shutil.move(scenes / "refs", scenes / "photos/refs")
    (scenes / "photos/._scene_01.jpg").write_bytes(b"macOS")
    (scenes / "photos/one.nef").write_bytes(b"")
    data = FolderDataset(str(scenes / "photos"), str(scenes / "photos/refs")).load()
    assert list(data.targets.images) == ["more/scene_03.jpg", "scene_01.jpg", "scene_02.jpg"]
    assert "skipped files of other types: 1 .nef" in caplog.text
    one = FolderDataset(str(scenes / "photos/scene_02.jpg"), str(scenes / "photos/refs")).load()
    assert list(one.targets.images) == ["scene_02.jpg"]


def test_linked_folders_are_looked_through_once(scenes):
    (scenes / "linked").mkdir()
    (scenes / "linked/day 1").symlink_to(scenes / "photos")
    (scenes / "linked/circle").symlink_to(scenes / "linked")
    data = FolderDataset(str(scenes / "linked"), str(scenes / "refs")).load()
    assert list(data.targets.images) == [f"day 1/{n}" for n in ("more/scene_03.jpg", "scene_01.jpg", "scene_02.jpg")]


def test_photographs_that_cannot_be_searched(scenes):
    for folder in ("refs", "refs/leaf"):
        with pytest.raises(RefexpError, match=r"all images in .* are references"):
            FolderDataset(str(scenes / folder), str(scenes / "refs")).load()
    (scenes / "photos" / os.fsdecode(b"k\xfcche.jpg")).write_bytes(b"")
    with pytest.raises(RefexpError, match=r"name is not UTF-8: k\\xfcche\.jpg"):
        FolderDataset(str(scenes / "photos"), str(scenes / "refs")).load()


def test_a_folder_of_any_name(finished, drawn_folder, command, tmp_path):
    """Hydra would take the first for a number, and trip over the other."""
    for name in ("2024", "it's (1), [x]"):
        shutil.copytree(drawn_folder / "photos", tmp_path / name)
        done = command("task=predict", f"references={drawn_folder / 'refs'}", f"images={name}", "runtime.threads=1",
                       "vis.limit=0", f"hydra.run.dir={tmp_path / 'out'}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert read_json(tmp_path / "out/detections.json") == read_json(finished[1] / "detections.json")


def test_a_coco_file_of_boxes_with_different_numbers(configure, scenes, tmp_path, caplog):
    content = coco_references(scenes)
    content["annotations"] = content["annotations"][:3]  # one leaf only
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    content["categories"].append({"id": 7, "name": "unused"})
    (scenes / "refs.json").write_text(json.dumps(content))
    more = (f"references={scenes / 'refs.json'}", f"reference_images={scenes / 'refs'}", "vis.limit=0")
    run(configure(*overrides(scenes, *more)), tmp_path / "out")
    assert read_json(tmp_path / "out/metrics.json")["references"] == {"ladybird": 2, "leaf": 1}
    used = read_json(tmp_path / "out/references.json")
    assert [c["name"] for c in used["categories"]] == NAMES
    assert all(annotation["segmentation"]["counts"] for annotation in used["annotations"])
    assert "1 classes left out, without references: unused" in caplog.text


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("export", "export/labels.json"),
        ("export/images", "export/result.json"),
        ("export/images/train", "export/annotations/instances_train.json"),
        ("train2017", "annotations/instances_train2017.json"),
        ("scenes/photos", "elsewhere/labels.json"),
    ],
)
def test_where_annotation_tools_put_images(scenes, tmp_path, images, file):
    content = coco_references(scenes)
    shutil.copytree(scenes / "refs", tmp_path / images, dirs_exist_ok=True)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    data = FolderDataset(str(scenes / "photos"), str(path)).load()
    assert data.references.read(data.references.images["leaf/1.png"]).shape[2] == 3


# --- mistakes


def no_photographs(scenes):
    shutil.rmtree(scenes / "photos")
    (scenes / "photos/empty").mkdir(parents=True)


def cut_photograph(scenes):
    path = scenes / "photos/scene_02.jpg"
    path.write_bytes(path.read_bytes()[:5000])


def no_photograph(scenes):
    (scenes / "photos/scene_02.jpg").write_text("not an image")


def opaque_reference(scenes):
    Image.new("RGBA", (50, 50), "red").save(scenes / "refs/leaf/3.png")


def reference_without_mask(scenes):
    (scenes / "refs/leaf/2_mask.png").unlink()


def mask_without_reference(scenes):
    (scenes / "refs/leaf/2.png").unlink()


def mask_of_another_size(scenes):
    Image.new("L", (50, 40), 255).save(scenes / "refs/leaf/2_mask.png")


def empty_mask(scenes):
    path = scenes / "refs/leaf/2_mask.png"
    Image.new("L", Image.open(path).size).save(path)


def reference_without_class(scenes):
    Image.new("RGB", (50, 40)).save(scenes / "refs/stray.png")


def test_bad_photographs_are_skipped_and_listed(configure, scenes, tmp_path, monkeypatch, caplog):
    cut_photograph(scenes)
    (scenes / "photos/page.jpg").write_text("<html>")
    config = configure(*overrides(scenes, "vis.limit=0", "vis.report=false"))
    run(config, tmp_path / "out")
    record = RunFolder(tmp_path / "out").record
    assert record.images == 2
    assert [one["file_name"] for one in record.images_skipped] == ["page.jpg", "scene_02.jpg"]
    assert record.images_skipped[0]["reason"] == "it is a web page, not an image"
    assert "2 images were skipped" in caplog.text and "    scene_02.jpg: it is truncated" in caplog.text
    assert list(RunFolder(tmp_path / "out").data.targets.images) == ["more/scene_03.jpg", "scene_01.jpg"]

    read, opened = refexp.data.custom.read_rgb, []

    def noted(path, *size):
        opened.append(path.name)
        return read(path, *size)

    monkeypatch.setattr("refexp.data.custom.read_rgb", noted)
    run(config, tmp_path / "warm")
    assert sorted(opened) == ["page.jpg", "scene_02.jpg"]  # of the others the store has all
    assert read_json(tmp_path / "warm/detections.json") == read_json(tmp_path / "out/detections.json")

    with pytest.raises(RefexpError, match=r"2 of 4 images .* page\.jpg: it is a web page.*input\.unreadable=skip"):
        run(configure(*overrides(scenes, "input.unreadable=error")), tmp_path / "strict")
    for path in (scenes / "photos").rglob("scene*"):
        path.unlink()
    with pytest.raises(RefexpError, match=r"1 of 1 images cannot be read\. page\.jpg: .*Replace them\.$"):
        run(config, tmp_path / "none")


def test_every_rank_leaves_out_what_one_cannot_read(configure, scenes):
    no_photograph(scenes)
    experiment = build_experiment(configure(*overrides(scenes)))
    targets = experiment.dataset.load().targets
    extractor = Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, experiment.device, Clock()
    )

    class OneOfTwo(Ranks):
        def exchange(self, value):
            bad = {"scene_02.jpg": "told by the other rank"}
            return [value, ({}, {}, {})] if self.first else [(bad, {}, {}), value]

    found = []
    for rank in (0, 1):
        here = OneOfTwo(Rank(0, 1, "a test"), 60)
        here.rank, here.world_size, here.first = rank, 2, rank == 0
        found.append(readable_targets(experiment, targets, extractor, here, Repairs()))
    for left, bad in found:
        assert list(left.images) == ["more/scene_03.jpg", "scene_01.jpg"] and bad[0]["id"] == "scene_02.jpg"


MISTAKES = {
    no_photographs: r"photos and its subfolders contain no images; supported types: \.jpg",
    opaque_reference: r"leaf/3\.png has an alpha channel with a single value.*transparent.*3_mask\.png",
    reference_without_mask: r"leaf/2\.png has no alpha channel, so it has no mask\. .*transparent.*2_mask\.png",
    mask_without_reference: r"leaf/2_mask\.png has no alpha channel",
    mask_of_another_size: r"2_mask\.png has 50 x 40 pixels, but 2\.png has \d+ x \d+",
    empty_mask: r"2_mask\.png: the mask is empty",
    reference_without_class: r"stray\.png has no class",
}


@pytest.mark.parametrize("spoil", MISTAKES, ids=lambda spoil: spoil.__name__)
def test_mistakes_name_the_file(spoil, configure, scenes, tmp_path):
    spoil(scenes)
    with pytest.raises(RefexpError, match=MISTAKES[spoil]) as error:
        run(configure(*overrides(scenes, "vis.limit=0")), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out/detections.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["references=nowhere"], "references: no such file or folder: nowhere"),
        (["images=nowhere"], "images: no such file or folder: nowhere"),
        (["images=???"], "images must be given: images="),
        (["summary=xml"], "summary='xml': input should be 'csv' or 'json'"),
        (["proposer=oracle"], "the oracle proposer needs annotated targets; choose another proposer"),
        (["dataset.classes=[laef]"], "class 'laef' is not in the annotations. Did you mean 'leaf'"),
    ],
)
def test_mistaken_keys(configure, drawn_folder, tmp_path, more, message):
    with pytest.raises(RefexpError, match=re.escape(message)):
        run(configure(*overrides(drawn_folder), *more), tmp_path / "out")


def test_reference_images_that_are_not_there(scenes, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(coco_references(scenes)))
    with pytest.raises(RefexpError, match=r"missing, such as ladybird/1\.png \(searched: .*reference_images=DIR"):
        FolderDataset(str(scenes / "photos"), str(path)).load()
    path.write_text(json.dumps(coco_references(scenes) | {"annotations": []}))
    data = FolderDataset(str(scenes / "photos"), str(path)).load()
    assert data.references.annotations == []


def test_no_references_at_all(configure, scenes, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(coco_references(scenes) | {"annotations": []}))
    with pytest.raises(RefexpError, match="no annotations of the chosen classes, so no references"):
        run(configure(*overrides(scenes, f"references={path}")), tmp_path / "out")


# --- the tutorial


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs_as_written(tmp_path):
    """Its commands one after another, in a folder that looks like a fresh clone; the environment is this one."""
    for name in ("main.py", "conf", "refexp", "hydra_plugins"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = "".join(blocks("bash"))
    activate = ". .venv/bin/activate\n"
    assert commands.startswith(activate)
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    (tools / "activate").write_text(f'PATH="{tools}:$PATH"\n')
    # As an installer writes it: installed metadata may be of an earlier pyproject.toml.
    script = re.search(r'^refexp = "(\S+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    code = "import sys; from {0} import {1}; sys.exit({1}())".format(*script.groups())
    for name, program in (("python", [sys.executable]), ("refexp", [sys.executable, "-c", code])):
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
        (tools / name).chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "160"}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for path in re.findall(r"`((?:found|scenes|coins)/[\w./]+)`", (ROOT / "docs/tutorial.md").read_text()):
        assert (tmp_path / path).exists(), path
    (program,) = blocks("python")
    code = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert code.returncode == 0, code.stderr


def test_the_tutorials_other_commands_exist(configure):
    """Those that need the paper's weights: their keys and options compose."""
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if "main.py" in line]
    assert commands
    for command in commands:
        configure(*command[command.index("main.py") + 1 :])


def test_the_tutorials_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"))
    assert pictures and all((ROOT / "docs" / picture).is_file() for picture in pictures)
