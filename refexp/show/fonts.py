"""Text on pictures, in any script: each sign is drawn in a font that has it.

Pillow's own font has hardly more than ASCII. For other signs, matplotlib's font and the fonts of the system are tried.
A class whose name no font can draw is drawn as its number, such as #3.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageDraw, ImageFont, features

from refexp.errors import shown

OWN = ""
"""Stands for Pillow's own font among the font files."""
STYLED = re.compile("bold|italic|oblique|light|thin|black|mono|condensed", re.IGNORECASE)
LONGEST = 500
"""Signs of a text that are drawn at most. No picture is wide enough for more."""


@lru_cache(maxsize=1)
def font_files() -> tuple[str, ...]:
    """Return the font files in the order in which they are tried. Regular fonts of the system come before others."""
    from matplotlib import font_manager, get_data_path

    of_system = sorted(font_manager.findSystemFonts(), key=lambda file: (bool(STYLED.search(Path(file).stem)), file))
    return OWN, str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), *of_system


@lru_cache(maxsize=256)
def font(file: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font."""
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)  # type: ignore[return-value]


@cache
def signs(file: str) -> np.ndarray:
    """Return the code points that a font has, u32: none if Pillow cannot draw with it, as with colored pictures."""
    from fontTools.ttLib import TTFont

    try:
        content = io.BytesIO(font(OWN, 13).font_bytes) if file == OWN else file
        font(file, 13)
        with TTFont(content, fontNumber=0, lazy=True) as tables:
            return np.array(list(tables.getBestCmap() or ()), dtype=np.uint32)
    except Exception:  # a damaged font of the system; fontTools raises many types
        return np.zeros(0, dtype=np.uint32)


def has(file: str, sign: str) -> bool:
    """Whether a font has a sign."""
    return bool((signs(file) == ord(sign)).any())


@cache
def file_of(sign: str) -> str | None:
    """Return the first font file that has a sign, or None. Without raqm, Pillow cannot write from right to left."""
    if unicodedata.bidirectional(sign) in ("R", "AL") and not features.check("raqm"):
        return None
    return next((file for file in font_files() if has(file, sign)), None)


def files_of(text: str) -> set[str]:
    """Return the font files that the signs of a text need, without Pillow's own font."""
    return {file for file in map(file_of, set(text)) if file}


def drawable(name: str) -> bool:
    """Whether there is a font for every sign of a name."""
    return all(is_joiner(sign) or file_of(sign) is not None for sign in clean(name))


def numbered(classes: Sequence[str]) -> dict[str, str]:
    """Return the numbers that pictures show instead of names that cannot be drawn: `{"#3": name}`."""
    return {f"#{label + 1}": name for label, name in enumerate(classes) if not drawable(name)}


def captions(classes: Sequence[str]) -> list[str]:
    """Return what pictures show as the name of each class: the name, or its number."""
    return [clean(name) if drawable(name) else f"#{label + 1}" for label, name in enumerate(classes)]


def clean(text: str) -> str:
    """Return the beginning of a text, with control characters escaped."""
    return shown(text[:LONGEST], LONGEST)


def is_joiner(sign: str) -> bool:
    """Whether a sign only changes the look of its neighbours: zero-width joiners and variation selectors."""
    return unicodedata.category(sign) == "Cf" or "\ufe00" <= sign <= "\ufe0f"


def spans(text: str, size: int) -> Iterator[tuple[float, str, ImageFont.FreeTypeFont]]:
    """Cut a text where its font changes. Yields the x at which a part starts, the part and its font."""
    parts: list[list[str]] = []
    for sign in clean(text):
        last = parts[-1][1] if parts else OWN
        file = last if is_joiner(sign) or has(last, sign) else file_of(sign)
        if file is None:
            file, sign = OWN, "?"
        elif is_joiner(sign) and file == OWN:  # it would draw a box
            continue
        if parts and last == file:
            parts[-1][0] += sign
        else:
            parts.append([sign, file])
    x = 0.0
    for part, file in parts:
        yield x, part, font(file, size)
        x += font(file, size).getlength(part)


def width_of(text: str, size: int) -> float:
    """Return the width of a text in pixels."""
    return sum(of_part.getlength(part) for _, part, of_part in spans(text, size))


def fitted(text: str, size: int, width: float) -> str:
    """Return the text, or as much of its beginning as fits into the width in pixels, with an ellipsis."""
    text = clean(text)
    if width_of(text, size) <= width:
        return text
    while text and width_of(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


def draw_text(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, ink: str | tuple[int, int, int]
) -> None:
    """Draw a text whose ascenders start at `at`."""
    baseline = at[1] + font(OWN, size).getmetrics()[0]
    for x, part, of_part in spans(text, size):
        pen.text((at[0] + x, baseline), part, fill=ink, font=of_part, anchor="ls")


def text_box(text: str, size: int) -> tuple[float, float, float, float]:
    """Return the pixels `x1 y1 x2 y2` that `draw_text` at (0, 0) covers."""
    baseline = font(OWN, size).getmetrics()[0]
    boxes = [(x, of_part.getbbox(part, anchor="ls")) for x, part, of_part in spans(text, size)]
    return (
        min((x + box[0] for x, box in boxes), default=0),
        baseline + min((box[1] for _, box in boxes), default=0),
        max((x + box[2] for x, box in boxes), default=0),
        baseline + max((box[3] for _, box in boxes), default=0),
    )
