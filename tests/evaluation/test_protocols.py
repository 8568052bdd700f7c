"""The published protocol beside the standard one: one test for each row of docs/reproducing.md, and whole runs."""

from __future__ import annotations

import contextlib
import io
import json

import miniature
import numpy as np
import pytest
import torch
from conftest import GOLDEN, Folder
from miniature import read, voc_object, voc_xml, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from runs import run

from refexp.config.building import build
from refexp.config.composing import compose_config, resolve
from refexp.data.coco import make_split
from refexp.data.protocols import SHORT_TRUTH
from refexp.data.sampling import PaperSampler, Shots, as_published
from refexp.data.voc import VocDataset
from refexp.datatools import voc as voc_tool
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.lvis_protocol import LvisEvaluation
from refexp.evaluation.reference import truth_row
from refexp.evaluation.semantic import PublishedLabels, SemanticEvaluation
from refexp.files import write_json
from refexp.folders.run_folder import RunFolder
from refexp.masks import areas, encode, upscale_to_rle
from refexp.matchers.prototype import PrototypeMatcher
from refexp.method.memory import build_bank, instance_prototype
from refexp.method.pipeline import detect, extract
from refexp.postprocess.steps import ClassNMS, SoftMerge, TopK
from refexp.proposers.sam2 import SAM2Proposer
from refexp.show.compare import compare_runs
from refexp.show.tables.choose import Wanted, make_tables
from refexp.show.tables.published import read_figures
from refexp.show.tables.runs import find_runs
from refexp.types import Detections, Target, Weights


def split_of(content):
    names = [category["name"] for category in content["categories"]]
    return make_split(content, "targets.json", names, lambda record: None, lambda record: "")


# Boxes against the numbers of the published evaluation.

NAMES = {"AP": "nAP", "AP50": "nAP50", "AP75": "nAP75"}


@pytest.fixture(scope="module")
def boxes():
    return json.loads((GOLDEN / "boxes_coco_mini_a.json").read_text())


@pytest.fixture(scope="module")
def boxes_evaluated(boxes):
    """Metrics of the same detections, led by each protocol, and by both."""
    targets, found = split_of(boxes), []
    for image_id in targets.images:
        rows = [row for row in boxes["detections"] if row["image_id"] == image_id]
        labels = torch.tensor([targets.labels[row["category_id"]] for row in rows], dtype=torch.int64)
        scores = torch.tensor([row["score"] for row in rows], dtype=torch.float64)
        masks = [{**row["segmentation"], "counts": row["segmentation"]["counts"].encode()} for row in rows]
        found.append(Detections(image_id, labels, scores, masks))
    classes = [category["name"] for category in boxes["categories"]]
    settings = {"published": {"protocol": "published", "both": True}, "standard": {}}
    return {
        name: CocoEvaluation(["bbox"], **of).evaluate(targets, found, classes).metrics for name, of in settings.items()
    }


def test_boxes_give_the_numbers_of_the_published_evaluation(boxes, boxes_evaluated):
    metrics = boxes_evaluated["published"]
    ours = [metrics[f"bbox/{NAMES.get(name, name.replace('AP', 'nAP'))}"] for name in boxes["published"]]
    assert ours == pytest.approx(list(boxes["published"].values()), abs=1e-8)
    assert 100 * metrics["bbox/nAP"] == pytest.approx(18.3265, abs=5e-5)


def test_boxes_give_the_standard_number(boxes, boxes_evaluated):
    metrics = boxes_evaluated["standard"]
    assert 100 * metrics["bbox/nAP"] == pytest.approx(19.1546, abs=5e-5)
    assert metrics["bbox/nAP"] == pytest.approx(boxes["standard"]["AP"], abs=1e-6)
    both = boxes_evaluated["published"]
    assert {name: both[name.replace("bbox/", "bbox@standard/")] for name in metrics} == metrics


# The whole pipeline on planted logits and predicted IoUs (tests/golden/matching.npz).


class Planted(SAM2Proposer):
    """SAM2's proposer with the decoder's answers given."""

    def __init__(self, logits: torch.Tensor, ious: torch.Tensor) -> None:
        super().__init__("sam2_hiera_t", "checkpoints", weights="random")
        self.logits, self.ious, self.device, self.batch = logits, ious, torch.device("cpu"), 64
        self.prompts = torch.arange(len(ious))

    def embed(self, square, no_mem_embed):
        return None

    def decode(self, prompts, image):
        passed = prompts[self.ious[prompts] > self.iou_threshold]
        return self.ious[passed], self.logits[passed]


