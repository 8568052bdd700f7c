"""refexp from Python: the five lines of the README, the same answers as the main job, and mistakes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import run
from test_predict import coco_references, drawn_folder, overrides, read_json, scenes  # noqa: F401 - fixtures

import refexp
from refexp.api import Model, given_in_memory, to_rgb
from refexp.config.composing import conf_folder
from refexp.errors import RefexpError
from refexp.masks import decode, encode
from refexp.types import Detections


@pytest.fixture(scope="module")
def model() -> Model:
    return refexp.load()


@pytest.fixture
def taught(model, drawn_folder) -> Model:  # noqa: F811
    return model.remember(drawn_folder / "refs")


def test_importing_refexp_is_cheap():
    code = "import sys, refexp; assert not {'torch', 'hydra', 'numpy'} & set(sys.modules), sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_answers_as_the_main_job(taught, drawn_folder, configure, tmp_path):  # noqa: F811
    steps = "postprocess=soft_merge"  # the default of refexp.load; the task's own is one_class
    run(configure(*overrides(drawn_folder, "vis.limit=0", steps)), tmp_path / "out")
    expected = read_json(tmp_path / "out/detections.json")
    photos = sorted((drawn_folder / "photos").rglob("*.jpg"))
    names = [photo.relative_to(drawn_folder / "photos").as_posix() for photo in photos]
    found = [taught.predict(photo, name) for photo, name in zip(photos, names, strict=True)]
    assert [row for detections in found for row in detections.to_coco()] == expected
    assert found[0].classes == ("ladybird", "leaf")


def test_nothing_is_written(drawn_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    refexp.load("proposer.max_proposals=5").remember(drawn_folder / "refs").predict(
        drawn_folder / "photos/scene_01.jpg"
    )
    assert not list(tmp_path.iterdir())


def test_images_of_every_kind(taught, drawn_folder, tmp_path):  # noqa: F811
    path = drawn_folder / "photos/scene_01.jpg"
    rgb = np.asarray(Image.open(path))
    expected = taught.predict(str(path))
    assert expected.image_id == "scene_01.jpg" and len(expected)
    for image in (Image.open(path), rgb, Image.fromarray(rgb).convert("RGBA")):
        found = taught.predict(image, "scene_01.jpg")
        assert found.to_coco() == expected.to_coco()
    assert taught.predict(rgb).image_id == 0
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    for turned in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert taught.predict(turned).masks[0]["size"] == [rgb.shape[1], rgb.shape[0]]
    assert taught.predict(rgb[..., 0]).masks[0]["size"] == list(rgb.shape[:2])


def test_references_in_every_form(model, drawn_folder, scenes):  # noqa: F811
    folder = drawn_folder / "refs"
    bank = model.remember(folder).bank
    pairs = {
        name: [(folder / name / f"{i}.png", folder / name / f"{i}_mask.png") for i in (1, 2)]
        for name in ("ladybird", "leaf")
    }
    arrays = {
        name: [(Image.open(image), np.asarray(Image.open(mask)) > 0) for image, mask in some]
        for name, some in pairs.items()
    }
    content = coco_references(scenes)
    (scenes / "refs.json").write_text(json.dumps(content))
    for references, images in ((pairs, None), (arrays, None), (str(scenes / "refs.json"), scenes / "refs")):
        again = model.remember(references, images)
        assert again.classes == ("ladybird", "leaf")
        assert torch.equal(again.bank.prototypes, bank.prototypes)
    for annotation in content["annotations"][:1]:
        del annotation["segmentation"]
    (scenes / "refs.json").write_text(json.dumps(content))
    boxes = model.remember(scenes / "refs.json", scenes / "refs").bank
    assert torch.equal(boxes.prototypes[1], bank.prototypes[1])
    # A region in place of the drawn mask: nearly the same, not the same.
    assert float(boxes.prototypes[0] @ bank.prototypes[0]) > 0.9
    assert not torch.equal(boxes.prototypes[0], bank.prototypes[0])


def test_remembering_again_forgets(model, drawn_folder):  # noqa: F811
    leaf = drawn_folder / "refs/leaf"
    model.remember(drawn_folder / "refs").remember({"only": [(leaf / "1.png", leaf / "1_mask.png")]})
    found = model.predict(drawn_folder / "photos/scene_01.jpg")
    assert found.classes == ("only",) and set(found.labels.tolist()) == {0}


def test_random_weights_are_said(caplog):
    refexp.load("weights=random")
    assert "RANDOM WEIGHTS (encoder)" in caplog.text


@pytest.mark.parametrize(
    ("overrides_", "message"),
    [
        (["encoder=dinov2"], "encoder=dinov2: no such option. Did you mean 'dinov2_"),
        (["shots=-1"], "shots=-1: no such option. Did you mean '1'"),
        (["matcher=null,3"], "matcher=null,3: several values make a sweep: add -m."),
        (["input.limit=2,3"], """add -m. Or quote one value: "input.limit='2,3'"."""),
        (["shots=[1,5]"], "shots=[1,5]: give one option. A sweep over several: -m shots=1,5"),
        (["shots 5"], "shots 5: not understood; write key=value."),
        (
            ["dataset.classes=[a b"],
            "dataset.classes=[a b: not understood: no viable alternative at input '[a b'.",
        ),
        (["sede=1"], "sede: no such key"),
        (["postprocess.nms.iou_threshold=2"], "postprocess.nms.iou_threshold=2"),
        (["proposer=oracle"], "OracleProposer needs annotated targets"),
        (["encoder=dinov2_vitl14"], "dinov2_vitl14_pretrain.pth"),
        (["dataset=custom"], "dataset.images, dataset.references, dataset.targets must be given"),
    ],
)
def test_mistaken_overrides(overrides_, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefexpError) as error:
        refexp.load(*overrides_)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_class_without_references_is_left_out(model, drawn_folder, caplog):  # noqa: F811
    leaf = drawn_folder / "refs/leaf"
    model.remember({"cat": [], "leaf": [(leaf / "1.png", leaf / "1_mask.png")]})
    assert model.classes == ("leaf",) and "class cat is left out: it has no references" in caplog.text
    found = model.predict(drawn_folder / "photos/scene_01.jpg")
    assert found.decode().shape == (len(found), *found.size) and len(found)
    assert found.above(1).decode().shape == (0, *found.size)


def test_mistaken_references_and_images(model, tmp_path):
    fresh = Model(model.encoder, model.proposer, model.matcher, model.steps, model.device)
    grey = np.zeros((40, 50), dtype=np.uint8)
    mask = grey + 1
    with pytest.raises(RefexpError, match=r"no references yet: call model\.remember"):
        fresh.predict(grey)
    with pytest.raises(RefexpError, match="no such file or folder: nowhere"):
        model.remember("nowhere")
    with pytest.raises(RefexpError, match=r"reference cat\[1\]: the mask has size \[50, 40\]"):
        model.remember({"cat": [(grey, mask), (grey, mask.T)]})
    with pytest.raises(RefexpError, match=r"reference cat\[0\]: .* and 0 pixels on the object"):
        model.remember({"cat": [(grey, grey)]})
    with pytest.raises(RefexpError, match="so no references"):
        model.remember({})
    for pairs in (["photo.jpg"], [(grey, mask, mask)]):
        with pytest.raises(RefexpError, match=r"reference cat\[0\] must be a pair"):
            model.remember({"cat": pairs})
    for wrong in (np.zeros((4, 5, 4), dtype=np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), dtype=np.uint8)):
        with pytest.raises(RefexpError, match=r"must be u8 \[H, W, 3\]"):
            to_rgb(wrong)
    (tmp_path / "photo.jpg").write_text("no image")
    with pytest.raises(RefexpError, match=r"photo\.jpg cannot be read: it is not an image"):
        to_rgb(tmp_path / "photo.jpg")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(whole, "PNG")
    with pytest.raises(RefexpError, match="this image cannot be read: "):
        to_rgb(Image.open(io.BytesIO(whole.getvalue()[:2000])))


@pytest.mark.parametrize("wrong", [None, 5, b"a.jpg", [[0]], torch.zeros(4, 5, 3, dtype=torch.uint8)])
def test_what_is_no_picture_and_no_reference_is_told_by_its_type(model, wrong):
    with pytest.raises(RefexpError, match="an image must be a file, a PIL image or a NumPy array, not"):
        to_rgb(wrong)
    with pytest.raises(RefexpError, match="references must be a file, a folder or"):
        model.remember(wrong)


@pytest.mark.parametrize("path", ["a\0.jpg", "a" * 5000])
def test_a_path_that_no_file_can_have(path):
    with pytest.raises(RefexpError, match="image not found"):
        to_rgb(path)


def test_references_in_memory_are_checked_like_those_of_files():
    pair = (np.zeros((40, 50), dtype=np.uint8), np.eye(40, 50))
    classes, split = given_in_memory({1: [pair], "a\nb": (reference for reference in [pair])})
    assert (classes, len(split.annotations)) == (("1", "a b"), 2)
    wrong = [
        ({"cat": None}, "must be a list of pairs"), ({None: [pair]}, "must be a text, not None"),
        ({"é": [pair], "e\u0301": [pair]}, "two classes have the name é"),
        ({"cat": [(pair[0], torch.ones(40, 50, requires_grad=True))]}, "cannot become an array"),
    ]  # fmt: skip
    for references, message in wrong:
        with pytest.raises(RefexpError, match=message):
            given_in_memory(references)
    assert to_rgb(np.zeros((4, 5), dtype=np.uint8).view(np.matrix)).shape == (4, 5, 3)


# --- Detections


@pytest.fixture
def two() -> Detections:
    masks = np.zeros((2, 20, 30), dtype=bool)
    masks[0, 2:5, 10:20] = True
    masks[1, 10:, :4] = True
    scores = torch.tensor([0.9, 0.5])
    return Detections("a.jpg", torch.tensor([1, 0]), scores, encode(masks), ("cat", "dog"))


def test_boxes_and_thresholds(two):
    np.testing.assert_array_equal(two.boxes_xyxy, [[10, 2, 20, 5], [0, 10, 4, 20]])
    assert two.above(0).scores.tolist() == two.scores.tolist()
    best = two.above(0.6)
    assert (best.labels.tolist(), len(best), best.classes) == ([1], 1, ("cat", "dog"))
    assert two.above(1).boxes_xyxy.shape == (0, 4) and two.above(1).to_coco() == []


def test_coco_rows(two):
    first, second = two.to_coco()
    assert first["image_id"] == "a.jpg" and (first["category_id"], second["category_id"]) == (2, 1)
    assert first["bbox"] == [10, 2, 10, 3] and first["score"] == pytest.approx(0.9)
    assert json.loads(json.dumps(first)) == first
    assert [row["category_id"] for row in two.to_coco({0: 17, 1: "dog"})] == ["dog", 17]


def test_supervision_gets_what_it_knows(two, monkeypatch):
    """The package's own names for everything; with the package itself in the next test, where it is installed."""
    stand_in = SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    fields = two.to_supervision()
    assert fields["xyxy"].tolist() == two.boxes_xyxy.tolist()
    np.testing.assert_array_equal(fields["mask"], decode(two.masks))
    assert fields["confidence"].tolist() == two.scores.tolist() and fields["class_id"].tolist() == [1, 0]
    assert fields["data"]["class_name"].tolist() == ["dog", "cat"]


def test_supervision_itself(two):
    supervision = pytest.importorskip("supervision")
    found = two.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    assert found["class_name"].tolist() == ["dog", "cat"] and found.mask.dtype == bool
    assert found[found.confidence > 0.6].class_id.tolist() == [1]
    assert len(two.above(1).to_supervision()) == 0


def test_supervision_that_is_missing(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(RefexpError, match="pip install supervision"):
        two.to_supervision()


def test_packaged_configuration(monkeypatch, tmp_path):
    import refexp.config.composing

    package = tmp_path / "site-packages/refexp"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr(refexp.config.composing, "__file__", str(package / "config/composing.py"))
    with pytest.raises(RefexpError, match="no configuration in"):
        conf_folder()
    (package / "conf/config.yaml").write_text("seed: 0")
    assert conf_folder() == Path(package / "conf").resolve()
