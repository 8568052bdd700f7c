"""Shared fixtures: the golden numbers, a tiny data set on disk, and ways to run an experiment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from refexp.config.composing import quoted
from refexp.data.rendering import render_split

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
CLASSES = ("ladybird", "leaf")


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    """No test sees the terminal, the ranks, the cluster job or the folders of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            if name.startswith(("SLURM_", "REFEXP_")) or name in (*ranks, "FORCE_COLOR", "CLICOLOR_FORCE"):
                patch.delenv(name)
        patch.setenv("COLUMNS", "160")
        yield


@pytest.fixture(autouse=True)
def no_hydra_run() -> Iterator[None]:
    """No test sees the Hydra configuration of a run that an earlier test made in this process."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden("matching")` -> the arrays of the published implementation, by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="session")
def drawn() -> dict[str, tuple]:
    """Two drawn splits, (pictures, COCO dict) each, of two classes."""
    return {name: render_split(3, CLASSES, images, name) for name, images in (("references", 12), ("targets", 4))}


class Folder:
    """A custom data set on disk that a test may spoil: `images`, `references` and `targets` (COCO dicts)."""

    def __init__(self, root: Path, drawn: dict[str, tuple]) -> None:
        self.root, self.images = root, root / "images"
        self.images.mkdir(parents=True)
        self.content = {}
        for split, (pictures, content) in drawn.items():
            self.content[split] = json.loads(json.dumps(content))
            for record, picture in zip(self.content[split]["images"], pictures, strict=True):
                record["file_name"] = f"{split}_{record['id']}.png"
                Image.fromarray(picture).save(self.images / record["file_name"])
        self.save()

    @property
    def references(self) -> dict:
        return self.content["references"]

    @property
    def targets(self) -> dict:
        return self.content["targets"]

    def save(self) -> None:
        for split, content in self.content.items():
            (self.root / f"{split}.json").write_text(json.dumps(content))

    def overrides(self, output: Path | None = None) -> list[str]:
        """The contract's command line, at one shot."""
        run = [f"hydra.run.dir={output}"] if output else []
        return [
            "dataset=custom",
            f"dataset.images={self.images}",
            f"dataset.references={self.root / 'references.json'}",
            f"dataset.targets={self.root / 'targets.json'}",
            "encoder=efficientnet_lite0",
            "proposer=oracle",
            "shots=1",
            "seed=0",
            *run,
        ]


@pytest.fixture
def folder(tmp_path: Path, drawn: dict[str, tuple]) -> Folder:
    return Folder(tmp_path / "data", drawn)


@pytest.fixture
def configure(tmp_path):
    """`configure("shots=1", ...)` -> the composed configuration, as on the command line."""

    def run(*overrides: str):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            store = f"store.dir={tmp_path / 'store'}"
            return compose("config", [store, *(quoted(o) for o in overrides)])

    return run


@pytest.fixture
def command(tmp_path: Path):
    """`command("shots=1", ...)` -> `python main.py shots=1 ...` in a folder of its own, finished."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"}
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run
