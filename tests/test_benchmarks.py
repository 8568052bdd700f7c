"""Published benchmarks: every dataset option on a miniature of its folders, recipes, sweeps, and the LVIS protocol."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from miniature import read
from omegaconf import OmegaConf
from runs import run
from torchvision.models.segmentation import FCN_ResNet50_Weights

from refexp.config.building import build
from refexp.config.components import build_experiment
from refexp.data.coco import Data, make_split
from refexp.data.custom import CustomDataset
from refexp.data.lvis import LvisSplit, check_lvis
from refexp.data.sampling import choose_references
from refexp.errors import RefexpError
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.lvis_protocol import LvisEvaluation
from refexp.evaluation.semantic import SemanticEvaluation
from refexp.evaluation.tide import BACKGROUND, HIT, IGNORED
from refexp.masks import encode
from refexp.show.page.mistakes import judge_all
from refexp.types import Detections

CDFSOD = {
    "artaxor": "ArTaxOr", "clipart1k": "clipart1k", "dior": "DIOR",
    "deepfish": "FISH", "neu_det": "NEU-DET", "uodd": "UODD",
}  # fmt: skip
RECIPES = ("coco_fsod", "coco20i", "voc", "cdfsod", "lvis")
CHEAP = ("encoder=efficientnet_lite0", "encoder.input_size=256", "proposer=oracle", "vis.limit=0")

COCO, LVIS = miniature.names(miniature.COCO_CATEGORIES), miniature.names(miniature.LVIS_CATEGORIES)
VOC = FCN_ResNet50_Weights.DEFAULT.meta["categories"][1:]
"""As COCO's names, from a source other than this repository; its first is the background."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    miniature.whole(root)
    return root


@pytest.fixture
def on(configure, root):
    """`on("dataset=coco")` -> the configuration, with the miniature as its data root."""
    return lambda *overrides: configure(f"++data_root={root}", *overrides)


def load(config):
    node = OmegaConf.to_container(config, resolve=True)
    data = build(node["dataset"], "dataset").load()
    return data, build(node["evaluation"], "evaluation")


FOLDS = {f"coco20i_{i}": COCO[i::4] for i in range(4)}
IN_COCO = {
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}  # fmt: skip
EXPECTED = {
    "coco": COCO,
    "coco_fsod": [IN_COCO.get(name, name) for name in VOC],
    **FOLDS,
    "voc_split1": ["bird", "bus", "cow", "motorbike", "sofa"],
    "voc_split2": ["aeroplane", "bottle", "cow", "horse", "sofa"],
    "voc_split3": ["boat", "cat", "motorbike", "sheep", "sofa"],
    "lvis": LVIS,
    "lvis_minival": LVIS,
    "lvis_rare": ["r_1", "r_4"],
    "lvis_common": ["c_2", "c_5"],
    "lvis_frequent": ["f_3", "f_6"],
    **{option: miniature.names(miniature.CDFSOD_CATEGORIES[folder]) for option, folder in CDFSOD.items()},
}


def protocol(option: str) -> tuple[type, list[str]]:
    """How a data set is evaluated, without a word of it on the command line."""
    if option in CDFSOD or option.startswith("voc"):
        return CocoEvaluation, ["bbox"]
    if option.startswith("lvis"):
        return LvisEvaluation, ["bbox", "segm"]
    return (SemanticEvaluation, None) if "20i" in option else (CocoEvaluation, ["bbox", "segm"])


def test_every_option_is_tested():
    options = {path.stem for path in (ROOT / "conf/dataset").glob("[!_]*.yaml")}
    assert set(EXPECTED) <= options
    assert set(EXPECTED) >= {o for o in options if "data_root" in (ROOT / f"conf/dataset/{o}.yaml").read_text()}


