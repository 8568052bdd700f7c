"""Geometry of annotations against the frame of their image: the right mask, a counted repair, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refexp.data.coco import annotation_rle
from refexp.errors import RefexpError
from refexp.inputs import frames
from refexp.inputs.geometry import decompressed
from refexp.inputs.images import file_sizes, read_rgb
from refexp.inputs.records import check_coco
from refexp.inputs.repairs import collecting
from refexp.masks import areas, decode

TALL = [100, 200, 200, 200, 200, 380, 100, 380]
"""A rectangle in a photograph of 300 x 400 pixels, which no landscape frame of that size holds."""
ROTATE = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def coco(width, height, *annotations: dict) -> dict:
    """One image, with annotations that have a mask and a box unless they say otherwise."""
    sound = {"image_id": 1, "category_id": 1, "bbox": [100, 200, 100, 180], "segmentation": [TALL]}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}],
        "annotations": [{"id": k, **sound, **annotation} for k, annotation in enumerate(annotations or ({},), start=1)],
        "categories": [{"id": 1, "name": "cat"}],
    }


def settled(content: dict, look=None) -> tuple[dict, dict[str, int]]:
    with collecting() as repairs:
        check_coco(content, "f.json", look)
    return content, {what: count for what, (count, _) in repairs.found.items()}


def photograph(folder, width, height, points, orientation=1):
    """A green photograph of this size, as a person sees it, with a red rectangle; stored with an EXIF orientation."""
    rgb = np.zeros((height, width, 3), dtype=np.uint8)
    rgb[..., 1] = 128
    x1, y1, x2, y2 = points
    rgb[y1:y2, x1:x2] = 255, 0, 0
    image, exif = Image.fromarray(rgb), Image.Exif()
    exif[0x0112] = orientation
    turn = ROTATE[orientation]
    (image.transpose(turn) if turn else image).save(folder / "a.jpg", exif=exif, quality=95)


def iou_with_red(folder, content) -> float:
    """IoU of the first annotation's mask with the red pixels of the photograph."""
    image, annotation = content["images"][0], content["annotations"][0]
    mask = decode([annotation_rle(annotation, image["height"], image["width"])])[0]
    rgb = read_rgb(folder / "a.jpg", image["height"], image["width"]).astype(int)
    red = (rgb[..., 0] > 150) & (rgb[..., 1] < 100)
    return float((mask & red).sum() / (mask | red).sum())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(300, 400), (400, 300), (None, None), (-1, -1), (0, 400), (10**30, 400), ("x", [])])
def test_the_frame_is_the_one_that_holds_all_coordinates(size, orientation, tmp_path):
    photograph(tmp_path, 300, 400, (100, 200, 200, 380), orientation)
    content, repairs = settled(coco(*size), file_sizes(tmp_path))
    assert iou_with_red(tmp_path, content) > 0.97
    assert bool(repairs) == (size != (300, 400))


def test_where_several_frames_hold_all_coordinates_the_written_size_decides(tmp_path):
    photograph(tmp_path, 300, 400, (100, 50, 200, 150), 6)
    polygon = {"segmentation": [[100, 50, 200, 50, 200, 150, 100, 150]], "bbox": [100, 50, 100, 100]}
    for width, height in ((300, 400), (400, 300)):
        content, repairs = settled(coco(width, height, polygon), file_sizes(tmp_path))
        assert (content["images"][0]["width"], repairs) == (width, {})


def test_an_rle_decides_for_the_frame_of_its_size(tmp_path):
    photograph(tmp_path, 300, 400, (100, 200, 200, 380), 6)
    mask = np.zeros((400, 300), dtype=np.uint8, order="F")
    mask[200:380, 100:200] = 1
    rle = coco_mask.encode(mask)
    annotation = {"segmentation": {"size": [400, 300], "counts": rle["counts"].decode()}}
    content, _ = settled(coco(400, 300, annotation), file_sizes(tmp_path))
    assert iou_with_red(tmp_path, content) > 0.97