class Given(Encoder):
    """An encoder with its answer given, f32 [G * G, C]."""

    input_size, grid, reference_context = 518, 37, 0.2

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def provenance(self):
        return Weights.random()

    def load(self, device):
        pass

    def forward(self, inputs):
        return self.tokens[None]


@pytest.fixture(scope="module")
def pipeline(golden):
    """The golden arrays, and the detections of their image."""
    gold = golden("matching")
    height, width = gold["ori_hw"].tolist()
    target = Target(1, np.zeros((height, width, 3), dtype=np.uint8), torch.zeros(3, 1024, 1024))
    proposer = Planted(torch.from_numpy(gold["lr_logits"]).float(), torch.from_numpy(gold["pred_ious"]))
    encoder = Given(torch.from_numpy(gold["target_feat"]).float())
    (proposals,) = extract([target], encoder, proposer, torch.device("cpu"))
    feats, weights = torch.from_numpy(gold["mem_feats"]).float(), torch.from_numpy(gold["mem_masks"])
    bank = build_bank(
        torch.stack([instance_prototype(f, w) for f, w in zip(*of_class, strict=True)])
        for of_class in zip(feats, weights, strict=True)
    )
    return gold, detect(1, proposals, bank, PrototypeMatcher(), [ClassNMS(keep=800), SoftMerge(), TopK(100)])


def planted_truth(gold):
    """Each fourth golden detection as an instance, two pixels to the right; each twelfth has another class."""
    rows = gold["k100_inds"][::4]
    logits = torch.from_numpy(gold["lr_logits"][rows]).float().roll(2, dims=2)
    masks = upscale_to_rle(logits, tuple(gold["ori_hw"].tolist()))
    height, width = gold["ori_hw"].tolist()
    annotations = []
    for i, (mask, label) in enumerate(zip(masks, gold["k100_labels"][::4].tolist(), strict=True)):
        (box,) = Detections(1, torch.tensor([0]), torch.tensor([1.0]), [mask]).to_coco()
        annotations.append({
            "id": i + 1, "image_id": 1, "category_id": 1 + (label + (i % 3 == 0)) % 3, "iscrowd": 0,
            "bbox": box["bbox"], "area": int(areas([mask])[0]), "segmentation": mask,
        })  # fmt: skip
    categories = [{"id": 1 + i, "name": name} for i, name in enumerate("abc")]
    return {
        "images": [{"id": 1, "height": height, "width": width}], "annotations": annotations, "categories": categories,
    }  # fmt: skip


def plain_nap(truth, gold, more: int) -> float:
    """Box nAP of the golden detections by pycocotools alone. more: pixels from x2 - x1 to the width."""
    x1, y1, x2, y2 = gold["k100_boxes_xyxy"].astype(float).T
    boxes = np.stack([x1, y1, x2 - x1 + more, y2 - y1 + more], axis=1).tolist()
    rows = zip(gold["k100_labels"], gold["k100_scores"], boxes, strict=True)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        found = [{"image_id": 1, "category_id": 1 + int(c), "score": float(s), "bbox": b} for c, s, b in rows]
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_planted_proposals_give_the_published_detections(pipeline):
    gold, found = pipeline
    np.testing.assert_array_equal(found.labels, gold["k100_labels"])
    np.testing.assert_allclose(found.scores, gold["k100_scores"], atol=2e-6)
    np.testing.assert_array_equal(areas(found.masks), gold["k100_areas"])
    np.testing.assert_array_equal(found.boxes_xyxy - [0, 0, 1, 1], gold["k100_boxes_xyxy"])


def test_planted_proposals_give_the_nap_of_the_published_detections(pipeline):
    gold, found = pipeline
    truth = planted_truth(gold)
    metrics = CocoEvaluation(protocol="published", both=True).evaluate(split_of(truth), [found], "abc").metrics
    assert metrics["bbox/nAP"] == pytest.approx(plain_nap(truth, gold, 0), abs=1e-9)
    assert metrics["bbox@standard/nAP"] == pytest.approx(plain_nap(truth, gold, 1), abs=1e-9)
    assert 0.05 < metrics["bbox/nAP"] != metrics["bbox@standard/nAP"]


