"""Drawing primitives: masks and captions on images, ground truth beside prediction, reference thumbnails."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from refexp.masks import Rle, boxes_xywh, decode
from refexp.show.instances import Instance, window

SIDE = 720
"""Longer side of a drawn image in pixels. Small images are enlarged, so that captions cover little of them."""
THUMBNAIL = 128
TEXT = 13
TONES = ((0.75, 0.95), (0.95, 0.66), (0.42, 1.0))
"""Saturation and value: bright, dark, pale."""


def color(label: int) -> tuple[int, int, int]:
    """A fixed, well separated color for each class index.

    Hues follow golden-ratio steps around the color circle. After five steps they come close, so the tone changes.
    """
    saturation, value = TONES[label // 5 % len(TONES)]
    r, g, b = colorsys.hsv_to_rgb((0.02 + label * 0.618034) % 1, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def outline(mask: np.ndarray, width: float) -> np.ndarray:
    """The inner edge of a mask, bool [H, W]. width: a fraction of the image's longer side."""
    return mask & ~binary_erosion(mask, iterations=max(1, int(max(mask.shape) * width)))


def draw(rgb: np.ndarray, instances: Sequence[Instance]) -> Image.Image:
    """Draw translucent masks, outlines and texts on an image u8 [H, W, 3]. The first instance is on top.

    Skips instances without a mask.
    """
    canvas = rgb.astype(np.float32)
    instances = [instance for instance in instances if instance.mask is not None]
    masks = [decode([instance.mask])[0] for instance in instances if instance.mask is not None]
    for instance, mask in zip(reversed(instances), reversed(masks), strict=True):
        tint = np.array(color(instance.label), dtype=np.float32)
        canvas[mask] = 0.55 * canvas[mask] + 0.45 * tint
        canvas[outline(mask, 1 / 400)] = tint
    scale = SIDE / max(rgb.shape[:2])
    image = Image.fromarray(canvas.astype(np.uint8))
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    pen = ImageDraw.Draw(image)
    for instance, mask in zip(reversed(instances), reversed(masks), strict=True):
        ys, xs = np.nonzero(mask)
        if len(xs):
            write(pen, (int(xs.min() * scale), int(ys.min() * scale)), instance.text, color(instance.label))
    return image


def write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, background: tuple[int, int, int]) -> None:
    """Draw text on a filled box that stays inside the image."""
    font = ImageFont.load_default(size=TEXT)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x = max(0, min(at[0], pen.im.size[0] - width))
    y = max(0, min(at[1] - height, pen.im.size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=background)
    red, green, blue = background
    # Black text is unreadable on a dark color, white text on a bright one.
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 80 else "white"
    pen.text((x + 3 - left, y + 2 - top), text, fill=ink, font=font)


def side_by_side(left: Image.Image, right: Image.Image, captions: tuple[str, str]) -> Image.Image:
    """Two pictures of the same size, each below its caption."""
    band, gap = 24, 6
    sheet = Image.new("RGB", (left.width + gap + right.width, left.height + band), "white")
    pen = ImageDraw.Draw(sheet)
    for x, picture, caption in ((0, left, captions[0]), (left.width + gap, right, captions[1])):
        sheet.paste(picture, (x, band))
        pen.text((x + 4, 4), caption, fill="black", font=ImageFont.load_default(size=TEXT + 1))
    return sheet


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """A picture below a caption."""
    band = 24
    sheet = Image.new("RGB", (picture.width, picture.height + band), "white")
    sheet.paste(picture, (0, band))
    ImageDraw.Draw(sheet).text((4, 4), caption, fill="black", font=ImageFont.load_default(size=TEXT + 1))
    return sheet


def reference_sheet(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, Rle, int]]]], note: str) -> Image.Image:
    """One row per class: its name and its references (rgb, mask, label), each cropped around the mask."""
    name_width, band = 130, 24
    columns = max(len(references) for _, references in rows)
    sheet = Image.new("RGB", (name_width + columns * THUMBNAIL, band + len(rows) * THUMBNAIL), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 4), note, fill="black", font=ImageFont.load_default(size=TEXT + 1))
    for row, (name, references) in enumerate(rows):
        top = band + row * THUMBNAIL
        pen.text((6, top + THUMBNAIL // 2 - 8), name[:18], fill="black", font=ImageFont.load_default(size=TEXT))
        for column, (rgb, mask, label) in enumerate(references):
            sheet.paste(thumbnail(rgb, mask, label), (name_width + column * THUMBNAIL, top))
    return sheet


def thumbnail(rgb: np.ndarray, mask: Rle, label: int) -> Image.Image:
    """A square crop around a mask, THUMBNAIL pixels wide."""
    x1, y1, x2, y2 = window(boxes_xywh([mask])[0].tolist(), rgb.shape[:2], least=12)
    piece = Image.fromarray(np.asarray(draw_native(rgb, mask, label))[y1:y2, x1:x2])
    piece.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
    tile = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    tile.paste(piece, ((THUMBNAIL - piece.width) // 2, (THUMBNAIL - piece.height) // 2))
    return tile


def draw_native(rgb: np.ndarray, mask: Rle, label: int) -> Image.Image:
    """The image at its own size with one mask outlined and everything else darkened."""
    inside = decode([mask])[0]
    canvas = rgb.astype(np.float32)
    canvas[~inside] *= 0.55
    canvas[outline(inside, 1 / 250)] = color(label)
    return Image.fromarray(canvas.astype(np.uint8))
