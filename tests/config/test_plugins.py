"""An installed package brings options of its own: tests build and install a tiny one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from refexp.config.composing import compose_config
from refexp.config.plugins import option_folders
from refexp.errors import RefexpError

MATCHER = """
from refexp.matchers.prototype import PrototypeMatcher


class Tiny(PrototypeMatcher):
    "The smallest matcher."
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder of installed packages that holds the tiny one, as CONTRIBUTING.md says to make it."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    told = re.search(r"```toml\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    head = '[project]\nname = "mypackage"\nversion = "1.0"\n\n'
    (source / "pyproject.toml").write_text(head + told[1])
    options = source / "mypackage" / "conf" / "matcher"
    options.mkdir(parents=True)
    (source / "mypackage" / "__init__.py").touch()
    (source / "mypackage" / "tiny.py").write_text(MATCHER)
    (options / "tiny.yaml").write_text("# The tiniest matcher.\n_target_: mypackage.tiny.Tiny\n")
    (options / "small.yaml").write_text("_target_: mypackage.tiny.Tiny\n")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=120)
    return site


def test_its_options_are_listed_and_run(site):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "refexp", *words]
        done = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    listed = said("ls", "matcher")
    assert "matcher=tiny                 The tiniest matcher." in listed
    assert "matcher=small                The smallest matcher." in listed  # as its class says
    assert "mypackage.tiny.Tiny" in said("run", "matcher=tiny", "--cfg", "job")


def test_its_options_compose(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    assert option_folders() == {"mypackage": site / "mypackage" / "conf"}
    assert compose_config(["matcher=tiny"]).matcher._target_ == "mypackage.tiny.Tiny"


def test_a_package_without_its_folder_is_named(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    (site / "mypackage" / "conf").rename(site / "gone")
    try:
        with pytest.raises(RefexpError, match=r"the installed package 'mypackage' says .* pip uninstall mypackage"):
            option_folders()
    finally:
        (site / "gone").rename(site / "mypackage" / "conf")
