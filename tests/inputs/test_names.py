"""File names as other machines write them: found where one file fits, else named with the most similar one."""

from __future__ import annotations

import unicodedata

import pytest

from refexp.errors import MissingData
from refexp.inputs.names import check_files, locate
from refexp.inputs.repairs import collecting


@pytest.fixture
def images(tmp_path):
    for name in ("a.jpg", "sub/Straße é.PNG", "sub/twin.jpg", "other/twin.jpg", "other/b.c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "a.jpg"), ("A.JPG", "a.jpg"), ("a", "a.jpg"), ("a.png", "a.jpg"), ("a.jpg ", "a.jpg"),
        ("./images/a.jpg", "a.jpg"), ("D:\\work\\a.jpg", "a.jpg"), ("https://x.org/a.jpg", "a.jpg"),
        ("a.jpg?width=640", "a.jpg"), ("https://x.org/a.jpeg?v=1.2", "a.jpg"),
        (unicodedata.normalize("NFD", "sub/Straße é.PNG"), "sub/Straße é.PNG"), ("STRASSE É.jpeg", "sub/Straße é.PNG"),
        ("sub/Stra%C3%9Fe%20%C3%A9.PNG", "sub/Straße é.PNG"), ("other/TWIN.jpg", "other/twin.jpg"),
        ("twin.jpg", None), ("b.c", "other/b.c.tif"), ("b", None), ("none.jpg", None), ("", None), ("a\0.jpg", None),
        ("x" * 400, None), (".", None), ("sub", None),
    ],
)  # fmt: skip
def test_a_name_means_the_only_file_that_fits(name, file, images):
    assert locate(images, name) == (images / file if file else None)


def test_other_spellings_are_counted_and_missing_ones_named(images):
    with collecting() as repairs:
        check_files(["a.jpg", "A.JPG", "b.c"], images, "f.json")
    assert repairs.found == {"image found under another spelling of its name": (2, "f.json, A.JPG is a.jpg")}
    with pytest.raises(
        MissingData, match=r"2 of the images in f\.json .*first twim\.jpg; .*file there is .*/twin\.jpg"
    ):
        check_files(["a.jpg", "twim.jpg", "none.jpg"], images, "f.json")


def test_a_mask_does_not_stand_in_for_its_photograph(images):
    (images / "masks").mkdir()
    (images / "masks" / "lost.png").touch()
    assert locate(images, "lost.jpg") is None
    assert locate(images, "Masks/lost.png") == images / "masks" / "lost.png"
