"""The examples in CONTRIBUTING.md run as they stand there, from a folder outside the package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from refexp.config.composing import compose_config
from refexp.config.validating import try_component

OPTIONS = {"encoder": "resnet18", "proposer": "watershed", "matcher": "nearest"}
CHOSEN = [f"{group}={option}" for group, option in OPTIONS.items()]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder with every file that CONTRIBUTING.md shows."""
    folder = tmp_path_factory.mktemp("own")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_every_example_is_one_file_and_one_option(own):
    files = {str(path.relative_to(own)) for path in own.rglob("*.*")}
    options = {f"conf/{group}/{option}.yaml" for group, option in OPTIONS.items()}
    assert files == {f"my_{group}.py" for group in OPTIONS} | options


def test_they_keep_the_contract(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    lines = try_component(compose_config([f"hydra.searchpath=[file://{own}/conf]", *CHOSEN, "weights=random"]))
    assert all(line.ok for line in lines), lines
    assert [line.message.split(":")[0] for line in lines[:3]] == ["ResNet18", "Watershed", "NearestReference"]
    for group in OPTIONS:
        sys.modules.pop(f"my_{group}")


def test_they_run_in_their_folder(own):
    small = [
        "weights=random",
        "shots=1",
        "dataset.references=8",
        "dataset.targets=2",
        "dataset.classes=[ladybird,leaf]",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "refexp", "run", *CHOSEN, *small, "vis.limit=0", "hydra.run.dir=out"],
        cwd=own, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((own / "out/metrics.json").read_text())
    assert record["detections"] > 0 and record["weights"]["encoder"]["kind"] == "random"


def test_a_violation_in_a_run_names_the_option(own):
    """The line that CONTRIBUTING.md shows, from a run with an encoder that says a wrong grid."""
    (own / "wrong").mkdir()
    encoder = (own / "my_encoder.py").read_text().replace("= 512, 32", "= 512, 16")
    (own / "wrong/my_encoder.py").write_text(encoder)
    done = subprocess.run(
        [sys.executable, "-m", "refexp", "run", "--config-dir", str(own / "conf"), "encoder=resnet18", "weights=random",
         "shots=1", "dataset.references=8", "dataset.targets=2", "hydra.run.dir=out"],
        cwd=own / "wrong", env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    says = "encoder=resnet18: forward gave [1, 1024, 256]; expected [1, 256, C] for grid=16"
    assert done.returncode == 1 and says in done.stdout + done.stderr
    assert says in (ROOT / "CONTRIBUTING.md").read_text() and "Traceback" not in done.stdout + done.stderr
