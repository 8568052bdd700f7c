"""The run folder: what older code left is read, what is shown can be made again, and what is gone is said."""

from __future__ import annotations

import filecmp
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from runs import refexp, run

from refexp.config.components import build_experiment
from refexp.config.composing import compose_config
from refexp.data.coco import annotation_of, make_split
from refexp.data.protocols import one_short
from refexp.errors import RefexpError
from refexp.folders.record import SCHEMA, Metrics, RunRecord
from refexp.folders.run_folder import RunFolder, coco_text
from refexp.machine.provenance import Clock
from refexp.masks import encode
from refexp.method.extraction import Extractor
from refexp.types import Detections

V0 = ROOT / "tests/fixtures/v0"
"""Left by the code before run folders had a schema; store by the code before it had kinds of entries."""


def test_a_run_of_older_code_is_shown(tmp_path, capsys):
    folder = Path(shutil.copytree(V0 / "run", tmp_path / "run"))
    assert refexp("show", folder) == 0
    output = capsys.readouterr().out
    assert "SYNTHETIC targets: 2 classes, 1 shot, seed 3, 2 images" in output
    page = (folder / "report.html").read_text()
    assert 'id="gallery"' in page and 'id="references"' in page and 'id="diagnostics"' in page
    assert "Precision over recall" not in page  # that code kept no curves
    assert (folder / "overlays/references.jpg").exists()
    old = RunRecord.read(folder)
    assert (old.schema, old.reference_ids, old.metrics.flat) == (0, None, content(V0 / "run")["metrics"])


def test_a_sweep_of_older_code_is_shown(tmp_path, capsys):
    folder = Path(shutil.copytree(V0 / "sweep", tmp_path / "sweep"))
    assert refexp("show", folder) == 0
    assert "2 runs: 2 completed" in capsys.readouterr().out
    assert (folder / "summary/table.md").exists()
    assert 'href="0"' in (folder / "report.html").read_text()


def test_a_store_of_older_code_still_hits(tmp_path):
    y, x = np.mgrid[:40, :48]
    disc, bar = np.hypot(x - 18, y - 20) < 11, (x > 34) & (x < 44) & (y > 6) & (y < 34)
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 48} for i in (1, 2)]
    box = annotation_of(3, 2, 1, disc[:, ::-1]) | {"segmentation": []}
    annotations = [annotation_of(1, 1, 1, disc), annotation_of(2, 1, 2, bar), box, annotation_of(4, 2, 2, bar[:, ::-1])]
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    store = shutil.copytree(V0 / "store", tmp_path / "store")

    def refuse(record):
        raise AssertionError("an image was read")

    split = make_split(content, "fixture", ("disc", "bar"), refuse, lambda record: f"fixture {record['id']}")

    def stored(*overrides: str) -> Extractor:
        experiment = build_experiment(compose_config([f"store.dir={store}", "runtime.device=cpu", *overrides]))
        parts = experiment.encoder, experiment.proposer, experiment.store, experiment.config, experiment.device
        return Extractor(*parts, Clock(), may_compute=False)

    with_truth = stored("proposer=oracle")
    assert [len(found) for _, found in with_truth.proposals(split, images)] == [2, 1]
    references = [split.reference(annotation) for annotation in annotations[:3]]
    assert len(list(with_truth.prototypes(split, references[:2]))) == 2
    ((masked,),) = stored().with_masks(split, [references[2:]])
    assert masked.mask is not None


@pytest.fixture(scope="module")
def made(tmp_path_factory, drawn) -> Path:
    """A run on images of its own, with everything that can be shown."""
    from conftest import Folder

    root = tmp_path_factory.mktemp("made")
    folder = Folder(root / "data", drawn)
    overrides = [*folder.overrides(), f"store.dir={root / 'store'}", "vis.limit=2", "vis.memory_bank=true"]
    run(compose_config([*overrides, "evaluation.diagnostics=true"]), root / "run")
    return root