# PASCAL VOC: boxes and order as in the XML files, read by either protocol.


@pytest.fixture
def devkit(tmp_path):
    """Two images. In the first, a difficult dog stands before the others. A dog is 32 pixels wide, another one 33."""
    folder = tmp_path / "VOCdevkit/VOC2007"
    objects = [
        voc_object("dog", [20, 20, 50, 50], difficult=True), voc_object("dog", [80, 20, 32, 60]),
        voc_object("dog", [130, 20, 33, 60]), voc_object("cat", [200, 20, 16, 16]),
    ]  # fmt: skip
    for name, inside in (("000001", objects), ("000002", [voc_object("dog", [30, 40, 70, 80])])):
        miniature.draw(folder / f"JPEGImages/{name}.jpg", [1])
        write(folder / f"Annotations/{name}.xml", voc_xml("".join(inside)))
    write(folder / "ImageSets/Main/trainval.txt", "000001\n000002\n")
    write_json(tmp_path / "voc.json", voc_tool.convert(folder.parent, [2007], "trainval"))
    return tmp_path


def voc_data(devkit, protocol):
    file = str(devkit / "voc.json")
    return VocDataset(str(devkit / "VOCdevkit"), file, file, classes=["dog", "cat"], protocol=protocol).load()


def test_voc_references_have_the_published_boxes_and_order(devkit):
    standard, published = (voc_data(devkit, protocol).references.annotations for protocol in ("standard", "published"))
    assert [(a["id"], a["bbox"]) for a in standard] == [
        (1, [20, 20, 50, 50]), (2, [80, 20, 32, 60]), (3, [130, 20, 33, 60]), (4, [200, 20, 16, 16]),
        (5, [30, 40, 70, 80]),
    ]  # fmt: skip
    # In the XML file the first one has xmin 81 and xmax 112: its width is 31 there, its start 80, counted from 0.
    assert [(a["id"], a["bbox"]) for a in published] == [
        (2, [80, 20, 31, 59]), (3, [130, 20, 32, 59]), (4, [200, 20, 15, 15]), (1, [20, 20, 49, 49]),
        (5, [30, 40, 69, 79]),
    ]  # fmt: skip


def test_voc_seeds_draw_other_references_by_each_protocol(devkit):
    drawn = {}
    for protocol in ("standard", "published"):
        split = voc_data(devkit, protocol).references
        drawn[protocol] = [
            [a["id"] for a in PaperSampler().choose(split, Shots(2), seed, ("dog", "cat"))[0]] for seed in range(40)
        ]
    assert any(2 in ids for ids in drawn["standard"])
    assert not any(2 in ids for ids in drawn["published"])  # 31 pixels wide there, so too small
    assert not any(1 in ids for of_seed in drawn.values() for ids in of_seed)  # difficult
    assert {frozenset(ids) for ids in drawn["published"]} == {frozenset([3, 5])}
    assert drawn["standard"] != drawn["published"]


def test_voc_truth_is_one_short_by_the_published_protocol_alone(devkit):
    for protocol in ("standard", "published"):
        split = voc_data(devkit, protocol).targets
        annotation = split.annotations[1]
        number = {image_id: image_id for image_id in split.images}
        rows = {of: truth_row("bbox", annotation, split, number, 1, of) for of in ("standard", "published")}
        assert (rows["standard"]["bbox"], rows["standard"]["area"]) == ([80, 20, 32, 60], 32 * 60)
        assert (rows["published"]["bbox"], rows["published"]["area"]) == ([80, 20, 31, 59], 31 * 59)


def test_exact_boxes_are_exact_by_either_protocol_on_voc(devkit):
    """Of exact detections, VOC's published truth has the same boxes. COCO's has not."""
    split = voc_data(devkit, "published").targets
    found = []
    for image_id, of_image in split.by_image.items():
        masks = np.zeros((len(of_image), 240, 320), dtype=bool)
        for mask, annotation in zip(masks, of_image, strict=True):
            x, y, w, h = map(int, annotation["bbox"])
            mask[y : y + h, x : x + w] = True
        labels = torch.tensor([split.labels[a["category_id"]] for a in of_image])
        found.append(Detections(image_id, labels, torch.ones(len(labels)), encode(masks)))
    evaluation = CocoEvaluation(["bbox"], protocol="published", both=True)
    metrics = evaluation.evaluate(split, found, ("dog", "cat")).metrics
    assert metrics["bbox/nAP"] == pytest.approx(1) and metrics["bbox@standard/nAP"] == pytest.approx(1)
    for annotation in split.annotations:
        del annotation[SHORT_TRUTH]
    assert evaluation.evaluate(split, found, ("dog", "cat")).metrics["bbox/nAP"] < 0.95


