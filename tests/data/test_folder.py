"""References in folders as people have them, and photographs among files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refexp.data.folder import image_files, read_given
from refexp.errors import RefexpError
from refexp.folders.run_folder import RunFolder

W, H = 80, 60


def photograph(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (W, H)).save(path)
    return path


def mask(path: Path) -> Path:
    """A rectangle of 20 x 30 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((H, W), dtype=np.uint8)
    values[10:40, 10:30] = 255
    Image.fromarray(values).save(path)
    return path


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def coco(file_name: str) -> dict:
    return {
        "images": [{"id": 1, "file_name": file_name, "width": W, "height": H}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30]}],
        "categories": [{"id": 1, "name": "cat"}],
    }


VOC = (
    "<annotation><filename>a.jpg</filename><object><name>cat</name><bndbox><xmin>11</xmin><ymin>11</ymin>"
    "<xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
)
LABELME = {
    "shapes": [{"label": "cat", "shape_type": "rectangle", "points": [[10, 10], [30, 40]]}], "imagePath": "a.jpg"
}  # fmt: skip
YOLO = f"0 {20 / W} {25 / H} {20 / W} {30 / H}"
FORMS = {
    "Roboflow": ("train/a.jpg", {"train/_annotations.coco.json": coco("a.jpg")}),
    "CVAT": ("images/a.jpg", {"annotations/instances_default.json": coco("a.jpg")}),
    "COCO beside": ("a.jpg", {"coco.json": coco("a.jpg")}),
    "VOC": ("JPEGImages/a.jpg", {"Annotations/a.xml": VOC}),
    "VOCdevkit": ("VOC2007/JPEGImages/a.jpg", {"VOC2007/Annotations/a.xml": VOC}),
    "VOC beside": ("train/a.jpg", {"train/a.xml": VOC}),
    "YOLO": ("images/a.jpg", {"labels/a.txt": YOLO, "data.yaml": "names: [cat]"}),
    "YOLO beside": ("obj_train_data/a.jpg", {"obj_train_data/a.txt": YOLO, "obj.names": "cat\n"}),
    "LabelMe": ("a.jpg", {"a.json": LABELME}),
    "LabelMe in classes": ("cat/a.jpg", {"cat/a.json": LABELME}),
}


@pytest.mark.parametrize("form", FORMS)
def test_annotation_tools(tmp_path, form):
    image, files = FORMS[form]
    photograph(tmp_path / image)
    for name, content in files.items():
        write(tmp_path / name, content)
    classes, split = read_given(tmp_path)
    assert classes == ("cat",) and split.boxes_only
    (annotation,) = split.annotations
    assert annotation["bbox"] == pytest.approx([10, 10, 20, 30])
    assert split.read(split.images[annotation["image_id"]]).shape == (H, W, 3)


@pytest.mark.parametrize(
    ("image", "beside"),
    [
        ("cat/a.jpg", "cat/a_mask.png"), ("cat/a.jpg", "cat/a.mask.png"), ("cat/a.jpg", "cat/a_MASK.PNG"),
        ("cat/a.jpg", "cat/a.jpg_mask.png"), ("cat/a.jpg", "cat/masks/a.png"), ("cat/a.jpg", "masks/a.bmp"),
        ("images/cat/a.jpg", "masks/cat/a.png"), ("cat/images/a.jpg", "cat/masks/a.png"),
    ],
)  # fmt: skip
def test_masks_in_the_usual_places(tmp_path, caplog, image, beside):
    photograph(tmp_path / image)
    mask(tmp_path / beside)
    classes, split = read_given(tmp_path)
    (annotation,) = split.annotations
    assert classes == ("cat",)
    assert annotation["bbox"] == [10, 10, 20, 30] and annotation["area"] == 600
    assert not caplog.records


def test_masks_go_before_the_annotations_of_a_tool(tmp_path):
    photograph(tmp_path / "tabby/a.jpg")
    write(tmp_path / "tabby/a.json", LABELME)
    assert read_given(tmp_path)[0] == ("cat",)
    mask(tmp_path / "tabby/a_mask.png")
    assert read_given(tmp_path)[0] == ("tabby",)


def several_masks(folder):
    photograph(folder / "cat/a.jpg")
    mask(folder / "cat/a_mask.png")
    mask(folder / "cat/masks/a.png")


