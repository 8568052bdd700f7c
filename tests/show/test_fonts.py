"""Names in any script on pictures: with a font that has their signs, and without one."""

from __future__ import annotations

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from refexp.show import fonts
from refexp.show.fonts import OWN, captions, draw_text, fitted, numbered, spans, text_box, width_of
from refexp.show.memory_bank import families

SIZE = 13


@pytest.fixture
def only(monkeypatch):
    """`only(files)`: Pillow's own font and these are all there are."""

    def use(*files: str) -> None:
        monkeypatch.setattr(fonts, "font_files", lambda: (OWN, *files))
        fonts.file_of.cache_clear()

    yield use
    fonts.file_of.cache_clear()


@pytest.fixture
def cats(tmp_path) -> str:
    """A font of one sign, a square for 猫."""
    pen = TTGlyphPen(None)
    for move, at in (("moveTo", (0, 0)), ("lineTo", (0, 900)), ("lineTo", (900, 900)), ("lineTo", (900, 0))):
        getattr(pen, move)(at)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": empty, "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = str(tmp_path / "cats.ttf")
    builder.save(path)
    return path


def ink(text: str) -> np.ndarray:
    picture = Image.new("L", (200, 30))
    draw_text(ImageDraw.Draw(picture), (2, 2), text, SIZE, 255)
    return np.asarray(picture)


def test_a_sign_is_drawn_in_the_font_that_has_it(only, cats):
    only(cats)
    assert captions(["cat", "猫 2"]) == ["cat", "猫 2"] and numbered(["猫 2"]) == {}
    assert [part for _, part, _ in spans("a猫猫 2", SIZE)] == ["a", "猫猫", " 2"]
    square = ink("猫") > 127
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert (
        square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.9 and min(len(rows), len(columns)) >= 10
    )
    assert families(["cat", "猫"]) == ["DejaVu Sans", "Cats"]


def test_without_a_font_a_number_stands_for_the_name(only):
    only()
    names = ["cat", "猫", "قطة", "Käfer", "dog"]
    assert captions(names) == ["cat", "#2", "#3", "#4", "dog"]
    assert numbered(names) == {"#2": "猫", "#3": "قطة", "#4": "Käfer"}
    assert (ink("猫") == ink("?")).all()


def test_matplotlib_s_font_is_always_there():
    assert captions(["Käfer", "кошка", "γάτα"]) == ["Käfer", "кошка", "γάτα"]


def test_fonts_that_cannot_be_read_are_passed_over(only, tmp_path, cats):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"\0\1\0\0 no font")
    only(str(broken), str(tmp_path / "gone.ttf"), cats)
    assert captions(["猫"]) == ["猫"]


@pytest.mark.parametrize("name", ["x" * 10_000, "a long name of a class", "猫" * 50, "a\nb\x1b\0\ud83d" * 9, ""])
def test_long_names_end_with_an_ellipsis(name, only, cats):
    only(cats)
    short = fitted(name, SIZE, 60)
    assert width_of(short, SIZE) <= 60 and short.endswith("…") == bool(name)
    assert name.startswith(short.removesuffix("…")) or "\n" in name
    assert short.isprintable()


def test_emoji_are_joined_by_signs_that_no_font_draws(only, cats):
    only(cats)
    assert captions(["猫\ufe0f"]) == ["猫\ufe0f"] and captions(["a\u200db"]) == ["a\u200db"]
    assert (ink("a\u200db") == ink("ab")).all()


def test_the_box_of_a_text_holds_its_ink(only, cats):
    only(cats)
    picture = ink("gÅ猫 yp")
    x1, y1, x2, y2 = (int(side) for side in text_box("gÅ猫 yp", SIZE))
    outside = picture.copy()
    outside[y1 + 2 : y2 + 3, x1 + 2 : x2 + 3] = 0
    assert picture.any() and not outside.any()
