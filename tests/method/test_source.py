"""The code of an outside component is part of its store keys: its file, and what it imports from its own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from refexp.files import sha256
from refexp.method import source
from refexp.method.source import code_of

HELPERS = {
    "import helper": "helper.py",
    "import helper as h, sys": "helper.py",
    "from helper import x": "helper.py",
    "import below.part": "below/part.py",
    "from below import part": "below/part.py",
    "from below.part import x": "below/part.py",
    "from below import x": "below/__init__.py",
    "from below.part import y": "below/__init__.py",  # Python runs it on the way
    "from spaced import part": "spaced/part.py",  # a namespace package
    "import second": "helper.py",  # which `second` imports
    "import loop": "loop.py",
}
FILES = {
    "helper.py": "x = 1\n",
    "second.py": "from helper import x\n",
    "loop.py": "import loop, mine_0\n",
    "below/__init__.py": "x = 1\n",
    "below/part.py": "x = y = 1\n",
    "spaced/part.py": "x = 1\n",
    "stranger.py": "x = 1\n",
}


NAMES = {"mine_0", "lib", "other", *(name.split("/")[0].removesuffix(".py") for name in FILES)}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def imported(folder: Path, module: str) -> type:
    """The class Mine of a module in this folder."""
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module).Mine
    finally:
        sys.path.remove(str(folder))
        forget(set(sys.modules) - {module})


def forget(modules: set[str]) -> None:
    """Let Python import these names anew, if they are of this test."""
    for name in modules:
        if name.split(".")[0] in NAMES:
            del sys.modules[name]


@pytest.fixture
def mine(tmp_path, request):
    """`mine("import helper")` -> a class of a file that says so, beside the files above."""

    def make(text: str, module: str = "mine_0") -> type:
        write(tmp_path, FILES | {f"{module.replace('.', '/')}.py": f"{text}\nclass Mine: ...\n"})
        request.addfinalizer(lambda: forget(set(sys.modules)))
        return imported(tmp_path, module)

    return make


@pytest.mark.parametrize(("text", "helper"), HELPERS.items())
def test_an_edit_of_a_helper_changes_the_code(text, helper, mine, tmp_path):
    kind = mine(text)
    before = code_of(kind)
    (tmp_path / "stranger.py").write_text("x = 2\n")
    assert code_of(kind) == before
    with (tmp_path / helper).open("a") as file:
        file.write("# edited\n")
    assert code_of(kind) != before


def test_an_import_within_a_function_counts(mine, tmp_path):
    kind = mine("def load():\n    import helper")
    before = code_of(kind)
    (tmp_path / "helper.py").write_text("x = 2\n")
    assert code_of(kind) != before


def test_a_file_without_helpers_keeps_its_key(mine, tmp_path):
    """As refexp made it before helpers counted."""
    kind = mine("import json, torch\nfrom refexp.types import Candidates")
    write(tmp_path, {"refexp/types.py": "# as in a checkout, in whose root the component lies\n"})
    assert code_of(kind) == sha256(tmp_path / "mine_0.py")


def test_within_a_package(mine, tmp_path):
    write(tmp_path, {"lib/__init__.py": "", "lib/deep/__init__.py": "", "lib/common.py": "x = 1\n", "other.py": ""})
    kind = mine("from ..common import x\nimport other", "lib.deep.mine")
    before = code_of(kind)
    (tmp_path / "other.py").write_text("# not of this package")
    assert code_of(kind) == before
    (tmp_path / "lib/common.py").write_text("x = 2\n")
    assert code_of(kind) != before


def test_a_folder_may_move(mine, tmp_path):
    code = code_of(mine("import helper"))
    forget({"mine_0"})
    moved = tmp_path / "elsewhere"
    write(moved, {name: (tmp_path / name).read_text() for name in ("mine_0.py", "helper.py")})
    assert code_of(imported(moved, "mine_0")) == code


def test_installed_packages_beside_it_do_not_count(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(source.sysconfig, "get_path", lambda name: str(tmp_path))
    assert code_of(mine("import helper")) == sha256(tmp_path / "mine_0.py")


def test_code_of_this_package_does_not_count():
    from refexp.matchers.prototype import PrototypeMatcher

    assert code_of(PrototypeMatcher) is None
