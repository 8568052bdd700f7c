"""docs/concepts.md: its figure is what its script draws, and the keys that it names exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")


def test_the_script_draws_the_figure_again(tmp_path):
    script = shutil.copy(ROOT / "docs/images/draw_method.py", tmp_path)
    subprocess.run([sys.executable, script], check=True)
    drawn = (tmp_path / "method.svg").read_bytes()
    assert drawn == (ROOT / "docs/images/method.svg").read_bytes()
    ElementTree.fromstring(drawn)


@pytest.mark.parametrize("key", sorted(set(re.findall(r"`([a-z_]+=[a-z0-9_.]+)`", PAGE))))
def test_the_options_exist(configure, key):
    _, value = key.split("=")
    needed = {"custom": ["shots.n=7"], "file": ["sampler.path=references.json"]}.get(value, [])
    configure(key, *needed)


def test_the_links_lead_somewhere():
    for path in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / path).is_file(), path