@pytest.mark.parametrize("option", EXPECTED)
def test_every_option_loads_from_its_published_layout(option, on):
    data, evaluation = load(on(f"dataset={option}", "shots=5"))
    assert (type(evaluation), getattr(evaluation, "kinds", None)) == protocol(option)
    assert sorted(data.classes) == sorted(EXPECTED[option])
    if option == "coco":
        assert list(data.classes) == EXPECTED[option]
    evaluation.check(data.targets)
    for split in (data.references, data.targets):
        record = list(split.images.values())[-1]
        assert split.read(record).shape == (record["height"], record["width"], 3)
        assert split.annotations
    assert not {data.references.fingerprint(r) for r in data.references.images.values()} & {
        data.targets.fingerprint(r) for r in data.targets.images.values()
    }


def test_the_folds_of_coco20i_share_nothing_and_are_all_of_coco(on):
    folds = [load(on(f"dataset={fold}"))[0].classes for fold in FOLDS]
    assert [len(fold) for fold in folds] == [20] * 4
    assert len(set(itertools.chain(*folds))) == 80


def test_the_folds_of_coco20i_differ_in_their_classes_alone(on):
    first, *others = [OmegaConf.to_container(on(f"dataset={fold}")) for fold in FOLDS]
    assert first["dataset"].pop("classes") not in [other["dataset"].pop("classes") for other in others]
    assert others == [first] * 3


@pytest.mark.parametrize("option", ["voc_split1", "artaxor"])
def test_boxes_alone_cannot_be_evaluated_as_masks(option, on):
    data, evaluation = load(on(f"dataset={option}", "evaluation.kinds=[bbox,segm]"))
    with pytest.raises(RefexpError, match="no masks, only boxes; use evaluation=boxes"):
        evaluation.check(data.targets)


@pytest.mark.parametrize(("option", "shots"), [(option, 5) for option in CDFSOD] + [("dior", 1), ("dior", 10)])
def test_all_references_of_a_published_list_serve(option, shots, on, root):
    config = on("experiment=cdfsod", f"dataset={option}", f"shots={shots}", "weights=random", "protocol=standard")
    experiment = build_experiment(config)
    offered = experiment.dataset.load()
    data, references = choose_references(offered, experiment.sampler, experiment.shots, seed=0)
    listed = read(root / f"cdfsod/{CDFSOD[option]}/annotations/{shots}_shot.json")["annotations"]
    assert list(data.classes) == EXPECTED[option]
    assert sorted(r.id for per_class in references for r in per_class) == sorted(a["id"] for a in listed)
    assert max(len(per_class) for per_class in references) == shots
    if shots == 10:
        assert len({r.image_id for r in references[0]}) < 10, "several references from one image"
        assert len(references[-1]) == 3, "a list with too few"


def test_the_published_protocol_repeats_the_first_instance_of_an_image(on):
    experiment = build_experiment(on("experiment=cdfsod", "dataset=dior", "shots=10", "weights=random"))
    offered = experiment.dataset.load()
    _, references = choose_references(offered, experiment.sampler, experiment.shots, seed=0)
    assert {len(per_class) for per_class in references} == {10}
    images = [r.image_id for r in references[0]]
    assert len(set(images)) == len({r.id for r in references[0]}) == 5, "one instance of each image, twice"
    assert len({r.id for r in references[-1]}) == 3, "a list with too few is filled with its own entries"


def test_lvis_images_come_from_both_parts_of_coco(on):
    data, _ = load(on("dataset=lvis"))
    assert {record["file_name"].split("/")[0] for record in data.targets.images.values()} == {"train2017", "val2017"}
    minival, _ = load(on("dataset=lvis_minival"))
    assert {record["file_name"].split("/")[0] for record in minival.targets.images.values()} == {"val2017"}