# CD-FSOD: which of the listed instances are used. tests/data/test_reference_files.py has the published lists.


def listed(*images):
    return [{"id": number, "image_id": image} for number, image in enumerate(images)]


def test_of_several_instances_in_an_image_the_first_is_repeated():
    chosen = as_published({0: listed("a", "b", "a", "c", "a"), 1: listed("a", "a")}, 5)
    assert [one["id"] for one in chosen[0]] == [0, 0, 0, 1, 3]
    assert [one["id"] for one in chosen[1]] == [0] * 5


def test_a_short_list_is_filled_with_a_fixed_seed():
    """By random.choices after random.seed(42). The other class has enough, so it takes nothing from the stream."""
    chosen = as_published({0: listed(*"abcdefghij"), 1: listed(*"abcdefg")}, 10)
    assert [one["id"] for one in chosen[0]] == list(range(10))
    assert [one["id"] for one in chosen[1]] == [*range(7), 4, 0, 1]
    assert as_published({0: []}, 3) == {0: []}


# COCO-20i: label maps of 2 x 6 pixels.

CATS = [{"id": 10 * (i + 1), "name": f"c{i}"} for i in range(8)]
FOLDS = {0: ("c0", "c4"), 1: ("c1", "c5"), 2: ("c1", "c2", "c6")}


def strip(left, right):
    mask = np.zeros((1, 2, 6), dtype=bool)
    mask[0, :, left:right] = True
    return encode(mask)[0]


