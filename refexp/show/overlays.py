"""Drawing primitives: masks and captions on images, ground truth beside prediction, reference thumbnails."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from refexp.masks import Rle, areas, boxes_xywh, decode, decode_inside
from refexp.show.fonts import draw_text, fitted, text_box
from refexp.show.instances import Instance, window

SIDE = 720
"""Longer side of a drawn image in pixels. Small images are enlarged, so that captions cover little of them."""
THUMBNAIL = 128
TEXT, NAME = 13, 300
"""Size of texts, and longest class name, in pixels."""
TONES = ((0.75, 0.95), (0.95, 0.66), (0.42, 1.0))
"""Saturation and value: bright, dark, pale."""


def color(label: int) -> tuple[int, int, int]:
    """A fixed, well separated color for each class index.

    Hues follow golden-ratio steps around the color circle. After five steps they come close, so the tone changes.
    """
    saturation, value = TONES[label // 5 % len(TONES)]
    r, g, b = colorsys.hsv_to_rgb((0.02 + label * 0.618034) % 1, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def outline(mask: np.ndarray, width: int) -> np.ndarray:
    """The inner edge of a mask, bool [H, W], `width` pixels wide."""
    return mask & ~binary_erosion(mask, iterations=width)


def line_width(size: Sequence[int], fraction: float) -> int:
    """The width of an outline in pixels. fraction: of the longer side of the image of `size` = (H, W)."""
    return max(1, int(max(size) * fraction))


def drawn_size(size: Sequence[int]) -> tuple[int, int]:
    """Original (H, W) -> (H, W) of the drawn image. No side is less than a pixel."""
    scale = SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def draw(rgb: np.ndarray, instances: Sequence[Instance]) -> Image.Image:
    """Draw translucent masks, outlines and texts on an image u8 [H, W, 3]. The first instance is on top.

    Skips instances without a mask, or with an empty one. Decodes one mask at a time.
    """
    size = rgb.shape[:2]
    canvas = rgb.astype(np.float32)
    masked = [(one, one.mask) for one in reversed(instances) if one.mask is not None and areas([one.mask])[0]]
    for instance, mask in masked:
        tint = np.array(color(instance.label), dtype=np.float32)
        inside, place = decode_inside(mask)
        region = canvas[place]
        region[inside] = 0.55 * region[inside] + 0.45 * tint
        region[outline(inside, line_width(size, 1 / 400))] = tint
    scale, (height, width) = SIDE / max(size), drawn_size(size)
    image = Image.fromarray(canvas.astype(np.uint8)).resize((width, height))
    pen = ImageDraw.Draw(image)
    for instance, mask in masked:
        x, y, _, _ = boxes_xywh([mask])[0]
        write(pen, (int(x * scale), int(y * scale)), instance.text, color(instance.label))
    return image


def write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, background: tuple[int, int, int]) -> None:
    """Draw text on a filled box that stays inside the image."""
    left, top, right, bottom = text_box(text, TEXT)
    width, height = right - left + 6, bottom - top + 5
    x = max(0, min(at[0], pen.im.size[0] - width))
    y = max(0, min(at[1] - height, pen.im.size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=background)
    red, green, blue = background
    # Black text is unreadable on a dark color, white text on a bright one.
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 80 else "white"
    draw_text(pen, (x + 3 - left, y + 2 - top), text, TEXT, ink)


def with_captions(*pictures: tuple[Image.Image, str]) -> Image.Image:
    """Pictures of the same size side by side, each below its caption."""
    band, gap, (first, _) = 24, 6, pictures[0]
    sheet = Image.new("RGB", (len(pictures) * (first.width + gap) - gap, first.height + band), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(pictures):
        x = number * (first.width + gap)
        sheet.paste(picture, (x, band))
        draw_text(pen, (x + 4, 4), caption, TEXT + 1, "black")
    return sheet


def reference_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], note: str) -> Image.Image:
    """One row per class: its name and the thumbnails of its references."""
    name_width, band = 130, 24
    columns = max(len(references) for _, references in rows)
    sheet = Image.new("RGB", (name_width + columns * THUMBNAIL, band + len(rows) * THUMBNAIL), "white")
    pen = ImageDraw.Draw(sheet)
    draw_text(pen, (4, 4), note, TEXT + 1, "black")
    for row, (name, references) in enumerate(rows):
        top = band + row * THUMBNAIL
        draw_text(pen, (6, top + THUMBNAIL // 2 - 8), fitted(name, TEXT, name_width - 8), TEXT, "black")
        for column, picture in enumerate(references):
            sheet.paste(picture, (name_width + column * THUMBNAIL, top))
    return sheet


def thumbnail(rgb: np.ndarray, mask: Rle, label: int) -> Image.Image:
    """A square crop around a mask, THUMBNAIL pixels wide: the mask outlined and everything else darkened."""
    x1, y1, x2, y2 = window(boxes_xywh([mask])[0].tolist(), rgb.shape[:2], least=12)
    inside = decode([mask])[0, y1:y2, x1:x2]
    canvas = rgb[y1:y2, x1:x2].astype(np.float32)
    canvas[~inside] *= 0.55
    canvas[outline(inside, line_width(rgb.shape[:2], 1 / 250))] = color(label)
    piece = Image.fromarray(canvas.astype(np.uint8))
    piece.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
    tile = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    tile.paste(piece, ((THUMBNAIL - piece.width) // 2, (THUMBNAIL - piece.height) // 2))
    return tile