@pytest.mark.parametrize(
    ("overrides", "option", "metrics"),
    [
        (["experiment=coco_fsod"], "coco_fsod", ["segm/nAP50", "bbox/nAP"]),
        (["experiment=coco20i", "dataset=coco20i_3"], "coco20i_3", ["semantic/mIoU", "semantic/IoU/truck"]),
        (["dataset=coco"], "coco", ["segm/nAP", "bbox/AR100"]),
        (
            ["experiment=lvis"],
            "lvis",
            ["segm/nAP", "segm/nAP_rare", "bbox/nAP_common", "segm/nAP_frequent", "bbox/AR300", "segm/AR100"],
        ),
        (["experiment=lvis", "dataset=lvis_rare"], "lvis_rare", ["segm/nAP_rare"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_from_end_to_end(overrides, option, metrics, on, tmp_path):
    found = run(on(*overrides, *CHEAP, "shots=1", "seed=0"), tmp_path / "out")
    assert set(read(tmp_path / "out/metrics.json")["classes"]) == set(EXPECTED[option])
    for name in metrics:
        assert 0 < found[name] <= 1, name
    if "experiment=lvis" in overrides:
        assert found["segm/nAP"] > 0.9  # true masks
        assert (option == "lvis_rare") == (found["segm/nAP_frequent"] is None)


@pytest.mark.parametrize(
    "overrides", [["experiment=voc", "shots=1"], ["experiment=cdfsod", "dataset=uodd", "shots=5"]], ids=str
)
def test_references_with_boxes_alone_get_masks(overrides, on, tmp_path):
    cheap = [*CHEAP, "proposer=regions", "vis.limit=1", "shots.missing=repeat", "seed=0"]
    found = run(on(*overrides, *cheap), tmp_path / "out")
    assert found["bbox/nAP50"] > 0 and "segm/nAP" not in found
    references = read(tmp_path / "out/references.json")
    assert all(annotation["segmentation"]["counts"] for annotation in references["annotations"])
    with pytest.raises(RefexpError, match="OracleProposer cannot make masks from boxes"):
        run(on(*overrides, *cheap, "proposer=oracle"), tmp_path / "oracle")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_the_papers(recipe, on):
    config = on(f"experiment={recipe}", "shots=5", "seed=7", "weights=random")
    experiment = build_experiment(config)
    assert (config.name, experiment.shots.n, experiment.seed) == (recipe, 5, 7)
    assert (config.encoder.arch, config.proposer.model) == ("vitl14", "sam2_hiera_l")
    assert list(experiment.steps) == ["nms", "merge", "topk"]
    assert experiment.steps["nms"].threshold == 0.5
    assert experiment.steps["nms"].keep == 8 * experiment.steps["topk"].k == (2400 if recipe == "lvis" else 800)
    assert (experiment.encoder.input_size, experiment.encoder.reference_context) == (518, 0.2)
    assert (experiment.proposer.iou_threshold, experiment.proposer.no_mem_embed) == (0.4, False)
    assert len(experiment.proposer.points) == 32 * 32
    assert (config.shots.min_side, config.shots.border) == (32, 10)
    assert (config.precision, experiment.encoder.batch) == ("float32", 1)
    protocol = "standard" if recipe == "lvis" else "published"
    assert (experiment.protocol, experiment.evaluation.protocol) == (protocol, protocol)
    assert getattr(experiment.evaluation, "both", False) == (recipe != "lvis")
    experiment.evaluation.check(experiment.dataset.load().targets)
    assert on(f"experiment={recipe}").seed == (0 if recipe == "cdfsod" else 33)


def test_recipes_take_another_dataset(on):
    assert len(on("experiment=voc", "dataset=voc_split3").dataset.classes) == 5
    assert on("experiment=cdfsod", "dataset=uodd", "shots=10").sampler.path.endswith("UODD/annotations/10_shot.json")
    assert on("experiment=lvis").postprocess.topk.k == 300


SWEEPS = sorted(
    path.relative_to(ROOT / "sweeps")
    for kind in ("figure", "table")
    for path in (ROOT / "sweeps" / kind).glob("*.yaml")
)


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_every_choice_of_a_sweep_composes(sweep, root):
    here = f"+{sweep.parent}={sweep.stem}"
    search = f"hydra.searchpath=[file://{ROOT / 'sweeps'}]"

    def compose_config(*overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("config", [search, here, *overrides], return_hydra_config=True)

    parameters = compose_config().hydra.sweeper.params
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in parameters.items()]
    for job in itertools.zip_longest(*choices):
        job = [value or values[0] for value, values in zip(job, choices, strict=True)]
        config = compose_config(f"++data_root={root}", *job)
        assert config.name == ("coco_fsod" if sweep.stem == "shots" else sweep.stem)
        datasets = [o for o in job if o.startswith("dataset=")] or ["dataset=coco_fsod"]
        assert datasets == [f"dataset={config.hydra.runtime.choices.dataset}"]
        assert f"shots='{config.shots.n}'" in job
        assert "seed" not in parameters or f"seed={config.seed}" in job
    published = {row["table"] for row in read_published()}
    assert sweep.stem in published or "Published values: none on record" in (ROOT / "sweeps" / sweep).read_text()


def test_the_ablation_of_components_composes():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        search = f"hydra.searchpath=[file://{ROOT / 'sweeps'}]"
        parameters = compose("config", [search, "+ablation=components"], return_hydra_config=True).hydra.sweeper.params
        for group in ("matcher", "postprocess"):
            for option in parameters[group].split(","):
                compose("config", [f"{group}={option}"])


def test_missing_data_names_the_command_that_helps(command, tmp_path):
    done = command("dataset=coco20i_1", "data_root=my data")
    assert done.returncode == 1
    files = "val2017, annotations/instances_train2017.json, train2017, annotations/instances_val2017.json"
    assert f"my data/coco: {files}; `refexp data check coco20i_1 --root 'my data'` lists" in done.stdout
    done = command("dataset=custom", "dataset.images=none", "dataset.references=a.json", "dataset.targets=b.json")
    assert "no such folder: none" in done.stdout and "refexp data" not in done.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_it_needs_and_all_that_is_missing(recipe, configure, tmp_path, caplog):
    caplog.set_level("INFO")
    config = configure(f"experiment={recipe}", f"data_root={tmp_path}/data", f"checkpoints.dir={tmp_path}")
    with pytest.raises(RefexpError) as stopped:
        run(config, tmp_path / "out")
    (said,) = caplog.messages
    assert re.search(
        "needs: weights of SAM2 Hiera-L and DINOv2 ViT-L/14 .2.1 GB., 4 GB of GPU memory, .* estimate", said
    )
    names = [Path(config.dataset[key]).name for key in ("images", "references", "targets")]
    for what in ("sam2_hiera_large.pt", "dinov2_vitl14_pretrain.pth", *names):
        assert what in str(stopped.value)


def test_a_sweep_runs(command, root, tmp_path):
    process = command(
        "-m", "--config-dir", str(ROOT / "sweeps"), "+table=coco_fsod", f"++data_root={root}", *CHEAP,
        "shots=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    jobs = [read(tmp_path / f"sweep/{job}/metrics.json") for job in range(2)]
    assert [(job["shots"], job["seed"], len(job["classes"])) for job in jobs] == [(1, 33, 20), (2, 33, 20)]


def read_published() -> list[dict[str, str]]:
    with (ROOT / "sweeps/published.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_published_numbers_agree_with_their_means():
    rows = read_published()
    assert list(rows[0]) == ["table", "dataset", "shots", "metric", "mean", "deviation", "source"]
    assert {row["dataset"] for row in rows} <= {*EXPECTED, "mean"}
    assert all(0 < float(row["mean"]) < 100 and row["source"].startswith("arXiv ") for row in rows)
    assert len({(*list(row.values())[:4], row["source"]) for row in rows}) == len(rows)

    def numbers(table, shots=None):
        kept = (
            r for r in rows if r["table"] == table and r["source"] == "arXiv 2507.02798" and shots in (None, r["shots"])
        )
        return {(r["dataset"], r["shots"]): float(r["mean"]) for r in kept}

    for table, shots in (("voc", None), ("cdfsod", "1"), ("cdfsod", "5"), ("cdfsod", "10")):
        values = numbers(table, shots)
        [mean] = [values.pop(key) for key in list(values) if key[0] == "mean"]
        assert len(values) == (15 if table == "voc" else 6)
        assert np.mean(list(values.values())) == pytest.approx(mean, abs=0.051)


# The LVIS protocol.


def test_the_page_judges_as_the_protocol_does():
    split = federated([(1, 1, HERE), (1, 3, HERE)], {1: ([], [1])})
    found = detections(1, (1, 0.9, ELSEWHERE), (1, 0.5, HERE), (2, 0.4, ELSEWHERE), (3, 0.3, ELSEWHERE))
    judged = judge_all(Data(("c1", "c2", "c3"), split, split), [found], "segm")[1].judgement
    assert judged.kinds == [IGNORED, HIT, IGNORED, BACKGROUND]


def rectangle(left, top, width=10, height=10, side=64):
    mask = np.zeros((1, side, side), dtype=bool)
    mask[0, top : top + height, left : left + width] = True
    return encode(mask)[0]


def federated(objects, images, categories="rcf"):
    """An LVIS split of objects (image, category, mask) in images {id: (negative, not exhaustive)}."""
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "segmentation": mask}
        for i, (image, category, mask) in enumerate(objects, start=1)
    ]
    content = {
        "images": [
            {"id": i, "height": 64, "width": 64, "neg_category_ids": no, "not_exhaustive_category_ids": some}
            for i, (no, some) in images.items()
        ],
        "annotations": [a | {"bbox": [0, 0, 1, 1], "area": 100} for a in annotations],
        "categories": [{"id": i, "name": f"c{i}", "frequency": f} for i, f in enumerate(categories, start=1)],
    }
    names = [category["name"] for category in content["categories"]]
    split = make_split(content, "lvis.json", names, lambda record: None, lambda record: "")
    return LvisSplit(**vars(split), groups=check_lvis(content, "lvis.json"))


def detections(image, *rows):
    """Each row (category, score, mask)."""
    labels = torch.tensor([category - 1 for category, _, _ in rows], dtype=torch.int64)
    return Detections(image, labels, torch.tensor([score for _, score, _ in rows]), [mask for *_, mask in rows])


def evaluate(split, *found, **given):
    names = [f"c{i}" for i in sorted(split.labels)]
    return LvisEvaluation(["segm"], **given).evaluate(split, found, names).metrics


HERE, ELSEWHERE = rectangle(5, 5), rectangle(40, 40)


@pytest.mark.parametrize(
    ("lists", "precision"),
    [
        (([], []), 1),  # nothing is known of the class in image 2
        (([1], []), 0.5),  # known to be absent: one of two detections is right
        (([2], []), 1),  # another class is known to be absent
    ],
)
def test_a_detection_counts_where_its_class_is_known(lists, precision):
    split = federated([(1, 1, HERE)], {1: ([], []), 2: lists})
    found = evaluate(split, detections(1, (1, 0.5, HERE)), detections(2, (1, 0.9, HERE)))
    assert [found[f"segm/{name}"] for name in ("nAP", "nAP/c1", "nAP50")] == pytest.approx([precision] * 3)


@pytest.mark.parametrize(("not_exhaustive", "precision"), [([], 0.5), ([1], 1), ([2], 0.5)])
def test_where_not_all_is_annotated_the_unmatched_is_ignored(not_exhaustive, precision):
    split = federated([(1, 1, HERE)], {1: ([], not_exhaustive)})
    found = evaluate(split, detections(1, (1, 0.9, ELSEWHERE), (1, 0.5, HERE)))
    assert found["segm/nAP"] == pytest.approx(precision)


def test_groups_of_frequency():
    split = federated([(1, 1, HERE), (1, 2, ELSEWHERE), (1, 4, ELSEWHERE)], {1: ([], [])}, "rcfc")
    rows = (1, 0.9, ELSEWHERE), (1, 0.5, HERE), (2, 0.8, ELSEWHERE)
    found = evaluate(split, detections(1, *rows))
    expected = {"nAP_rare": 0.5, "nAP_common": 0.5, "nAP_frequent": None, "nAP": 0.5, "nAP/c2": 1, "nAP/c4": 0}
    assert {name: found[f"segm/{name}"] for name in expected} == pytest.approx(expected)
    # One detection of a class and image: that of class 1 is wrong.
    assert (found["segm/AR1"], found["segm/AR10"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    alone = split.restrict([1])
    assert evaluate(alone, detections(1, (1, 0.8, ELSEWHERE)))["segm/nAP_rare"] is None


@pytest.mark.parametrize(("limit", "precision"), [(300, 1), (299, 0)])
def test_only_the_best_of_an_image_count_over_all_classes(limit, precision):
    split = federated([(1, 1, HERE)], {1: ([], [])})
    rows = [(2, 0.9, ELSEWHERE)] * 299 + [(1, 0.5, HERE)]
    assert evaluate(split, detections(1, *rows), max_detections=limit)["segm/nAP"] == pytest.approx(precision)


def random_rectangles(seed):
    """A split of 12 images and 6 classes, and some 200 detections."""
    rng = np.random.default_rng(seed)
    objects = [
        (int(image), int(category), (*rng.integers(0, 30, 2).tolist(), *rng.integers(8, 30, 2).tolist()))
        for image, category in zip(rng.integers(1, 13, 60), rng.integers(1, 7, 60), strict=True)
    ]
    images = {}
    for image in range(1, 13):
        present = sorted({category for i, category, _ in objects if i == image})
        absent = [c for c in range(1, 7) if c not in present and rng.random() < 0.5]
        images[image] = (absent, [c for c in present if rng.random() < 0.4])
    found = []
    for image in images:
        rows = []
        for _, category, (x, y, w, h) in [o for o in objects if o[0] == image]:
            for _ in range(rng.integers(1, 5)):
                moved = rectangle(x + int(rng.integers(0, 4)), y + int(rng.integers(0, 4)), w, h)
                rows.append((category if rng.random() < 0.7 else int(rng.integers(1, 7)), rng.random(), moved))
        found.append(detections(image, *rows))
    return federated([(i, c, rectangle(*box)) for i, c, box in objects], images, "rcfrcf"), found


def test_equals_the_lvis_package():
    """Numbers of lvis 0.5.3 on the same rectangles (it needs numpy's old name for float put back)."""
    expected = {
        "nAP": 0.32759504384504384, "nAP50": 0.6451919505137327, "nAP75": 0.26667099860169163,
        "nAP_small": 0.32759504384504384, "nAP_rare": 0.31192428858270443, "nAP_common": 0.34143413929305017,
        "nAP_frequent": 0.3294267036593769, "AR300": 0.49312710437710433,
    }  # fmt: skip
    split, found = random_rectangles(0)
    metrics = evaluate(split, *found)
    assert {name: metrics[f"segm/{name}"] for name in expected} == pytest.approx(expected, abs=1e-9, rel=0)


def test_lvis_needs_its_own_annotations(on, root, tmp_path):
    data, evaluation = load(on("dataset=coco", "evaluation=lvis"))
    with pytest.raises(RefexpError, match="dataset=lvis"):
        evaluation.check(data.targets)
    with pytest.raises(RefexpError, match=r"instances_val2017\.json: id 100 has neg_category_ids=None"):
        load(on("dataset=lvis", f"dataset.targets={root / 'coco/annotations/instances_val2017.json'}"))
    with pytest.raises(RefexpError, match="'often'"):
        load(on("dataset=lvis", "dataset.frequency=[often]"))
    with pytest.raises(RefexpError, match=r"dataset\.frequency=\['rare'\]: no class"):
        load(on("dataset=lvis_rare", "dataset.classes=[f_3]"))


def test_a_missing_data_root_is_said(configure, tmp_path):
    with pytest.raises(RefexpError, match=r"dataset\.images: no such folder: .*coco/val2017"):
        load(configure(f"++data_root={tmp_path}", "dataset=coco_fsod"))


def test_only_lvis_and_voc_need_a_class_of_their_own(configure):
    targets = {
        option: configure("++data_root=x", f"dataset={option}").dataset._target_.rsplit(".", 1)[-1]
        for option in EXPECTED
    }
    assert {option for option, name in targets.items() if name != CustomDataset.__name__} == {
        option for option in EXPECTED if option.startswith(("lvis", "voc"))
    }
