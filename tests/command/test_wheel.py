"""refexp installed from a wheel, without a checkout: the command works in an empty folder, with options of your own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

SMALL = ["dataset.targets=2", "dataset.references=16", "dataset.classes=[leaf,cookie]", "shots=1", "vis.limit=1"]
MATCHER = """
from refexp.matchers.prototype import PrototypeMatcher


class Mine(PrototypeMatcher):
    pass
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The scripts of an environment that has refexp's wheel; its libraries are this environment's."""
    root = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(ROOT)]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, *build], check=True, capture_output=True, env=plain)
    venv.create(root / "env", with_pip=False, symlinks=True)
    python = root / "env/bin/python"
    (wheel,) = root.glob("refexp-*.whl")
    install = ["--python", str(python), "install", "--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True, env=plain)
    (packages,) = (root / "env/lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    # Plain folders: the editable install of the checkout stays out.
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return root / "env/bin"


@pytest.fixture
def refexp(installed, tmp_path):
    """`refexp("run", ...)` in an empty folder: what it printed; it must end well."""

    def call(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(installed / "refexp"), *words], cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


def test_run_and_sweep_with_a_matcher_of_your_own(refexp, tmp_path):
    (tmp_path / "conf/matcher").mkdir(parents=True)
    (tmp_path / "conf/matcher/mine.yaml").write_text("# My own.\n_target_: my_matcher.Mine\n")
    (tmp_path / "my_matcher.py").write_text(MATCHER)
    assert "matcher=mine" in refexp("ls", "matcher")
    refexp("run", *SMALL, "hydra.run.dir=first")
    assert (tmp_path / "first/report.html").exists()
    refexp("run", "-m", *SMALL, "matcher=prototype,mine", "hydra.sweep.dir=sweep", "vis.report=false")
    metrics = [json.loads((tmp_path / f"{run}/metrics.json").read_text()) for run in ("first", "sweep/0", "sweep/1")]
    assert metrics[0]["metrics"] == metrics[1]["metrics"] == metrics[2]["metrics"]
    assert metrics[2]["config"]["matcher"]["_target_"] == "my_matcher.Mine"
    assert "2 runs: 2 completed" in refexp("show", "sweep")


def test_predict(refexp, tmp_path):
    (tmp_path / "refs/disc").mkdir(parents=True)
    y, x = np.mgrid[:120, :120]
    disc = np.hypot(x - 60, y - 60) < 30
    rgb = np.where(disc[..., None], np.array([200, 60, 40]), np.array([90, 110, 90])).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "refs/disc/one.png")
    Image.fromarray(disc.astype(np.uint8) * 255).save(tmp_path / "refs/disc/one_mask.png")
    Image.fromarray(rgb[:, ::-1]).save(tmp_path / "photo.png")
    refexp("predict", "references=refs", "images=photo.png", "hydra.run.dir=found")
    assert (tmp_path / "found/summary.csv").read_text().startswith("image,number,class")