def test_without_a_size_and_a_file_the_image_is_named():
    with pytest.raises(RefexpError, match=r"f\.json: 1 images have no usable width and height.*first a\.jpg"):
        settled(coco(None, None), lambda name: None)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[900, 900, 999, 900, 999, 999]], "1 its mask lies outside its image"),
        ([[100, 200, 200, 200, 5e7, 5e7]], "lies outside"), ([[100, 200, 1e12, 200, 200, 380]], "lies outside"),
        ([[10, 10, 10, 10, 10, 10]], "has a mask without area"), ([[1e308, 0, 0, 1, 1, 1e308]], "invalid polygon"),
        ({"size": [9, 9], "counts": [41, 40]}, "another size"), ({"size": [400, 300], "counts": [5, 5]}, "not add up"),
        ({"size": [400, 300], "counts": "garbage"}, "broken RLE"), ({"size": None, "counts": "0"}, "usable size"),
        ({"size": [400, 300], "counts": {"a": 1}}, "neither a list nor a text"), ("12 12 14", "neither polygons nor"),
    ],
)  # fmt: skip
def test_a_file_with_one_mask_that_cannot_be_used_is_refused(segmentation, message):
    with pytest.raises(RefexpError, match=message):
        settled(coco(300, 400, {"segmentation": segmentation}))


def test_one_of_many_is_left_out_or_keeps_its_box():
    outside, odd = {"segmentation": [[900, 900, 999, 900, 999, 999]]}, {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}
    content, repairs = settled(coco(300, 400, {}, outside, odd, {}, {}))
    assert [a["id"] for a in content["annotations"]] == [1, 3, 4, 5]
    assert "segmentation" not in content["annotations"][1]
    assert repairs == {
        "mask that cannot be used, only its box is kept": 1,
        "annotation left out: its mask lies outside its image": 1,
    }


def test_a_mask_that_leaves_its_image_a_little_is_clipped():
    content, repairs = settled(
        coco(300, 400, {"segmentation": [[100, 200, 320, 200, 320, 380, 100, 380]], "bbox": None})
    )
    assert int(areas([annotation_rle(content["annotations"][0], 400, 300)])[0]) == 200 * 180
    assert content["annotations"][0]["bbox"] == [100, 200, 200, 180]
    assert repairs == {"mask clipped to its image": 1}


@pytest.mark.parametrize("counts", [[79800, 10, 390, 10, 390, 39400], [79800, 10, 39990, 10, 190]])
def test_an_rle_written_as_a_bare_list(counts):
    content, repairs = settled(coco(300, 400, {"segmentation": counts, "bbox": None}))
    mask = decode([annotation_rle(content["annotations"][0], 400, 300)])[0]
    flat = np.repeat(np.arange(len(counts)) % 2, counts).reshape(300, 400).T
    np.testing.assert_array_equal(mask, flat.astype(bool))
    assert "RLE mask written as a bare list" in repairs


def test_polygons_and_boxes_in_fractions_of_the_image():
    fractions = [[x / 300, y / 400] for x, y in zip(TALL[::2], TALL[1::2], strict=True)]
    content, _ = settled(coco(300, 400, {"segmentation": fractions, "bbox": None}))
    assert content["annotations"][0]["bbox"] == [100, 200, 100, 180]
    content, _ = settled(coco(300, 400, {"segmentation": None, "bbox": [1 / 3, 0.5, 1 / 3, 0.45]}))
    np.testing.assert_allclose(content["annotations"][0]["bbox"], [100, 200, 100, 180])


WRONG_BOXES = (
    [0, 0, 0, 0], [200, 380, -100, -180], [0.33, 0.5, 0.33, 0.45], [], {}, "box", [None] * 4, [True, False], None,
    ["100", "200", "100", "180"], [100, 200, 200, 380], [150, 290, 100, 180], [1e400, 0, 1, 1],
)  # fmt: skip