def a_mask_of_two(folder):
    for name in ("cat", "dog"):
        photograph(folder / name / "a.jpg")
    mask(folder / "masks/a.png")


def two_levels(folder):
    photograph(folder / "animals/cat/a.jpg")
    mask(folder / "animals/cat/a_mask.png")


def images_are_no_class(folder):
    photograph(folder / "images/a.jpg")
    mask(folder / "masks/a.png")


def several_coco_files(folder):
    for part in ("train", "valid"):
        photograph(folder / part / "a.jpg")
        write(folder / part / "_annotations.coco.json", coco("a.jpg"))


def an_empty_coco_file(folder):
    photograph(folder / "train/a.jpg")
    write(folder / "train/_annotations.coco.json", {"images": [], "annotations": [], "categories": []})


def another_tool(folder):
    photograph(folder / "cat/a.jpg")
    write(folder / "annotations.xml", "<annotations/>")


def labelme_without_shapes(folder):
    photograph(folder / "a.jpg")
    write(folder / "a.json", LABELME | {"shapes": []})


def yolo_without_names(folder):
    photograph(folder / "images/a.jpg")
    write(folder / "labels/a.txt", YOLO)


MISTAKES = {
    several_masks: r"cat/a\.jpg has several masks, .*cat/a_mask\.png and .*cat/masks/a\.png; keep one",
    a_mask_of_two: r"masks/a\.png can be the mask of .*cat/a\.jpg and .*dog/a\.jpg; keep one, or",
    two_levels: r"animals/cat/a\.jpg: is its class 'animals' or 'cat'\?",
    images_are_no_class: r"images/a\.jpg has no class: move it into a folder with the name of its class",
    several_coco_files: r"several COCO files; set references to one: .*train/_annotations\.coco\.json, .*valid",
    an_empty_coco_file: r"train/_annotations\.coco\.json: contains no images",
    another_tool: r"a\.jpg has no alpha channel.* If .*annotations\.xml holds annotations, export them as COCO",
    labelme_without_shapes: r"has no categories, so there are no classes to detect",
    yolo_without_names: r"labels/a\.txt, line 1: class 0 has no name; add it to data\.yaml or classes\.txt",
}


@pytest.mark.parametrize("spoil", MISTAKES, ids=lambda spoil: spoil.__name__)
def test_what_is_refused_says_what_to_do(tmp_path, spoil):
    spoil(tmp_path)
    with pytest.raises(RefexpError, match=MISTAKES[spoil]) as error:
        read_given(tmp_path)
    assert "\n" not in str(error.value)


def test_coco_files_in_a_folder_find_images_elsewhere(tmp_path):
    write(tmp_path / "refs/coco.json", coco("a.jpg"))
    photograph(tmp_path / "elsewhere/a.jpg")
    with pytest.raises(RefexpError, match="reference_images=DIR"):
        read_given(tmp_path / "refs")
    assert len(read_given(tmp_path / "refs", tmp_path / "elsewhere")[1].images) == 1


def test_masks_and_runs_are_no_photographs(tmp_path, caplog):
    photographs = [photograph(tmp_path / name) for name in ("a.jpg", "day 1/b.png")]
    mask(tmp_path / "a_mask.png")
    mask(tmp_path / "day 1/masks/b.png")
    for name in ("found/.hydra/config.yaml", "found/status.json"):
        write(tmp_path / name, "{}")
    mask(tmp_path / "found/masks/a.jpg/001_cat.png")
    assert image_files(tmp_path) == photographs
    assert f"passed over what refexp wrote: runs (1, such as {tmp_path / 'found'})" in caplog.text
    assert "passed over 2 masks, such as" in caplog.text
    with pytest.raises(RefexpError, match=r"contain no images but results of the run \(1, such as .*found/masks\)"):
        image_files(tmp_path / "found")


def test_a_run_never_deletes_its_photographs(tmp_path):
    run = RunFolder(tmp_path)
    run.begin({}, {}, None)
    image = photograph(tmp_path / "masks/photos/001_cat.png")
    for images in (tmp_path / "masks", image):
        with pytest.raises(RefexpError, match=r"images: .*masks.* lies where this run keeps its results; set another"):
            run.begin({"dataset": {"images": str(images), "classes": None}}, {}, None)
    assert image.is_file()
    run.begin({"dataset": {"images": str(tmp_path)}}, {}, None)
    assert not image.is_file()