def content(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_what_is_shown_can_be_made_again(made, tmp_path):
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    shutil.rmtree(folder / "report")
    shutil.rmtree(folder / "overlays")
    for name in ("report.html", "memory_bank.png"):
        (folder / name).unlink()
    assert refexp("show", folder) == 0
    files = sorted(path.relative_to(made / "run") for path in (made / "run").rglob("*") if path.is_file())
    same, other, missing = filecmp.cmpfiles(made / "run", folder, files, shallow=False)
    assert (len(same), other, missing) == (len(files) - 1, [Path("report.html")], [])
    pages = [(place / "report.html").read_text().replace(str(place), "") for place in (made / "run", folder)]
    assert pages[0].replace(f"{made.name}/run", f"{tmp_path.name}/run") == pages[1]  # it names its folder
    assert len([name for name in files if str(name).startswith(("report/", "overlays/"))]) > 12


def test_options_change_what_is_shown(made, tmp_path):
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    assert refexp("show", folder, "--all", "--score-threshold", "0.2") == 0
    assert len(list((folder / "overlays").iterdir())) == 1 + 4
    assert "with score" not in (folder / "report.html").read_text()
    assert 'value="0.2"' in (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert refexp("show", folder, "--no-report") == 0
    assert not (folder / "report.html").exists()


def test_images_that_are_gone(made, tmp_path, caplog, capsys):
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    away = (made / "data/images").rename(made / "data/elsewhere")
    try:
        assert refexp("show", folder) == 0
    finally:
        away.rename(made / "data/images")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("overlays were not drawn: ") and str(made / "data/images") in line
    assert "per class" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert 'id="accuracy"' in page and 'id="gallery"' not in page
    reason = line.removeprefix("overlays were not drawn: ")
    assert f"This page has no gallery, errors or references: {reason}" in page


def test_detections_without_the_data_set(made, tmp_path):
    """They know their classes: the targets' category ids stand in the record."""
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    here = RunFolder(folder)
    whole = [found for found in here.detections if len(found)]
    record = content(folder)
    record["config"]["dataset"]["images"] = str(tmp_path / "nowhere")
    (folder / "metrics.json").write_text(json.dumps(record))
    alone = RunFolder(folder).detections
    assert [found.image_id for found in alone] == [found.image_id for found in whole]
    assert all(a.labels.tolist() == b.labels.tolist() for a, b in zip(alone, whole, strict=True))


def test_a_relative_data_set_is_found_from_elsewhere(drawn, tmp_path, monkeypatch):
    from conftest import Folder

    folder = Folder(tmp_path / "data", drawn)
    last = folder.targets["images"][-1]["id"]  # nothing is detected in it
    folder.targets["annotations"] = [a for a in folder.targets["annotations"] if a["image_id"] != last]
    folder.save()
    monkeypatch.chdir(tmp_path)
    keys = [override.replace(f"{tmp_path}/", "") for override in folder.overrides()]
    run(compose_config([*keys, "store.dir=store", "vis.limit=null"]), tmp_path / "run")
    pages = {path: path.read_bytes() for path in (tmp_path / "run/report").rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path / "run/overlays")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert refexp("show", "../run") == 0
    assert (tmp_path / "run/overlays/references.jpg").exists()
    assert len(list((tmp_path / "run/overlays").iterdir())) == 1 + 4
    assert pages == {path: path.read_bytes() for path in pages}
    assert Path.cwd() == tmp_path / "elsewhere" and not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c | {"schema": SCHEMA + 1}, f"has schema {SCHEMA + 1}, but this refexp reads only up to {SCHEMA}"),
        (lambda c: {k: v for k, v in c.items() if k != "metrics"}, "it has no 'metrics'"),
        (lambda c: {k: v for k, v in c.items() if k != "targets"}, "damaged, or not written by refexp: .*'targets'"),
        (lambda c: c | {"classes": 3}, "damaged, or not written by refexp"),
        (lambda c: [c], "it has no 'metrics'"),
    ],
)
def test_a_record_that_cannot_be_read(change, says, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(change(content(V0 / "run"))))
    with pytest.raises(RefexpError, match=says):
        RunRecord.read(tmp_path)


