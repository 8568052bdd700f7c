"""References as VOC, YOLO and LabelMe files hold them."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from refexp.data.coco import annotation_rle
from refexp.errors import RefexpError
from refexp.inputs.foreign import coco_files, read_foreign
from refexp.inputs.records import check_coco
from refexp.inputs.repairs import collecting
from refexp.masks import decode

W, H = 80, 60


def write(root, name, content=None):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.new("RGB", (W, H), (40, 90, 40)).save(path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def read(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return read_foreign(root, files, [path for path in files if path.suffix in (".jpg", ".png")])


def objects(content):
    """(image, class, box) of all annotations."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [(a["image_id"], names[a["category_id"]], a["bbox"]) for a in content["annotations"]]


def voc(*boxes, name="cat", filename="", size=(W, H), more=""):
    objects = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in boxes
    )
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><filename>{filename}</filename>{shape}{objects}</annotation>"


def labelme(*shapes, path="a.jpg", size=(W, H)):
    return {"shapes": list(shapes), "imagePath": path, "imageWidth": size[0], "imageHeight": size[1]}


def shape(kind, points, label="cat", **more):
    return {"label": label, "shape_type": kind, "points": points} | more


# --- VOC


def test_voc_counts_from_1(tmp_path):
    write(tmp_path, "JPEGImages/a.jpg")
    write(tmp_path, "Annotations/a.xml", voc((11, 21, 30, 40), (0, 1, 10, 10)))
    content = read(tmp_path)
    assert objects(content) == [
        ("JPEGImages/a.jpg", "cat", [10, 20, 20, 20]),
        ("JPEGImages/a.jpg", "cat", [0, 0, 10, 10]),
    ]
    assert content["images"] == [
        {"id": "JPEGImages/a.jpg", "file_name": "JPEGImages/a.jpg", "width": W, "height": H},
    ]


def test_voc_beside_the_image_without_a_size_and_difficult(tmp_path):
    write(tmp_path, "train/a.jpg")
    write(tmp_path, "train/a.xml", voc((11, 21, 30, 40), size=(0, 0), more="<difficult>1</difficult>"))
    content = read(tmp_path)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (W, H)
    assert content["annotations"][0]["iscrowd"] == 1


def test_the_written_name_goes_first_and_others_of_that_name_are_told_apart(tmp_path):
    for name in ("JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationObject/a.png"):
        write(tmp_path, name)
    write(tmp_path, "Annotations/a.xml", voc((11, 21, 30, 40), filename="C:\\mine\\a.jpg"))
    assert [image for image, *_ in objects(read(tmp_path))] == ["JPEGImages/a.jpg"]
    write(tmp_path, "Annotations/a.xml", voc((11, 21, 30, 40), filename="photo"))
    with pytest.raises(RefexpError, match=r"a\.xml can belong to .*a\.jpg or .*a\.png; keep one"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (voc((1, 2, 3, 4), size=(2 * W, 2 * H)), "was made on 160 x 120 pixels, but .* has 80 x 60"),
        ("<annotation>", "is not valid XML"),
    ],
)
def test_voc_that_cannot_be_used(tmp_path, xml, message):
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.xml", xml)
    with pytest.raises(RefexpError, match=r"a\.xml.*" + message):
        read(tmp_path)


# --- YOLO


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("data.yaml", "names: [cat, dog]"),
        ("data.yaml", "names: {0: cat, 1: dog}\ntrain: images"),
        ("classes.txt", "cat\ndog\n"),
        ("labels/classes.txt", "cat\ndog\n"),
        ("obj.names", "cat\ndog"),
        ("../data.yaml", "names:\n- cat\n- dog\n"),
    ],
)
def test_yolo_boxes_and_their_names(tmp_path, name, names):
    root = tmp_path / "train"
    write(root, "images/a.jpg")
    write(root, "labels/a.txt", "1 0.5 0.5 0.25 0.5\n")
    write(root, name, names)
    assert objects(read(root)) == [("images/a.jpg", "dog", [30, 15, 20, 30])]


