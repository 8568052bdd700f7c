"""A trial on the first targets: labelled everywhere, and never in a table with whole runs."""

from __future__ import annotations

import logging

import pytest
import torch
from runs import run

from refexp.errors import RefexpError
from refexp.folders.run_folder import RunFolder
from refexp.folders.sweep_folder import GONE, Job, record_of
from refexp.machine.provenance import device_name
from refexp.show.tables.summary import Wanted, summarise
from refexp.tracking.wandb import labels

NOTE = "PARTIAL: the first 2 of 4 targets."


def test_a_trial_is_labelled_and_has_tables_of_its_own(folder, configure, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    trial, whole = RunFolder(tmp_path / "runs/trial"), RunFolder(tmp_path / "runs/whole")
    run(configure(*folder.overrides(), "input.limit=2"), trial.path)
    cpu = device_name(torch.device("cpu"))
    assert caplog.messages[:4] == [
        f"encoder EfficientNetLite0 proposer OracleProposer on {cpu}: 2 images, 2 references of 2 classes",
        f"store {tmp_path / 'store'} holds 0 of 2 images and 0 of 2 references",
        f"results in {trial.path}",
        NOTE,
    ]
    assert (trial.record.images, trial.record.note) == (2, NOTE)
    assert list(trial.data.targets.images) == [1, 2] == [of_image.image_id for of_image in trial.detections]
    assert NOTE in capsys.readouterr().out and NOTE in (trial.path / "report.html").read_text()
    assert not (trial.path / "WEIGHTS.txt").exists()
    assert len(list((trial.path / "overlays").glob("[!r]*.jpg"))) == 2

    assert labels(trial.record) == ["partial"]
    assert record_of(tmp_path / "runs", Job(0, [], "trial"), {"state": "completed"}, GONE, None).message == NOTE

    run(configure(*folder.overrides(), "input.limit=4"), whole.path)
    assert f"store {tmp_path / 'store'} holds 2 of 4 images and 2 of 2 references" in caplog.messages
    assert whole.record.note is None
    for cols in (None, "input.limit"):
        tables = summarise([tmp_path / "runs"], Wanted(cols=cols, metric="segm/nAP")).tables
        assert [(table.name, table.notes, len(table.runs)) for table in tables] == [("", [], 1), ("PARTIAL", [NOTE], 1)]


def test_targets_that_are_also_images_of_references_are_named(folder, configure, tmp_path, caplog):
    same = f"dataset.targets={folder.root / 'references.json'}"
    run(configure(*folder.overrides(), same, "stage=extract", "input.limit=3"), tmp_path / "run")
    said = "1 of 3 targets are also images of references, which flatters: references_2.png"
    assert caplog.messages.count(said) == 1


def test_an_unknown_objective_is_refused_before_anything_is_computed(folder, configure, tmp_path):
    with pytest.raises(RefexpError, match=r"objective=segm/nAP5: .* no such metric\. Did you mean 'segm/nAP.*bbox/AR1"):
        run(configure(*folder.overrides(), "objective=segm/nAP5"), tmp_path / "run")
    assert not (tmp_path / "store").exists() and not (tmp_path / "run").exists()