@pytest.mark.parametrize("box", WRONG_BOXES, ids=str)
def test_a_box_that_contradicts_its_mask_is_replaced(box):
    content, repairs = settled(coco(300, 400, {"bbox": box}))
    assert content["annotations"][0]["bbox"] == [100, 200, 100, 180]
    assert bool(repairs) == (box is not None)


@pytest.mark.parametrize("others", [[], [{"area": 18000}], [{"area": [18000]}], [{"area": {}}]], ids=str)
@pytest.mark.parametrize("area", [-12000, 1.0, 0, "many", [], [18000], [18000, 1], {}, 1e9, True], ids=str)
def test_an_area_that_contradicts_its_mask_is_dropped(area, others):
    content, repairs = settled(coco(300, 400, {"area": area}, *others))
    assert "area" not in content["annotations"][0]
    kept = [one["area"] if one["area"] == 18000 else None for one in others]
    assert repairs == {"area that contradicts its mask or box dropped": 1 + kept.count(None)}
    assert [one.get("area") for one in content["annotations"][1:]] == kept


def test_an_area_and_a_box_as_texts():
    content, _ = settled(coco(300, 400, {"area": "18000", "bbox": ["100", "200", "100", "180"]}))
    assert (content["annotations"][0]["area"], content["annotations"][0]["bbox"]) == (18000, [100, 200, 100, 180])


@pytest.mark.parametrize(
    ("box", "settled_box"),
    [
        ([100, 200, 100, 180], [100, 200, 100, 180]), ([200, 380, -100, -180], [100, 200, 100, 180]),
        ([100, 200, 210, 180], [100, 200, 200, 180]), ([-1, 0, 301, 401], [-1, 0, 301, 401]),
    ],
)  # fmt: skip
def test_boxes_without_masks(box, settled_box):
    content, _ = settled(coco(300, 400, {"segmentation": None, "bbox": box}))
    assert content["annotations"][0]["bbox"] == settled_box


@pytest.mark.parametrize("box", [[900, 900, 9, 9], [10, 10, 0, 5], [], [0, 0, 900, 400]])
def test_a_box_without_a_mask_that_cannot_be_used_is_left_out(box):
    content, _ = settled(coco(300, 400, {}, {"segmentation": None, "bbox": box}, {}))
    assert [a["id"] for a in content["annotations"]] == [1, 3]


def test_boxes_of_corners_are_refused():
    corners = [{"segmentation": None, "bbox": box} for box in ([10, 10, 60, 60], [150, 200, 290, 390])]
    with pytest.raises(RefexpError, match=r"its boxes seem to be \[x1, y1, x2, y2\]"):
        settled(coco(300, 400, *corners))


def test_the_quick_look_and_the_close_look_agree(monkeypatch):
    """Sound annotations come out of the close look as they went in."""
    random = np.random.default_rng(0)
    sound = []
    for _ in range(50):
        x, y, w, h = random.integers(20, 120, 4).tolist()
        polygon = [x, y, x + w, y + 1, x + w - 0.5, y + h, x + 3, y + h]
        sound.append({"segmentation": [polygon], "bbox": [x, y, w, h], "area": w * h * 0.97})
    quick, repairs = settled(coco(300, 400, *sound))
    assert repairs == {}
    monkeypatch.setattr(frames, "suspects", lambda annotations, images, start: range(start, start + len(annotations)))
    assert settled(coco(300, 400, *sound)) == (quick, {})


def test_run_lengths_equal_those_of_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width = random.integers(1, 90, 2)
        mask = np.asfortranarray(random.random((height, width)) < random.random(), dtype=np.uint8)
        flat = mask.ravel(order="F")
        runs = decompressed(coco_mask.encode(mask)["counts"])
        np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs), flat)


@pytest.mark.parametrize("code", [b"", b"\x00", b"\xff", b"PPPPPPPPPPPPPPP", b"`", b"0" * 5])
def test_codes_that_are_none_are_refused(code):
    runs = decompressed(code)
    assert runs is None or runs.sum() != 100 or (runs < 0).any()