def test_yolo_polygons_confidences_and_what_is_no_label(tmp_path):
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.txt", "0 0.25 0.25 0.75 0.25 0.75 0.75\n0 0.5 0.5 0.5 0.5 0.9\n\n0 0.1 0.1\n")
    write(tmp_path, "classes.txt", "cat")
    write(tmp_path, "README.txt", "5 photographs of 1 cat")
    with collecting() as repairs:
        polygon, box = read(tmp_path)["annotations"]
    assert polygon["segmentation"] == [[20, 15, 60, 15, 60, 45]] and box["bbox"] == [20, 15, 40, 30]
    assert [count for count, _ in repairs.found.values()] == [1]  # the short line


def test_yolo_key_points_are_no_polygon(tmp_path):
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 2")
    write(tmp_path, "data.yaml", "names: [cat]\nkpt_shape: [2, 3]")
    assert [box for *_, box in objects(read(tmp_path))] == [[20, 15, 40, 30]]


def test_yolo_with_train_and_val(tmp_path):
    for part in ("train", "val"):
        write(tmp_path, f"images/{part}/a.jpg")
    write(tmp_path, "labels/val/a.txt", "0 0.5 0.5 0.5 0.5")
    write(tmp_path, "classes.txt", "cat")
    assert [image for image, *_ in objects(read(tmp_path))] == ["images/val/a.jpg"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("1 0.5 0.5 0.5 0.5", "class 1 has no name; add it to data.yaml"), ("0 40 30 20 20", "must be fractions")],
)
def test_yolo_that_cannot_be_used(tmp_path, line, message):
    write(tmp_path, "images/a.jpg")
    write(tmp_path, "labels/a.txt", line)
    write(tmp_path, "classes.txt", "cat")
    with pytest.raises(RefexpError, match=r"a\.txt, line 1: .*" + message):
        read(tmp_path)


# --- LabelMe


def mask_of(annotation):
    return decode([annotation_rle(annotation, H, W)])[0]


def test_labelme_shapes(tmp_path):
    part = np.zeros((10, 20), dtype=np.uint8)
    part[2:] = 255
    png = io.BytesIO()
    Image.fromarray(part).save(png, "PNG")
    shapes = [
        shape("polygon", [[10, 10], [30, 10], [30, 30]]),
        shape("rectangle", [[50, 40], [40, 20]], label="dog"),
        shape("circle", [[40, 30], [40, 50]]),
        shape("mask", [[5, 6], [24, 15]], mask=base64.b64encode(png.getvalue()).decode()),
        shape("polygon", [[0, 0], [9, 0], [9, 9]], group_id=1),
        shape("polygon", [[20, 0], [29, 0], [29, 9]], group_id=1),
        shape("point", [[1, 1]]),
        shape("polygon", [[1, 1], [None, 2], [3, 3]]),
    ]
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.json", labelme(*shapes))
    with collecting() as repairs:
        content = read(tmp_path)
    triangle, box, circle, png_mask, two = content["annotations"]
    assert triangle["segmentation"] == [[10, 10, 30, 10, 30, 30]]
    assert box["bbox"] == [40, 20, 10, 20] and "segmentation" not in box
    assert abs(mask_of(circle).sum() - np.pi * 20**2) < 20
    expected = np.zeros((H, W), dtype=bool)
    expected[8:16, 5:25] = True
    np.testing.assert_array_equal(mask_of(png_mask), expected)
    assert len(two["segmentation"]) == 2
    assert [category["name"] for category in content["categories"]] == ["cat", "dog"]
    assert [count for count, _ in repairs.found.values()] == [2]


def test_labelme_masks_that_cannot_be_read_or_leave_the_image(tmp_path):
    write(tmp_path, "a.jpg")
    png = io.BytesIO()
    Image.new("L", (20, 10), 255).save(png, "PNG")
    whole = base64.b64encode(png.getvalue()).decode()
    shapes = [shape("mask", [[70, 55]], mask=whole), shape("mask", [[200, 0]], mask=whole), shape("mask", [[0, 0]])]
    write(tmp_path, "a.json", labelme(*shapes))
    (annotation,) = read(tmp_path)["annotations"]
    assert mask_of(annotation).sum() == 10 * 5


# --- all of them


def test_annotation_files_without_their_image_are_counted(tmp_path):
    write(tmp_path, "a.jpg")
    for name in "abc":
        write(tmp_path, f"{name}.json", labelme(shape("rectangle", [[1, 1], [9, 9]]), path=f"{name}.jpg"))
    with collecting() as repairs:
        assert len(read(tmp_path)["images"]) == 1
    assert [count for count, _ in repairs.found.values()] == [2]


