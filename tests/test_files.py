"""File names made of foreign names: any file system takes them, and two names never share a file."""

from __future__ import annotations

import pytest

from refexp.files import as_path, atomic_path, write_text

NAMES = [
    "x" * 250, "x" * 251, "猫" * 100, "猫" * 101, "a\nb", "a\0b", "a_b", "\ud83d", "\ud83e", "\udc80", "\x1b[31m",
    "e\u0301" * 200,
]  # fmt: skip


def test_any_name_is_a_file_of_its_own(tmp_path):
    for name in NAMES:
        with atomic_path(tmp_path / f"{as_path(name)}.jpg") as temporary:
            temporary.write_text(repr(name))
    assert {path.read_text() for path in tmp_path.iterdir()} == {repr(name) for name in NAMES}
    assert all(len(path.name.encode()) < 255 for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("photos/a b.jpg", "photos/a b.jpg"),
        ("../../etc", "_/_/etc"),
        ("/a//b", "_/a/_/b"),
        (7, "7"),
        ("猫.jpg", "猫.jpg"),
    ],
)
def test_usual_names_stay_and_none_leaves_the_folder(name, path):
    assert as_path(name) == path


def test_each_folder_of_a_name_is_cut(tmp_path):
    path = tmp_path / as_path("/".join(["x" * 300] * 3))
    write_text(path, "")
    assert path.is_file() and len(path.relative_to(tmp_path).parts) == 3


def test_text_that_no_file_holds_is_escaped(tmp_path):
    write_text(tmp_path / "a.txt", "Käfer \ud83d")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Käfer \\ud83d"