def test_a_damaged_file(tmp_path):
    (tmp_path / "metrics.json").write_text('{"metrics": ')
    with pytest.raises(RefexpError, match=r"metrics\.json is damaged"):
        RunRecord.read(tmp_path)
    shutil.copytree(V0 / "run", tmp_path, dirs_exist_ok=True)
    (tmp_path / "curves.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(RefexpError, match=r"curves\.npz is damaged"):
        _ = RunFolder(tmp_path).curves


def test_metrics_are_told_apart_without_counting_slashes():
    flat = {"segm/nAP": 0.5, "segm/nAP/a/b": 0.25, "segm/nAP/c": None, "count": 3.0}
    metrics = Metrics.from_flat(flat)
    assert metrics.overall == {"segm": {"nAP": 0.5}, "": {"count": 3.0}}
    assert metrics.per_class == {"segm": {"nAP": {"a/b": 0.25, "c": None}}}
    assert metrics.flat == flat
    assert metrics.flat_overall == {"segm/nAP": 0.5, "count": 3.0}
    assert not Metrics()


def test_the_record_is_what_the_file_says(made):
    record = RunRecord.read(made / "run")
    assert record.schema == SCHEMA and record.cwd == str(Path.cwd())
    assert json.loads(json.dumps(record.to_json())) == content(made / "run")
    assert record.instances == sum(record.instances_of_class.values()) > 0
    assert {name: len(ids) for name, ids in record.reference_ids.items()} == record.references


def test_a_page_that_fails_harms_no_run(command, folder, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "report.html").mkdir()  # no file can be put there
    done = command(*folder.overrides(output), "vis.limit=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Again: refexp show {output}" in done.stdout + done.stderr
    assert json.loads((output / "status.json").read_text())["state"] == "completed"
    assert (output / "metrics.json").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "detections.json").unlink(), "detections.json: 0 detections in the targets"),
        (lambda folder: (folder / "detections.json").write_text("[{"), "detections.json is damaged"),
        (lambda folder: (folder / "references.json").unlink(), "references.json is missing, or has no reference"),
    ],
)
def test_files_that_are_gone_never_make_a_false_page(made, tmp_path, capsys, caplog, spoil, message):
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    before = (folder / "report.html").read_bytes()
    spoil(folder)
    code = refexp("show", folder)
    said = capsys.readouterr().err + caplog.text
    assert message in said
    if "detections" in message:
        assert (code, (folder / "report.html").read_bytes()) == (1, before)
    else:
        assert code == 0 and 'id="gallery"' not in (folder / "report.html").read_text()


def test_masks_are_those_of_the_last_threshold(made, tmp_path):
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    record = content(folder)
    record["config"]["masks"] = True
    (folder / "metrics.json").write_text(json.dumps(record))
    assert refexp("show", folder, "--score-threshold", "0") == 0
    every = len(list((folder / "masks").rglob("*.png")))
    assert refexp("show", folder, "--score-threshold", "1") == 0
    assert every > len(list((folder / "masks").rglob("*.png"))) == 0


def test_an_unwritable_output_is_one_line(command):
    done = command("hydra.run.dir=/proc/nowhere")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot write" in done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("detections.json", "5"),
        ("detections.json", '[{"image": 1}]'),
        ("references.json", '{"images": 5, "annotations": [], "categories": []}'),
    ],
)
def test_edited_files_are_named(made, tmp_path, name, content):
    folder = Path(shutil.copytree(made / "run", tmp_path / "run"))
    (folder / name).write_text(content)
    with pytest.raises(RefexpError, match=rf"{name} is damaged"):
        getattr(RunFolder(folder), name.removesuffix(".json"))


def test_numbers_that_json_lacks_do_not_lose_a_run(made, tmp_path):
    record = RunRecord.read(made / "run")
    config = record.config | {"limit": float("inf"), "other": [float("nan")]}
    RunFolder(tmp_path).write_record(replace(record, config=config))
    again = RunRecord.read(tmp_path)
    assert again == replace(record, config=record.config | {"limit": "Infinity", "other": ["NaN"]})


@pytest.mark.parametrize("category", [{0: 7, 1: 90}, {0: 'a "b"', 1: "Käfer"}])
def test_detections_are_written_as_json_writes_them(category):
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 97, 31), dtype=bool)
    masks[:, 44:60, 0] = True  # 44 pixels before it make a backslash
    masks[:, :, 5:] = rng.random((8, 97, 26)) < 0.3
    found = [
        Detections(
            image_id,
            torch.from_numpy(rng.integers(0, 2, count)),
            torch.from_numpy(rng.random(count, dtype=np.float32)) * 10.0 ** -torch.arange(count),
            encode(masks[:count]) if count else [],
            size=(97, 31),
        )
        for image_id, count in ((3, 8), ("ä.jpg", 0), ('"quoted".jpg', 5))
    ]
    assert any(b"\\" in mask["counts"] for one in found for mask in one.masks)
    rows = [row for one in found for row in one.to_coco(category)]
    assert coco_text(found, category) == json.dumps(rows)
    assert coco_text(found, category, one_short) == json.dumps([row | {"bbox": one_short(row["bbox"])} for row in rows])
