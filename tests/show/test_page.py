"""The report page of a run, read as text; `test_browser` opens it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES
from PIL import Image

from refexp.data.coco import Data, make_split
from refexp.data.rendering import render_split
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.protocol import Evaluated
from refexp.folders.record import Metrics, RunRecord
from refexp.folders.run_folder import RunFolder, references_to_coco
from refexp.masks import decode, encode
from refexp.show.gallery import draw_targets
from refexp.show.instances import Instance
from refexp.show.overlays import color
from refexp.show.page.drawing import SIDE, crop, mask_path, page_size
from refexp.show.page.report import write_report
from refexp.show.tables.page import write_sweep_report
from refexp.show.tables.summary import Wanted, summarise
from refexp.types import Detections

EVIL = '</script><script>boom()</script><b title="it\'s">'
ORDINARY = r"https?://(www\.w3\.org/2000/svg|arxiv\.org/abs/2507\.02798)"
"""A name space, which nobody opens, and the link to the paper."""


def splits(names=CLASSES, images: int = 4, file_name: str = "{}.png") -> Data:
    """Drawn references and targets; of more than four targets the pictures repeat."""
    parts = {}
    for part, count in (("references", 12), ("targets", 4)):
        pictures, content = render_split(3, CLASSES, count, part)
        for category, name in zip(content["categories"], names, strict=True):
            category["name"] = name
        by_id = {record["id"]: picture for record, picture in zip(content["images"], pictures, strict=True)}
        if part == "targets":
            first = content["images"]
            content["images"] = [{**first[i % 4], "id": i + 1, "like": first[i % 4]["id"]} for i in range(images)]
        for record in content["images"]:
            record["file_name"] = file_name.format(record["id"])

        def read(record, by_id=by_id):
            return by_id[record.get("like", record["id"])]

        parts[part] = make_split(content, f"SYNTHETIC {part}", names, read, lambda record: "")
    return Data(tuple(names), **parts)


def detect(data: Data) -> list[Detections]:
    """Per image: its first instance as the other class (not in each fourth), the others rightly, and nothing at all."""
    detections = []
    for image_id, record in data.targets.images.items():
        found = [a for a in data.targets.annotations if a["image_id"] == image_id]
        labels = [data.targets.labels[a["category_id"]] for a in found]
        nothing = np.zeros((1, record["height"], record["width"]), dtype=bool)
        nothing[:, 2:30, 2:40] = True
        labels = [*[1 - label if i == 0 and image_id % 4 else label for i, label in enumerate(labels)], 0]
        scores = torch.tensor([0.9 - 0.05 * i for i in range(len(found))] + [0.3])
        masks = [*[data.targets.mask(a) for a in found], *encode(nothing)]
        detections.append(Detections(image_id, torch.tensor(labels), scores, masks, data.classes))
    return detections


def run_of(output: Path, data: Data, note: str | None = None, change=lambda data, found: found) -> RunFolder:
    """The folder of a run, without the run. change: makes other detections of those of `detect`."""
    detections, annotations = [change(data, found) for found in detect(data)], data.targets.annotations
    evaluated = CocoEvaluation().evaluate(data.targets, detections, data.classes) if annotations else Evaluated({}, {})
    by_label = [
        [a for a in data.references.annotations if data.references.labels[a["category_id"]] == k] for k in (0, 1)
    ]
    references = [[data.references.reference(a) for a in per_class[:2]] for per_class in by_label]
    config = {
        "name": "run", "vis": {"score_threshold": 0.5}, "encoder": {"_target_": "x.Encoder"},
        "proposer": {"_target_": "x.SAM2", "model": "sam2_hiera_l"}, "matcher": {"_target_": "x.Matcher"},
    }  # fmt: skip
    run = RunFolder(output)
    run.begin(config, references_to_coco(references, data), note)
    run.write_detections(detections, data)
    run.write_curves(evaluated.curves)
    run.write_matches(evaluated.matches, evaluated.metrics)
    instances = {
        name: sum(data.targets.labels[a["category_id"]] == k for a in annotations)
        for k, name in enumerate(data.classes)
    }
    record = RunRecord(
        config=config, targets=data.targets.source, seed=0, shots=2, classes=data.classes, note=note,
        metrics=Metrics.from_flat(evaluated.metrics), images=len(data.targets.images), instances=len(annotations),
        instances_of_class=instances, detections=sum(map(len, detections)), device="cpu (1 threads)",
        references={name: len(drawn) for name, drawn in zip(data.classes, references, strict=True)},
        reference_ids={name: [r.id for r in drawn] for name, drawn in zip(data.classes, references, strict=True)},
        weights={"encoder": {"origin": "RANDOM WEIGHTS, seed 0", "kind": "random", "file": None, "sha256": None}},
        stages={"extract": {"seconds": 2.0, "items": 4, "per_second": 2.0}},
        peak_memory_mib={"process": 100.0}, versions={"torch": "2"},
    )  # fmt: skip
    run.write_record(record)
    return run


def report_of(output: Path, data: Data, limit: int | None = None, note: str | None = None) -> Path:
    """The page of a run."""
    return write_report(run_of(output, data, note), limit, 0.5)


def local_links(text: str) -> set[str]:
    return {link for link in re.findall(r'(?:src|href)="([^"]*)"', text) if not link.startswith(("#", "data:"))}


def part(path: Path):
    """The data of a file beside the page."""
    return json.loads(re.fullmatch(r'refexpPart\("[^"]+",(.*)\);\n', path.read_text(), re.DOTALL)[1])


def test_page_stands_on_its_files_alone(tmp_path):
    text = report_of(tmp_path, splits(), note="RANDOM WEIGHTS (encoder)").read_text()
    assert not re.findall(r"(?:https?:)?//(?!/)[\w.]+\.\w\w+", re.sub(ORDINARY, "", text))
    links = local_links(re.sub(ORDINARY, "#", text))
    assert len(links) >= 4 + 4 + 4  # images, misses and references at least
    assert all((tmp_path / link).is_file() for link in links)
    assert all((tmp_path / f"report/layers/{i}.js").is_file() for i in range(4))
    assert 'role="note">RANDOM WEIGHTS (encoder)<' in text
    assert "SAM2 sam2_hiera_l" in text


def test_memory_bank_is_shown_where_it_was_drawn(tmp_path):
    assert "memory_bank.png" not in report_of(tmp_path, splits()).read_text()
    run = run_of(tmp_path, splits())
    (tmp_path / "memory_bank.png").write_bytes(b"")
    assert "memory_bank.png" in local_links(write_report(run, None, 0.5).read_text())


def test_names_never_become_markup(tmp_path):
    data = splits(names=(EVIL, "leaf"), file_name='"><img src=x onerror=boom()>{}.png')
    text = report_of(tmp_path, data).read_text()
    assert "<script>boom" not in text
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert "&lt;/script&gt;&lt;script&gt;boom()" in text


def test_numbers_of_names_without_a_font_stand_on_the_page(tmp_path):
    text = report_of(tmp_path, splits(names=("\U000f0000<", "leaf\0\x1b"))).read_text()
    assert "numbers: #1 is \U000f0000&lt;.</p>" in text
    assert "leaf\\x00\\x1b" in text and "\0" not in text
    assert "show numbers" not in report_of(tmp_path / "usual", splits()).read_text()


def test_a_picture_that_fails_leaves_the_others(tmp_path, caplog):
    data = splits()
    read = data.targets.read
    bad = next(iter(data.targets.images))

    def damaged(record):
        if record["id"] == bad:
            raise ValueError("no pixels")
        return read(record)

    run = run_of(tmp_path, Data(data.classes, data.references, replace(data.targets, read=damaged)))
    text = write_report(run, None, 0.5).read_text()
    assert len(re.findall('<figure class="card"', text)) == 3
    assert all((tmp_path / link).is_file() for link in local_links(re.sub(ORDINARY, "#", text)))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{bad}.png on the page was not drawn: ValueError: no pixels")
    draw_targets(tmp_path / "overlays", run.data, run.detections, 0.5, None)
    assert len(list((tmp_path / "overlays").iterdir())) == 3


def test_layers_tell_hits_from_errors(tmp_path):
    data = splits()
    report_of(tmp_path, data)
    layers = part(tmp_path / "report/layers/0.js")
    inline = re.search(r'id="data">(.*?)</script>', (tmp_path / "report.html").read_text())[1]
    names = [judgement["name"] for judgement in json.loads(inline)["judgements"]]
    first = next(iter(data.targets.images))
    count = sum(a["image_id"] == first for a in data.targets.annotations)
    verdicts = [names[item["j"]] for item in layers["found"]]
    assert verdicts == ["wrong class", *["hit"] * (count - 1), "background"]

    assert [names[item["j"]] for item in layers["truth"]] == ["wrong class", *["hit"] * (count - 1)]
    assert [item["s"] for item in layers["found"]] == sorted((i["s"] for i in layers["found"]), reverse=True)


def test_a_small_detection_in_an_object_is_a_part_of_it(tmp_path):
    def in_the_middle(data, found):
        first = next(a for a in data.targets.annotations if a["image_id"] == found.image_id)
        object_ = decode([data.targets.mask(first)])[0]
        rows = np.flatnonzero(object_.any(axis=1))
        part_of_it = object_ & (np.arange(len(object_))[:, None] < rows[0] + len(rows) // 12)
        return Detections(
            found.image_id, torch.tensor([0]), torch.tensor([0.8]), encode(part_of_it[None]), data.classes
        )

    data = splits(images=1)
    data.targets.annotations[:] = [a for a in data.targets.annotations if a["image_id"] == 1]
    text = write_report(run_of(tmp_path, data, change=in_the_middle), None, 0.5).read_text()
    name = data.classes[data.targets.labels[data.targets.annotations[0]["category_id"]]]
    assert re.search(rf"0\.80, part of {name}, IoU 0\.0", text)
    assert "only a part is detected" in text


def test_header_says_what_the_run_is(tmp_path):
    jobs = {
        str(n): {"number": n, "overrides": [f"shots='{s}'", "seed=0"], "folder": str(n)} for n, s in ((0, 1), (1, 5))
    }
    for job in jobs.values():
        job["id"] = None
    run = run_of(tmp_path / "1", splits())
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    status = {"state": "completed", "overrides": jobs["1"]["overrides"], "started": "2026-01-31T12:00:01+00:00"}
    (run.path / "status.json").write_text(json.dumps(status))
    text = write_report(run, 0, 0.5).read_text()
    assert "<title>shots=5</title>" in text  # seed=0 is that of all jobs
    assert "2026-01-31 12:00 UTC · <code>refexp run shots=5 seed=0</code>" in text
    assert f"<code>{run.path}</code>" in text
    assert {"metrics.json", "per_image.csv", "config.yaml"} <= local_links(text)


def test_curves_of_a_class(tmp_path):
    run = run_of(tmp_path, splits())
    write_report(run, None, 0.5)
    for kind, precision in run.curves.items():
        by_class = part(tmp_path / f"report/curves-{kind}.js")
        for label in range(2):
            assert by_class[label][0][1] == (1000 * precision[0, :, label]).round().astype(int).tolist()


def test_without_annotations(tmp_path):
    data = splits()
    data = replace(data, targets=replace(data.targets, annotations=[]))
    text = report_of(tmp_path, data).read_text()
    assert 'id="accuracy"' not in text
    assert 'id="errors"' not in text
    assert 'id="truth"' not in text
    assert 'id="gallery"' in text
    assert 'id="references"' in text
    layers = part(tmp_path / "report/layers/0.js")
    assert layers["truth"] == []
    assert layers["found"]
    assert "j" not in layers["found"][0]


def test_two_hundred_images_are_lazy(tmp_path):
    text = report_of(tmp_path, splits(images=200)).read_text()
    images = re.findall(r"<img [^>]*>", text)
    assert len([tag for tag in images if "report/images/" in tag]) == 200
    assert all('loading="lazy"' in tag for tag in images)
    assert "base64" not in text
    assert len(text) < 400_000


def test_no_pictures_and_no_image_read(tmp_path):
    def refuse(record):
        raise AssertionError("an image was read")

    data = splits()
    data = Data(data.classes, *(replace(split, read=refuse) for split in (data.references, data.targets)))
    text = report_of(tmp_path, data, limit=0).read_text()
    assert 'id="accuracy"' in text
    assert [link for link in local_links(re.sub(ORDINARY, "#", text)) if link.endswith("jpg")] == []
    assert 'href="#references"' not in text


def test_errors_are_those_of_what_was_evaluated(tmp_path):
    run = run_of(tmp_path, splits())
    assert "(IoU of the masks at least .5)" in write_report(run, None, 0.5).read_text()
    run.record.metrics.overall.pop("segm")
    run.matches.pop("segm")
    assert "(IoU of the boxes at least .5)" in write_report(run, None, 0.5).read_text()


def test_limit_of_the_overlays_counts_here_too(tmp_path):
    data = splits(images=40)
    text = report_of(tmp_path, data, limit=3).read_text()
    shown = len(re.findall(r'class="card"', text))
    errors = len(set(re.findall(r'href="(#image-\d+)"', text)))
    assert errors <= shown <= 3 + errors
    assert f"{shown} of 40 images" in text


def sweep_of(folder: Path) -> Path:
    """Two shots x two seeds, of which one failed with a message that is markup; one run has a page."""
    for number, (shots, seed) in enumerate([(1, 0), (1, 1), (5, 0), (5, 1)]):
        run = folder / f"run {number}"
        run.mkdir(parents=True)
        overrides = [f"shots={shots}", f"seed={seed}"]
        status = {"state": "completed", "overrides": overrides, "host": "here", "pid": 1, "job_id": None, "restarts": 0}
        status |= {"started": "2025-01-01T00:00:00+00:00", "ended": "2025-01-01T00:01:00+00:00", "seconds": 60.0}
        config = {"shots": {"n": shots}, "seed": seed, "dataset": {"_target_": "x.Synthetic"}, "name": "run"}
        if number == 3:
            status |= {"state": "failed", "error": {"message": f"no memory {EVIL}", "traceback": ""}}
        else:
            metrics = {"segm/nAP": 0.1 * number + 0.2, "segm/nAP50": 0.5, "segm/nAP/leaf": 0.5}
            done = {"metrics": metrics, "config": config, "targets": "SYNTHETIC targets", "shots": shots, "seed": seed}
            done |= {"classes": ["leaf"], "images": 4, "instances": 8, "detections": 9, "commit": None}
            done["note"] = "RANDOM WEIGHTS (encoder)"
            (run / "metrics.json").write_text(json.dumps(done))
        (run / "status.json").write_text(json.dumps(status))
        (run / "config.yaml").write_text(json.dumps(config))
    (folder / "run 1" / "report.html").write_text("<title>a run</title>")
    return folder


def test_page_of_a_sweep(tmp_path):
    summary = summarise([sweep_of(tmp_path)], Wanted(metric="segm/nAP,segm/nAP50"))
    text = write_sweep_report(tmp_path, summary).read_text()
    assert "25.0 ± 7.1" in text  # shots=1: 20 and 30
    assert "failed: no memory &lt;/script&gt;" in text
    assert "<script>boom" not in text
    assert text.count('role="note">RANDOM WEIGHTS') == 1
    # The files of these metrics are in a folder of their own, and not linked.
    assert local_links(text) == {"run%200", "run%201/report.html", "run%202", "run%203"}
    assert re.findall(r"https?://[^\"' ]+", text) == re.findall(r"http://www\.w3\.org/[^\"' ]+", text)
    assert text.count("data-chart=") == 2
    inline = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    chart = inline["charts"]["SYNTHETIC targets: mask nAP in percent, mean ± sample deviation over 2 seeds"]
    assert [tick[1] for tick in chart["axes"]["ticks"]] == ["1", "5"]
    assert [point[:2] for point in chart["series"][0][1]] == [[1, pytest.approx(0.25)], [5, pytest.approx(0.4)]]


@pytest.mark.parametrize("size", [(60, 90), (1600, 1200)])
def test_path_encloses_the_mask(size):
    height, width = size
    y, x = np.mgrid[:height, :width] / height
    ring = (abs(np.hypot(y - 0.4, x - 0.35) - 0.2) < 0.08) | ((y > 0.9) & (x < 0.2))
    path = mask_path(encode(ring[None])[0])
    h, w = page_size(height, width)
    assert max(h, w) == min(SIDE, max(size))
    drawn = filled(path, h, w)
    expected = np.asarray(Image.fromarray(ring).resize((w, h), Image.Resampling.NEAREST))
    overlap = (drawn & expected).sum() / (drawn | expected).sum()
    assert overlap > (0.93 if height < 100 else 0.99)
    assert len(path) < 2000


def filled(path: str, height: int, width: int) -> np.ndarray:
    """Even-odd fill of a path's pixels, by their centres."""
    from matplotlib.path import Path as Outline

    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros(height * width, dtype=bool)
    for start, moves in re.findall(r"M(-?\d+ -?\d+)l([-\d ]+)z", path):
        steps = np.array(moves.split(), dtype=int).reshape(-1, 2)
        corners = np.cumsum([np.array(start.split(), dtype=int), *steps], axis=0)
        inside ^= Outline(corners).contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
    return inside.reshape(height, width)


def test_masks_that_are_hardly_there():
    nothing = np.zeros((1, 1000, 2000), dtype=bool)
    assert mask_path(encode(nothing)[0]) == ""
    nothing[0, 501, 1001] = True
    assert mask_path(encode(nothing)[0]).startswith("M400 20")
    one = Instance(1, 0, 0, [1001, 501, 1, 1], encode(nothing)[0])
    picture = crop(np.zeros((1000, 2000, 3), dtype=np.uint8), one)
    assert (np.asarray(picture) == color(0)).all(axis=2).any()
    assert decode(encode(nothing))[0].sum() == 1