def test_several_forms_are_refused_and_others_are_none(tmp_path):
    write(tmp_path, "a.jpg")
    write(tmp_path, "notes.json", {"made": 2024})
    write(tmp_path, "list.json", [1, 2])
    write(tmp_path, "broken.json", "{")
    write(tmp_path, "cvat.xml", "<annotations><image/></annotations>")
    write(tmp_path, "LICENSE.txt", "mine")
    assert read(tmp_path) is None
    write(tmp_path, "a.xml", voc((1, 1, 9, 9)))
    write(tmp_path, "a.json", labelme(shape("rectangle", [[1, 1], [9, 9]])))
    with pytest.raises(RefexpError, match="several forms: Pascal VOC, LabelMe; keep"):
        read(tmp_path)


def test_coco_files(tmp_path):
    write(tmp_path, "train/_annotations.coco.json", {"images": [], "annotations": [], "categories": []})
    write(tmp_path, "captions.json", {"images": [], "annotations": []})
    write(tmp_path, "detections.json", [{"image_id": 1}])
    assert coco_files(sorted(tmp_path.rglob("*.json"))) == [tmp_path / "train/_annotations.coco.json"]


@pytest.mark.parametrize("text", ["true", "True ", "1.0", " 1"])
def test_difficult_is_true_for_its_texts(tmp_path, text):
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.xml", voc((11, 21, 30, 40), more=f"<difficult>{text}</difficult>"))
    assert [a["iscrowd"] for a in read(tmp_path)["annotations"]] == [1]


def test_voc_in_the_encoding_that_it_declares(tmp_path):
    write(tmp_path, "a.jpg")
    head, body = "<?xml version='1.0' encoding='ISO-8859-1'?>", voc((11, 21, 30, 40), name="café")
    (tmp_path / "a.xml").write_bytes((head + body).encode("latin-1"))
    assert objects(read(tmp_path)) == [("a.jpg", "café", [10, 20, 20, 20])]
    (tmp_path / "a.xml").write_bytes((head.replace("ISO-8859-1", "none") + body).encode("latin-1"))
    with pytest.raises(RefexpError, match="not in the encoding that it declares"):
        read(tmp_path)


def test_one_voc_object_without_a_box_is_left_out(tmp_path):
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.xml", voc((11, 21, "", 40), (11, 21, 30, 40)))
    content = read(tmp_path)
    with collecting() as repairs:
        check_coco(content, "refs")
    assert objects(content) == [("a.jpg", "cat", [10, 20, 20, 20])]
    assert repairs.found["annotation left out: has neither a usable mask nor a usable box"][0] == 1
    write(tmp_path, "a.xml", voc((1, 2, "x", 4)))
    with pytest.raises(
        RefexpError, match="1 of 1 annotations cannot be used: 1 has neither a usable mask nor a usable"
    ):
        check_coco(read(tmp_path), "refs")


def test_a_yolo_class_may_have_the_name_no(tmp_path):
    write(tmp_path, "a.jpg")
    write(tmp_path, "data.yaml", "names: [no, 1_000]")
    write(tmp_path, "a.txt", "0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n")
    assert [label for _, label, _ in objects(read(tmp_path))] == ["no", "1_000"]


def test_labelme_masks_in_a_group_and_over_the_border(tmp_path, caplog):
    write(tmp_path, "a.jpg")
    file = io.BytesIO()
    Image.fromarray(np.ones((10, 20), dtype=bool)).save(file, "PNG")
    mask = {"label": "cat", "shape_type": "mask", "mask": base64.b64encode(file.getvalue()).decode(), "group_id": 1}
    square = {
        "label": "cat",
        "shape_type": "polygon",
        "points": [[40, 40], [50, 40], [50, 50], [40, 50]],
        "group_id": 1,
    }
    write(tmp_path, "a.json", labelme(mask | {"points": [[-5, -4], [14, 5]]}, square))
    (annotation,) = read(tmp_path)["annotations"]
    (found,) = decode([annotation_rle(annotation, H, W)])
    expected = np.zeros((H, W), dtype=bool)
    expected[:6, :15] = expected[40:50, 40:50] = True
    np.testing.assert_array_equal(found, expected)
    assert not caplog.records  # a mask fills its own box: that is no doubt