def test_a_pixel_in_the_corner_of_its_image_is_no_fraction():
    corner = {"segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]], "bbox": [0, 0, 1, 1], "area": 1}
    box = {"segmentation": [], "bbox": [0, 0, 0.9, 0.9]}
    content, repairs = settled(coco(300, 400, {}, {}, {}, corner, box))
    assert [a["bbox"] for a in content["annotations"][3:]] == [[0, 0, 1, 1], [0, 0, 0.9, 0.9]]
    assert areas([annotation_rle(content["annotations"][3], 400, 300)]).tolist() == [1]
    assert repairs == {}


def test_fractions_may_leave_the_image_a_little_and_cover_it():
    boxes = [[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0.5, 0.55, 0.5]]
    content, repairs = settled(coco(300, 400, *({"segmentation": None, "bbox": box} for box in boxes)))
    found = [a["bbox"] for a in content["annotations"]]
    np.testing.assert_allclose(found, [[30, 40, 150, 200], [0, 0, 300, 400], [150, 200, 150, 200]])
    assert repairs == {"bbox in fractions of the image": 3, "bbox clipped to its image": 1}


@pytest.mark.parametrize("written", [(600, 800), (150, 200)])
def test_a_picture_of_another_scale_is_refused_although_an_annotation_leaves_it_a_little(tmp_path, written):
    width, height = written
    photograph(tmp_path, 300, 400, (100, 200, 200, 380))
    outside = {"segmentation": [[width - 50, 20, width + 3, 20, width + 3, 90]], "bbox": [width - 50, 20, 53, 70]}
    inside = {"segmentation": [[20, 20, 90, 20, 90, 90]], "bbox": [20, 20, 70, 70]}
    look = file_sizes(tmp_path)
    content, repairs = settled(coco(width, height, outside, inside), look)
    assert repairs == {"mask clipped to its image": 1}
    with pytest.raises(RefexpError, match=f"300 x 400 pixels, but its annotations say {width} x {height}"):
        frames.settle_contradiction(content["images"][0], look("a.jpg"), content["annotations"], "f.json")


def test_a_mask_is_never_dropped_without_a_word():
    rle = {"size": [400, 300], "counts": [40200, 180, 400 * 300 - 40380]}
    listed, thin, dicts = {"segmentation": [rle]}, {"segmentation": [[1, 2, 3, 4]]}, {"segmentation": [{"x": 1}]}
    content, repairs = settled(coco(300, 400, {}, {}, {}, listed, thin, dicts))
    assert areas([annotation_rle(content["annotations"][3], 400, 300)]).tolist() == [180]
    assert repairs["mask that cannot be used, only its box is kept"] == 2


def test_true_in_a_polygon_is_1():
    polygon = [100, 200, 200, 200, 200, 380, 100, 380, 100, True]
    content, _ = settled(coco(300, 400, {"segmentation": [polygon], "bbox": [100, 1, 100, 379]}))
    assert areas([annotation_rle(content["annotations"][0], 400, 300)])[0] > 0


def test_images_of_more_pixels_than_an_rle_can_hold():
    counts = [10**10 - 10, 10]
    content = coco(100_000, 100_000, {"segmentation": {"size": [100_000, 100_000], "counts": counts}})
    with pytest.raises(RefexpError, match="1 images have no usable width and height"):
        settled(content)
    with pytest.raises(RefexpError, match="more than an RLE can hold"):
        settled(coco(300, 400, {"segmentation": {"size": [100_000, 100_000], "counts": counts}}))


def test_boxes_of_corners_are_known_beside_one_without_area():
    boxes = [[30, 30, 80, 80], [200, 250, 290, 390], [0, 0, 0, 0]]
    with pytest.raises(RefexpError, match="seem to be"):
        settled(coco(300, 400, *({"segmentation": None, "bbox": box} for box in boxes)))
