"""Options, as `refexp ls` and docs/components.md describe them."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

from refexp.config.options import docstring_of, labelled, options_of, read_option

DOC = """Merges masks.

Source: METHOD 4.2,
and another paper.
Cost: O(N^2).

Args: none.
"""


@pytest.mark.parametrize(
    ("label", "said"), [("Source", "METHOD 4.2, and another paper."), ("Cost", "O(N^2)."), ("Raises", "")]
)
def test_a_docstring_s_labels(label, said):
    assert labelled(DOC, label) == said


def test_the_page_of_components_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import list_components

    assert list_components.page() == (ROOT / "docs/components.md").read_text(encoding="utf-8"), (
        "run: python docs/list_components.py"
    )


def test_every_option_says_what_it_is():
    for group in ("encoder", "proposer", "sampler", "matcher", "postprocess", "evaluation", "dataset", "experiment"):
        for option in options_of(group, [ROOT / "conf"]):
            assert option.text, f"{group}={option.name} has no comment at its top"


def test_a_class_is_read_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "exploding.py").write_text('raise SystemExit\nclass Mine:\n    """Mine.\n\n    Cost: nothing."""\n')
    (tmp_path / "_base.yaml").write_text("_target_: exploding.Mine\n")
    (tmp_path / "mine.yaml").write_text("# My own.\ndefaults: [_base, _self_]\n")
    monkeypatch.syspath_prepend(tmp_path)
    option = read_option(tmp_path / "mine.yaml")
    assert (option.name, option.text, option.source, option.cost) == ("mine", "My own.", "", "nothing.")
    assert "exploding" not in sys.modules


@pytest.mark.parametrize("target", ["", "none", "no.such.Class", "refexp.no.Class", "json.JSONDecoder.nothing"])
def test_what_has_no_docstring_to_read(target):
    assert docstring_of(target) == ""


def test_the_first_folder_wins(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}/shots").mkdir(parents=True)
        (tmp_path / f"{number}/shots/10.yaml").write_text(f"# Of folder {number}.\n")
    (tmp_path / "2/shots/9.yaml").write_text("[broken")
    options = options_of("shots", [tmp_path / "1", tmp_path / "2"])
    assert [(option.name, option.text) for option in options] == [("9", ""), ("10", "Of folder 1.")]
