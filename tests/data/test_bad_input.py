"""What a person's files can have wrong with them: one line that names the culprit, exit code 1, no traceback."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from runs import run

from refexp.data.coco import annotation_rle, check_coco
from refexp.errors import RefexpError
from refexp.folders.record import RunRecord
from refexp.masks import decode


def truncated_image(folder):
    path = folder.images / "targets_2.png"
    path.write_bytes(path.read_bytes()[:2000])


def several_bad_images(folder):
    truncated_image(folder)
    (folder.images / "targets_3.png").write_text("<!DOCTYPE html>")


def bad_reference_images(folder):
    for path in folder.images.glob("references_*"):
        path.write_bytes(path.read_bytes()[:2000])


def missing_image(folder):
    (folder.images / "targets_3.png").unlink()


def missing_reference_images(folder):
    for path in folder.images.glob("references_*"):
        path.unlink()


def empty_targets_file(folder):
    (folder.root / "targets.json").write_text("")


def targets_without_images(folder):
    folder.targets["images"], folder.targets["annotations"] = [], []
    folder.save()


def targets_without_annotations(folder):
    folder.targets["annotations"] = []
    folder.save()


def class_without_references(folder):
    folder.references["annotations"] = [a for a in folder.references["annotations"] if a["category_id"] == 1]
    folder.save()


def unknown_image_ids(folder):
    for annotation in folder.targets["annotations"]:
        annotation["image_id"] = 999
    folder.save()


def unknown_category_ids(folder):
    for annotation in folder.references["annotations"]:
        annotation["category_id"] = 77
    folder.save()


def one_id_for_two_images(folder):
    folder.targets["images"][1]["id"] = folder.targets["images"][0]["id"]
    folder.save()


def wrong_size(folder):
    for side in ("width", "height"):
        folder.targets["images"][0][side] //= 2
    for annotation in folder.targets["annotations"]:
        annotation["segmentation"] = [[10, 10, 50, 10, 50, 50]]
    folder.save()


def wrong_rle_sizes(folder):
    for annotation in folder.targets["annotations"]:
        annotation["segmentation"] = {"size": [3, 4], "counts": [4, 4, 4]}
    folder.save()


def broken_rles(folder):
    for annotation in folder.targets["annotations"]:
        annotation["segmentation"]["counts"] = "garbage!!"
    folder.save()


def short_rles(folder):
    for annotation in folder.targets["annotations"]:
        annotation["segmentation"]["counts"] = [5, 5]
    folder.save()


def corners_instead_of_sides(folder):
    for annotation in folder.references["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
        del annotation["segmentation"]
    folder.save()


def no_common_category(folder):
    for category in folder.targets["categories"]:
        category["name"] += "s"
    folder.save()


SPOILERS = {
    truncated_image: r"targets\.json: 1 of 4 images cannot be read\. targets_2\.png: it is truncated .*: input\.unread",
    several_bad_images: r"2 of 4 images .*targets_2\.png: it is truncated .*; targets_3\.png: it is a web page, not an",
    bad_reference_images: r"references\.json: 2 of 2 images cannot be read\. references_\d+\.png: it is truncated",
    missing_image: r"1 of the images in .*targets\.json are not in .*targets_3\.png",
    missing_reference_images: r"image not found: .*references_\d+\.png",
    empty_targets_file: r"targets\.json is an empty file",
    targets_without_images: r"targets\.json: contains no images",
    targets_without_annotations: r"targets\.json: no instance of the chosen classes",
    class_without_references: r"references\.json: too few valid references for 1 shot: leaf \(0\)",
    unknown_image_ids: r"targets\.json: \d+ of \d+ annotations cannot be used: \d+ its image_id is not in 'images'",
    unknown_category_ids: r"references\.json: .* its category_id is not in 'categories', first annotation \d+",
    one_id_for_two_images: r"targets\.json: duplicate id \d+ in 'images'",
    wrong_size: r"targets_1\.png: it has \d+ x \d+ pixels, but its annotations say",
    wrong_rle_sizes: r"targets\.json: .* its RLE mask has another size than its image",
    no_common_category: r"no common category name",
    broken_rles: r"targets\.json: \d+ of \d+ masks cannot be used, first annotation \d+: has a broken RLE mask",
    short_rles: r"targets\.json: .*: has an RLE mask whose counts do not add up",
    corners_instead_of_sides: r"references\.json: its boxes seem to be \[x1, y1, x2, y2\]",
}


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda f: f.__name__)
def test_error_names_the_culprit(spoil, folder, configure, tmp_path):
    spoil(folder)
    context = "encoder.reference_context=0.2"
    with pytest.raises(RefexpError, match=SPOILERS[spoil]) as caught:
        run(configure(*folder.overrides(), context, "vis.limit=0"), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/metrics.json").exists()
    if spoil in (truncated_image, several_bad_images, bad_reference_images, wrong_size):
        assert not (tmp_path / "store").exists()  # nothing was computed


def test_bad_images_can_be_left_out_of_an_evaluation(folder, configure, tmp_path, caplog):
    several_bad_images(folder)
    run(configure(*folder.overrides(), "input.unreadable=skip", "vis.limit=0"), tmp_path / "out")
    skipped = json.loads((tmp_path / "out/metrics.json").read_text())
    names = [one["file_name"] for one in skipped["images_skipped"]]
    assert skipped["images"] == 2 and names == ["targets_2.png", "targets_3.png"]
    assert "2 images were skipped, because they cannot be read:" in caplog.text
    for name in ("targets", "references"):  # the same as without them
        bad = {i["id"] for i in folder.content[name]["images"] if i["file_name"] in names}
        for part, key in (("images", "id"), ("annotations", "image_id")):
            folder.content[name][part] = [r for r in folder.content[name][part] if r[key] not in bad]
    folder.save()
    assert run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "less") == skipped["metrics"]
    bad_reference_images(folder)
    with pytest.raises(RefexpError, match=r"references\.json: .* cannot be read"):
        run(configure(*folder.overrides(), "input.unreadable=skip", "seed=1", "vis.limit=0"), tmp_path / "out")


@pytest.mark.parametrize("spoil", [truncated_image, class_without_references], ids=lambda f: f.__name__)
def test_command_line_shows_one_line(spoil, folder, command, tmp_path):
    spoil(folder)
    process = command(*folder.overrides(tmp_path / "out"))
    assert process.returncode == 1
    assert "Traceback" not in process.stdout + process.stderr
    errors = [line for line in (process.stdout + process.stderr).splitlines() if "ERROR" in line]
    assert len(errors) == 1


def test_category_in_one_file_only_is_left_out_and_counted(folder, configure, tmp_path, caplog):
    folder.targets["categories"].append({"id": 9, "name": "zeppelin"})
    folder.save()
    metrics = run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "out")
    assert "segm/nAP/zeppelin" not in metrics
    assert "class left out, because only one annotation file has it: 1, first: zeppelin" in caplog.text


def test_a_class_asked_for_must_be_in_both_files(folder, configure, tmp_path):
    with pytest.raises(RefexpError, match=r"dataset\.classes: class 'laef' is not in the .* Did you mean 'leaf'"):
        run(configure(*folder.overrides(), "dataset.classes=[laef]"), tmp_path / "out")


def test_reference_without_mask_is_passed_over_and_counted(folder, configure, tmp_path, caplog):
    for annotation in folder.references["annotations"][::2]:
        annotation["segmentation"] = []
    folder.save()
    run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "out")
    used = json.loads((tmp_path / "out/references.json").read_text())["annotations"]
    assert all(annotation["segmentation"] for annotation in used)
    assert "annotations without a mask as references" in caplog.text and "skipped" in caplog.text


@pytest.mark.parametrize("segmentation", [None, [], [[]], [[1, 1, 9, 9]]])
def test_boxes_alone_can_be_evaluated(segmentation, folder, configure, tmp_path):
    for annotation in folder.targets["annotations"]:
        annotation["segmentation"] = segmentation
    folder.save()
    overrides = [o for o in folder.overrides() if not o.startswith("proposer")]
    metrics = run(configure(*overrides, "evaluation.kinds=[bbox]", "vis.limit=1"), tmp_path / "out")
    assert set(metrics) >= {"bbox/nAP"}
    assert "segm/nAP" not in metrics


def test_names_that_look_like_markup(folder, configure, tmp_path, capsys):
    for content in folder.content.values():
        content["categories"][0]["name"] = "stop [/sign]"
    folder.save()
    run(configure(*folder.overrides(), "vis.limit=1"), tmp_path / "out[1]")
    assert "stop [/sign]" in capsys.readouterr().out


def test_a_target_without_a_mask_is_ignored_and_counted(folder, configure, tmp_path, caplog):
    folder.targets["annotations"][0]["segmentation"] = [[0, 0, 0, 0, 0, 0]]
    folder.targets["annotations"][1]["segmentation"] = []
    folder.save()
    instances = len(folder.targets["annotations"])
    run(configure(*folder.overrides(), "~postprocess.nms", "vis.limit=0"), tmp_path / "out")
    record = RunRecord.read(tmp_path / "out")
    assert record.instances == instances - 2
    assert record.repairs["annotation without a mask: ignored in the evaluation"][0] == 2
    assert "annotation without a mask: ignored in the evaluation: 2, first: " in caplog.text


def test_empty_reference_masks_are_named(folder, configure, tmp_path):
    for annotation in folder.references["annotations"]:
        size = annotation["segmentation"]["size"]
        blank = coco_mask.encode(np.zeros(size, dtype=np.uint8, order="F"))
        annotation["segmentation"] = {"size": size, "counts": blank["counts"].decode()}
    folder.save()
    with pytest.raises(RefexpError, match=r"references\.json: .* masks cannot be used.*has a mask without area"):
        run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "out")


def test_the_three_forms_of_a_mask_agree():
    polygon = [[2, 2, 8, 2, 8, 6, 2, 6]]
    rle = annotation_rle({"segmentation": polygon}, 10, 12)
    mask = decode([annotation_rle({"segmentation": polygon}, 10, 12)])[0]
    flat = mask.flatten(order="F")
    counts = np.diff(np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1], [True]]))).tolist()
    uncompressed = {"size": [10, 12], "counts": counts if not flat[0] else [0, *counts]}
    compressed = {"size": [10, 12], "counts": rle["counts"].decode()}
    assert mask.any()
    for form in (uncompressed, compressed):
        np.testing.assert_array_equal(decode([annotation_rle({"segmentation": form}, 10, 12)])[0], mask)


@pytest.mark.parametrize(
    "form", [[2, 2, 8, 2, 8, 6, 2, 6], [[2, 2], [8, 2], [8, 6], [2, 6]], [[[2, 2], [8, 2], [8, 6], [2, 6]]]]
)
def test_a_polygon_alone_and_corners_as_pairs(form):
    expected = annotation_rle({"segmentation": [[2, 2, 8, 2, 8, 6, 2, 6]]}, 10, 12)
    assert annotation_rle({"segmentation": form}, 10, 12) == expected


@pytest.mark.parametrize("form", [[[2, 2, 8, 2, 8, None]], [[2, 2, 8, 2, 8, 6, 2]], [[2, 2, 8, 2, 8, "x"]], [[[]]]])
def test_polygons_that_would_end_the_process(form):
    with pytest.raises(ValueError, match="has an invalid polygon"):
        annotation_rle({"segmentation": form}, 10, 12)


def test_files_as_tools_write_them():
    """A category for the set as a whole, paths of Windows, and numbers as texts."""
    image = {"id": 1, "file_name": "images\\a.jpg", "width": 12, "height": 10}
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [2, 2, 6, 4], "iscrowd": crowd}
        for i, crowd in enumerate(("0", "1", 0, 1, None, True))
    ]
    content = {"images": [image], "annotations": annotations}
    content["categories"] = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    check_coco(content, "tool.json")
    assert [category["id"] for category in content["categories"]] == [1, 2]
    assert content["images"][0]["file_name"] == "images/a.jpg"
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[]], [[1, 1, 5, 5]], [1, 1, 5, 5], [[1, 1], [5, 5]], {}, {"size": [10, 12], "counts": ""}],
)
def test_no_usable_mask(segmentation):
    with pytest.raises(ValueError, match="has no mask"):
        annotation_rle({"segmentation": segmentation}, 10, 12)