def semantic(classes, truth, found, **settings):
    """truth: (class, mask, crowd). found: (class, score, mask)."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": 10 * (int(name[1:]) + 1), "segmentation": mask, "iscrowd": crowd}
        for i, (name, mask, crowd) in enumerate(truth, start=1)
    ]
    content = {"images": [{"id": 1, "height": 2, "width": 6}], "annotations": annotations, "categories": CATS}
    split = make_split(content, "targets.json", classes, lambda record: None, lambda record: "")
    labels = torch.tensor([classes.index(name) for name, _, _ in found])
    detections = Detections(1, labels, torch.tensor([score for _, score, _ in found]), [mask for *_, mask in found])
    return SemanticEvaluation(**settings).evaluate(split, [detections], classes).metrics


def test_the_published_mean_is_over_the_first_values_with_the_background():
    """Two classes, so the values 0 and 1 count. Class c5 has the value 5, so it does not count."""
    truth = [("c1", strip(0, 2), 0), ("c5", strip(2, 4), 0)]
    found = [("c1", 0.9, strip(0, 3)), ("c5", 0.8, strip(3, 4))]
    published = semantic(("c1", "c5"), truth, found, protocol="published")
    assert published["semantic/IoU/c1"] == pytest.approx(4 / 6) and published["semantic/IoU/c5"] == pytest.approx(2 / 4)
    assert published["semantic/mIoU"] == pytest.approx((4 / 6 + 1) / 2)  # c1 and background
    assert semantic(("c1", "c5"), truth, found)["semantic/mIoU"] == pytest.approx((4 / 6 + 2 / 4) / 2)


def test_the_first_category_is_one_with_the_published_background():
    truth, found = [("c0", strip(0, 3), 0), ("c4", strip(3, 6), 0)], [("c4", 0.9, strip(3, 6))]
    assert semantic(("c0", "c4"), truth, found, protocol="published")["semantic/mIoU"] == 1  # nobody misses c0
    assert semantic(("c0", "c4"), truth, found)["semantic/mIoU"] == 0.5


def test_the_lowest_score_lies_on_top_by_the_published_protocol():
    truth = [("c1", strip(0, 6), 0)]
    found = [("c1", 0.9, strip(0, 6)), ("c2", 0.6, strip(0, 3)), ("c6", 0.4, strip(0, 6))]
    both = semantic(FOLDS[2], truth, found, protocol="published", both=True)
    assert both["semantic/IoU/c1"] == pytest.approx(6 / 12) and both["semantic@standard/IoU/c1"] == 1
    # c2 is only predicted. It counts by the published protocol. There is no background.
    assert both["semantic/mIoU"] == pytest.approx((0.5 + 0) / 2) and both["semantic@standard/mIoU"] == 1
    assert semantic(FOLDS[2], truth, found, both=True) == {
        (name.replace("@standard", "") if "@" in name else name.replace("/", "@published/", 1)): value
        for name, value in both.items()
    }


def test_published_annotations_lie_in_the_order_of_the_file_without_crowds():
    truth = [("c5", strip(0, 2), 0), ("c1", strip(0, 4), 0), ("c1", strip(4, 6), 1)]
    found = [("c1", 0.9, strip(0, 6))]
    published = semantic(("c1", "c5"), truth, found, protocol="published")
    assert published["semantic/IoU/c1"] == pytest.approx(8 / 12) and published["semantic/IoU/c5"] is None
    standard = semantic(("c1", "c5"), truth, found)  # c5 is smaller, so on top; the crowd is void
    assert standard["semantic/IoU/c1"] == pytest.approx(4 / 8) and standard["semantic/IoU/c5"] == 0


@pytest.mark.parametrize(
    ("fold", "values"),
    list(enumerate([[0, 4, 8, 12, 16], [0, 1, 5, 9, 13, 17], [0, 2, 6, 10, 14, 18], [0, 3, 7, 11, 15, 19]])),
)
def test_a_fold_of_coco20i_counts_five_or_six_values(fold, values):
    content = {"images": [], "annotations": [], "categories": miniature.COCO_CATEGORIES}
    names = miniature.names(miniature.COCO_CATEGORIES)[fold::4]
    split = make_split(content, "targets.json", names, lambda record: None, lambda record: "")
    assert len(names) == 20 and PublishedLabels(split).counted == values


# What has no published protocol.


def test_what_has_only_the_standard_protocol_says_so():
    with pytest.raises(RefexpError, match="LVIS has no published protocol on record; set protocol=standard"):
        LvisEvaluation(protocol="published")
    with pytest.raises(RefexpError, match="average=foreground exists by the standard protocol only"):
        SemanticEvaluation(average="foreground", protocol="published")
    with pytest.raises(RefexpError, match="diagnostics=true needs both_protocols=true or protocol=standard"):
        CocoEvaluation(protocol="published", diagnostics=True).check(None)


@pytest.mark.parametrize("old", ["evaluation.box_end=last", "+evaluation.box_end=last"])
def test_the_old_key_of_boxes_names_the_new_one(old):
    with pytest.raises(RefexpError, match=r"evaluation.box_end: .* It was replaced: set protocol=published"):
        build(resolve(compose_config([old])).get("evaluation"), "evaluation")


@pytest.mark.parametrize(
    ("old", "new"), [("evaluation=fast", "evaluation=coco"), ("evaluation.engine=faster", "evaluation.engine=refexp")]
)
def test_the_old_engine_names_the_new_one(old, new):
    with pytest.raises(RefexpError, match=f"It was replaced: set {new}"):
        build(resolve(compose_config([old]))["evaluation"], "evaluation")


def test_the_old_key_of_the_average_names_the_new_one():
    config = resolve(compose_config(["evaluation=semantic", "evaluation.protocol=foreground"]))
    with pytest.raises(RefexpError, match=r"It was replaced: set evaluation.average=foreground"):
        build(config["evaluation"], "evaluation")


# Whole runs.


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, drawn):
    """A custom set evaluated by each protocol; the second one by both: folder and terminal text of each run."""
    root, said = tmp_path_factory.mktemp("runs"), {}
    data = [one.replace("oracle", "regions") for one in Folder(root / "data", drawn).overrides()]
    both = ["both_protocols=true", "published_detections=true", "evaluation.diagnostics=true"]
    few = ["input.limit=3", "vis.limit=0"]
    for protocol, more in (("standard", []), ("published", both)):
        terminal = io.StringIO()
        config = compose_config([*data, f"protocol={protocol}", f"store.dir={root / 'store'}", *few, *more])
        with contextlib.redirect_stdout(terminal):
            run(config, root / "runs" / protocol)
        said[protocol] = root / "runs" / protocol, " ".join(terminal.getvalue().split())
    return said


def test_one_run_by_each_protocol(two_runs):
    (standard, said), (published, said_published) = two_runs["standard"], two_runs["published"]
    one, other = read(standard / "metrics.json"), read(published / "metrics.json")
    assert (one["protocol"], other["protocol"]) == ("standard", "published")
    masks = [{k: v for k, v in of["metrics"].items() if k.startswith("segm/")} for of in (one, other)]
    assert masks[0] and masks[0] == masks[1]
    assert one["metrics"]["bbox/nAP"] == other["metrics"]["bbox@standard/nAP"] != other["metrics"]["bbox/nAP"]
    assert not any("@" in name for name in one["metrics"])
    assert "instances, standard protocol; percent" in said and "box, " not in said
    assert "instances, published protocol; percent" in said_published
    assert "│ box, published │" in said_published and "│ box, standard │" in said_published
    pages = [(folder / "report.html").read_text() for folder in (standard, published)]
    assert "· standard protocol ·" in pages[0] and "boxes, standard" not in pages[0]
    assert "· published protocol ·" in pages[1]
    assert "boxes, published protocol" in pages[1] and "boxes, standard protocol" in pages[1]


def test_detections_keep_standard_boxes_and_the_published_ones_lie_beside(two_runs):
    standard, published = two_runs["standard"][0], two_runs["published"][0]
    assert (standard / "detections.json").read_bytes() == (published / "detections.json").read_bytes()
    assert not (standard / "detections_published.json").exists()
    rows, short = read(published / "detections.json"), read(published / "detections_published.json")
    assert rows and len(rows) == len(short)
    for row, other in zip(rows, short, strict=True):
        assert other == row | {"bbox": [row["bbox"][0], row["bbox"][1], row["bbox"][2] - 1, row["bbox"][3] - 1]}


def test_tables_tell_the_protocols_apart(two_runs):
    published = two_runs["published"][0]
    titles = [table.title for table in make_tables(find_runs([published]), Wanted(), read_figures())]
    assert [title.split(": ")[1].split(" in percent")[0] for title in titles] == [
        "mask nAP", "box nAP, published protocol", "box nAP, standard protocol",
    ]  # fmt: skip
    tables = make_tables(find_runs([published.parent]), Wanted(), read_figures())
    assert [(table.rows, table.metric) for table in tables] == [("protocol", "segm/nAP"), ("protocol", "bbox/nAP")]
    assert [row for row, _ in tables[0].lines] == ["published", "standard"]


def test_boxes_by_different_protocols_do_not_compare(two_runs):
    runs = [RunFolder(folder) for folder, _ in two_runs.values()]
    assert compare_runs(*runs).kind == "segm"  # masks do not depend on it
    for one in runs:
        del one.matches["segm"]
    with pytest.raises(RefexpError, match="boxes by the standard and by the published protocol do not compare"):
        compare_runs(*runs)


def test_diagnostics_of_a_published_run_are_by_the_standard_protocol(two_runs):
    folder, said = two_runs["published"]
    diagnosis, metrics = read(folder / "diagnostics.json"), read(folder / "metrics.json")["metrics"]
    assert diagnosis["protocol"] == "standard"
    assert diagnosis["kinds"]["bbox"]["nAP"] == metrics["bbox@standard/nAP"]
    assert "this run, standard protocol" in said
    assert "this run, standard protocol" in (folder / "report.html").read_text()


def test_figures_of_voc_carry_the_note_on_masks(configure, tmp_path, capsys):
    miniature.voc(tmp_path)
    miniature.convert_voc(tmp_path)
    cheap = [
        "encoder=efficientnet_lite0",
        "encoder.input_size=256",
        "proposer=regions",
        "vis.limit=0",
        "shots=1",
        "dataset.classes=[bird]",
    ]
    config = configure("experiment=voc", f"data_root={tmp_path}", "shots.missing=repeat", *cheap)
    metrics = run(config, tmp_path / "out")
    note = "References' masks differ from the published ones (SAM 1 ViT-H polygons)."
    assert note in read(tmp_path / "out/metrics.json")["note"] and note in capsys.readouterr().out
    assert "References&#39; masks differ" in (tmp_path / "out/report.html").read_text()
    assert {"bbox/nAP50", "bbox@standard/nAP50"} <= set(metrics)
