"""Draws scenes with exact instance masks: the images of the `synthetic` dataset.

Every class is one row of `CLASSES`. Its layout function assigns each sample of the object to a color layer, and its
palettes give the colors of the layers. To add a class, add a layout function and a row.
Image `i` of a split depends only on (seed, split, classes, i), so a longer split starts with the shorter one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from refexp.data.coco import annotation_of

SIZES = ((384, 288), (320, 240), (352, 264), (288, 384), (240, 320), (264, 352))
"""The image sizes, (width, height). Each scene draws one of them."""
EMPTY_EVERY = 12
"""One image in this many contains only clutter and has no annotations."""
MIN_VISIBLE = 0.4
"""Minimum visible share of each object. A placement that leaves less is tried again."""
MIN_AREA = 150
"""Minimum number of visible pixels of an annotated object."""
PLACEMENTS = 12
"""Number of placements tried before an object is left out."""
OVERSAMPLE = 2
"""Samples per pixel and axis, for antialiased edges. The mask has the pixels of which at least half is covered."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (200, 38, 40), "orange": (236, 128, 36), "yellow": (244, 204, 62), "lime": (150, 190, 60),
    "green": (52, 128, 62), "teal": (32, 144, 146), "sky": (110, 184, 226), "blue": (36, 82, 170),
    "purple": (116, 62, 142), "pink": (240, 146, 168), "brown": (110, 66, 38), "tan": (206, 160, 104),
    "cream": (246, 234, 206), "white": (250, 250, 248), "gray": (136, 138, 144), "black": (30, 28, 32),
}  # fmt: skip
BACKDROPS = ((196, 186, 164), (150, 170, 140), (168, 186, 200), (120, 112, 108), (214, 200, 186), (98, 118, 112),
             (178, 160, 178), (86, 96, 116), (226, 222, 214), (160, 138, 112))  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Sample positions in the object's coordinates, f32 [n, n] each. The object fits into the unit disc."""

    x: np.ndarray
    y: np.ndarray
    r: np.ndarray
    angle: np.ndarray


Layout = Callable[[np.random.Generator, Frame], np.ndarray]
"""Draws an object as u8 [n, n]: 0 outside, k for the palette's k-th color."""


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects.

    layout: draws the shape and its layers. palettes: color names, one per layer. dome: roundness of the shading.
    """

    layout: Layout
    palettes: tuple[str, ...]
    dome: float = 0.0


@dataclass(frozen=True)
class Sprite:
    """A drawn object without a position. rgb: f32 [n, n, 3] in 0..255. coverage: f32 [n, n] in [0, 1]."""

    rgb: np.ndarray
    coverage: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """The pixels of the object, bool [n, n]."""
        return self.coverage >= 0.5


def _stack(inside: np.ndarray, *layers: np.ndarray) -> np.ndarray:
    """Paint color 1 inside, then each layer (bool [n, n]) over it with colors 2, 3, ..."""
    drawn = np.ones(inside.shape, dtype=np.uint8)
    for color, layer in enumerate(layers, start=2):
        drawn[layer] = color
    return np.where(inside, drawn, 0).astype(np.uint8)


def _discs(frame: Frame, centres: Sequence[tuple[float, float]], radius: float) -> np.ndarray:
    """Return the union of discs with the same radius, bool [n, n]."""
    hit = np.zeros(frame.x.shape, dtype=bool)
    for cx, cy in centres:
        hit |= (frame.x - cx) ** 2 + (frame.y - cy) ** 2 < radius**2
    return hit


def _wave(frame: Frame, count: int, phase: float = 0.0) -> np.ndarray:
    """Return a triangle wave around the center, f32 [n, n], with `count` peaks of 1 and troughs of 0."""
    turn = (frame.angle / (2 * np.pi) * count + phase) % 1
    return np.abs(2 * turn - 1)


def _ladybird(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A shell with a head and either two large, seven medium or many small spots."""
    spots, radius = [
        ([(0.4, 0.15)], 0.24),
        ([(0.35, -0.2), (0.52, 0.2), (0.26, 0.52)], 0.16),
        ([(0.2, -0.25), (0.52, -0.12), (0.28, 0.12), (0.58, 0.25), (0.2, 0.45), (0.42, 0.58)], 0.1),
    ][rng.integers(3)]
    width = rng.uniform(0.72, 0.86)
    shell = (f.x / width) ** 2 + ((f.y - 0.12) / 0.86) ** 2 < 1
    head = (f.x / 0.46) ** 2 + ((f.y + 0.7) / 0.29) ** 2 < 1
    marks = _discs(f, [(side * x, y) for x, y in spots for side in (-1, 1)], radius) | (np.abs(f.x) < 0.035)
    return _stack(shell | head, marks, head & (f.y < -0.5))


def _dartboard(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A disc with alternating sectors, two narrow rings and a bull's eye, or a disc with rings only."""
    sectors = (0, 8, 12, 20)[rng.integers(4)]
    odd = (f.r * 5 % 2 < 1) if sectors == 0 else _wave(f, sectors // 2, 0.25) > 0.5
    ring = ((f.r > 0.84) | (np.abs(f.r - 0.5) < 0.06)) & (sectors > 0)
    return _stack(f.r < 0.97, odd, ring & ~odd, (ring & odd) | (f.r < 0.11))


def _beach_ball(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A sphere with panels between meridians and a cap at the pole."""
    tilt, panels = rng.uniform(0.3, 1.2), (6, 8, 12)[rng.integers(3)]
    z = np.sqrt(np.clip(1 - f.r**2, 0, 1))
    pole, depth = f.y * np.sin(tilt) + z * np.cos(tilt), z * np.sin(tilt) - f.y * np.cos(tilt)
    panel = np.floor((np.arctan2(f.x, depth) / (2 * np.pi) + rng.random()) * panels).astype(int) % panels
    second, third = panel % 2 == 1, (panel % 4 == 2) & (panels > 6)
    return _stack(f.r < 0.96, second, third, pole > 0.95)


def _brick_wall(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A rectangle of bricks in two colors with mortar. The rows are shifted or stacked."""
    half, rows = rng.uniform(0.42, 0.66), rng.integers(3, 6)
    row = np.floor((f.y / half + 1) / 2 * rows)
    column = f.x * rng.uniform(1.2, 2.4) + row * rng.choice([0.0, 0.5]) + rng.random()
    seam = 0.05 * rows
    mortar = ((f.y / half + 1) / 2 * rows % 1 < seam) | (column % 1 < seam * 0.5)
    other = (np.floor(column) * 7 + row * 5) % 3 == 0
    return _stack((np.abs(f.x) < 0.74) & (np.abs(f.y) < half), other, mortar)


def _zebra_rug(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A rug with convex or concave sides and wavy stripes in one of three directions."""
    waist, stripes, bend = rng.uniform(-0.12, 0.2), rng.uniform(3.0, 6.0), rng.uniform(0.06, 0.2)
    width, height = 0.55 + waist * (np.abs(f.y) - 0.4), 0.78
    inside = np.abs(f.x / width) ** 5 + np.abs(f.y / height) ** 5 < 1
    along = (f.y, f.x, np.hypot(f.x + 0.7, f.y + 0.9))[rng.integers(3)]
    other = f.x + f.y
    warped = along + bend * np.sin(other * rng.uniform(3, 6) + rng.uniform(0, 6))
    return _stack(inside, (warped * stripes + rng.random()) % 1 < rng.uniform(0.35, 0.6))


def _leaf(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A narrow, an oval or a lobed blade with a midrib, side veins and a stalk."""
    kind, slope, along = rng.integers(3), rng.uniform(0.5, 1.1), np.clip((f.y + 0.95) / 1.65, 0, 1)
    if kind == 2:
        lobes = np.cos(5 * (f.angle + np.pi / 2)) * 0.2 + np.cos(15 * (f.angle + np.pi / 2)) * 0.06
        blade = f.r < 0.66 + lobes
        vein = (_wave(f, 5, 0.75) > 1 - 0.09 / np.maximum(f.r, 0.09)) & (f.r < 0.7)
    else:
        width = (0.44, 0.72)[kind] * np.sin(np.pi * along ** (0.8, 1.25)[kind])
        blade = np.abs(f.x) < width * (1 + 0.07 * np.sin(f.y * 40) * (rng.random() < 0.5))
        vein = (np.abs(f.x) < 0.035) | ((f.y + slope * np.abs(f.x)) * rng.uniform(3.5, 5) % 1 < 0.15)
    stalk = (np.abs(f.x) < 0.045) & (f.y > 0.3) & (f.y < 0.95)
    return _stack(blade | stalk, vein | stalk)


def _starfish(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A star with five to eight arms, blunt or pointed. Each arm has a row of knobs or a stripe."""
    arms, body, power = (5, 5, 6, 8)[rng.integers(4)], rng.uniform(0.34, 0.46), rng.uniform(1.2, 2.2)
    peak = _wave(f, arms)
    inside = f.r < body + (0.97 - body) * peak**power
    distance = (1 - peak) * np.pi / arms * f.r
    if rng.random() < 0.6:
        marks = (distance < 0.07) & (f.r * 6 % 1 < 0.55) & (f.r < 0.85)
    else:
        marks = (distance < 0.05) & (f.r < 0.75)
    return _stack(inside, marks, f.r < rng.uniform(0.08, 0.2))


def _cookie(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """An uneven disc with chips, and sometimes with icing or with jam in the middle."""
    kind, phase = rng.integers(3), rng.uniform(0, 6, 2)
    edge = 0.9 + 0.04 * np.sin(5 * f.angle + phase[0]) + 0.02 * np.sin(9 * f.angle + phase[1])
    turns = np.arange(9) * 2.4 + phase[0]
    reach = np.sqrt((np.arange(9) + 0.5) / 9) * 0.74
    chips = _discs(f, list(zip(reach * np.cos(turns), reach * np.sin(turns), strict=True)), (0.11, 0.07, 0.05)[kind])
    iced = (f.r < edge - 0.16) if kind == 1 else np.zeros_like(chips)
    jam = (f.r < 0.4) if kind == 2 else np.zeros_like(chips)
    return _stack(f.r < edge, iced, chips | jam)


CLASSES: dict[str, ObjectClass] = {
    "ladybird": ObjectClass(
        _ladybird, ("red black black", "yellow black black", "black red black", "orange cream brown"), dome=0.8
    ),
    "dartboard": ObjectClass(
        _dartboard, ("cream black red green", "sky white blue red", "yellow black green red", "white red blue black")
    ),
    "beach ball": ObjectClass(
        _beach_ball,
        ("red white blue yellow", "yellow teal orange white", "pink white purple white", "green cream orange red"),
        dome=0.9,
    ),
    "brick wall": ObjectClass(
        _brick_wall, ("red brown cream", "tan orange gray", "gray sky white", "teal green cream")
    ),
    "zebra rug": ObjectClass(_zebra_rug, ("white black", "orange black", "cream brown", "sky blue")),
    "leaf": ObjectClass(_leaf, ("green lime", "red orange", "yellow brown", "brown tan"), dome=0.2),
    "starfish": ObjectClass(
        _starfish, ("orange cream red", "purple pink white", "red yellow yellow", "blue sky white"), dome=0.5
    ),
    "cookie": ObjectClass(
        _cookie, ("tan cream brown", "brown pink white", "cream brown red", "tan white purple"), dome=0.3
    ),
}
"""The classes that can be drawn, by name."""


def _clutter(rng: np.random.Generator, f: Frame) -> np.ndarray:
    """A shape that belongs to no class: polygon, ring, cross or capsule, with or without a border."""
    sides = rng.integers(3, 7)
    polygon = f.r * np.cos((f.angle % (2 * np.pi / sides)) - np.pi / sides)
    ring = np.abs(f.r - 0.68) + 0.25
    cross = np.maximum(np.minimum(np.abs(f.x), np.abs(f.y)) * 2, f.r * 0.6)
    capsule = np.hypot(np.maximum(np.abs(f.x) - 0.6, 0), f.y) * 2
    depth = (polygon, ring, cross, capsule)[rng.integers(4)]
    return _stack(depth < 0.5, depth > rng.choice([0.4, 0.5]))


CLUTTER = ObjectClass(_clutter, tuple(f"{a} {b}" for a, b in zip(COLORS, reversed(COLORS), strict=True)), 0.1)


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Return smooth noise, f32 [H, W], of about [-1, 1]. `cells` is the number of bumps along an axis."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample positions x, y in [-1, 1], f32 [side, side] each."""
    line = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    return np.meshgrid(line, line)[0], line[:, None].repeat(side, axis=1)


def _frame(rng: np.random.Generator, side: int) -> Frame:
    """Return the object's coordinates: rotated by a random angle and slightly compressed along one axis."""
    x, y = _grid(side)
    turn, squash = rng.uniform(0, 2 * np.pi), rng.uniform(0.78, 1.0)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = x * cos + y * sin, (y * cos - x * sin) / np.float32(squash)
    return Frame(u, v, np.hypot(u, v), np.arctan2(v, u))


def _palette(rng: np.random.Generator, names: str) -> np.ndarray:
    """Return the named colors with small random changes, f32 [1 + layers, 3]. Row 0 is the outside."""
    pure = np.array([(0, 0, 0), *(COLORS[name] for name in names.split())])
    return np.clip(pure * rng.uniform(0.85, 1.1) + rng.normal(0, 7, pure.shape), 4, 254).astype(np.float32)


def _shading(rng: np.random.Generator, side: int, dome: float, light: float) -> np.ndarray:
    """Return the brightness factor, f32 [side, side]: a dome lit from the angle `light`, with some noise."""
    x, y = _grid(side)
    towards = x * np.float32(np.cos(light)) + y * np.float32(np.sin(light))
    height = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    domed = 0.72 + 0.3 * height + 0.3 * towards
    return dome * domed + (1 - dome) * (1 + 0.1 * towards) + 0.05 * _noise(rng, (side, side), max(side // 6, 2))


def _draw(rng: np.random.Generator, kind: ObjectClass, side: int, light: float) -> Sprite:
    """Draw one object on a square of `side` pixels, lit from the angle `light`."""
    layers = kind.layout(rng, _frame(rng, side * OVERSAMPLE))
    palette = _palette(rng, kind.palettes[rng.integers(len(kind.palettes))])
    blocks = layers.reshape(side, OVERSAMPLE, side, OVERSAMPLE)
    # Mixing the colors by the share of each layer in a pixel is faster than coloring every sample.
    shares = np.stack([(blocks == k).mean(axis=(1, 3), dtype=np.float32) for k in range(len(palette))], axis=-1)
    coverage = 1 - shares[..., 0]
    rgb = shares @ palette / np.maximum(coverage, 1e-6)[..., None]
    return Sprite(rgb * _shading(rng, side, kind.dome, light)[..., None], coverage)


class _Canvas:
    """The scene during drawing. rgb: f32 [H, W, 3]. owner: i64 [H, W], the visible object at a pixel (-1: none)."""

    def __init__(self, rgb: np.ndarray) -> None:
        self.rgb = rgb
        self.owner: np.ndarray = np.full(rgb.shape[:2], -1)
        self.full_area: list[int] = []

    def _windows(self, side: int, left: int, top: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the overlap of the image and a square at (left, top): as slices of the image and of the square."""
        height, width = self.owner.shape
        rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
        inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        return (rows, columns), inner

    def place(self, sprite: Sprite, left: int, top: int, visible: float) -> bool:
        """Paste `sprite`, unless it or an object below it would have a visible share of less than `visible`."""
        outer, inner = self._windows(len(sprite.coverage), left, top)
        mask = sprite.mask
        owner = self.owner.copy()
        owner[outer][mask[inner]] = len(self.full_area)
        full = np.array([*self.full_area, mask.sum()])
        seen = np.bincount(owner[owner >= 0], minlength=len(full))
        if (seen < np.maximum(full * visible, MIN_AREA)).any():
            return False
        self.owner, self.full_area = owner, full.tolist()
        alpha = sprite.coverage[inner][..., None]
        self.rgb[outer] = self.rgb[outer] * (1 - alpha) + sprite.rgb[inner] * alpha
        return True


def _backdrop(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a gradient with smooth noise and sometimes a pattern (weave, planks or gingham), f32 [H, W, 3]."""
    height, width = size
    first, second = (np.array(BACKDROPS[i], dtype=np.float32) for i in rng.choice(len(BACKDROPS), 2, replace=False))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    ramp = (x / width - 0.5) * np.float32(np.cos(turn)) + (y / height - 0.5) * np.float32(np.sin(turn))
    mix = np.clip(0.3 + 0.5 * ramp + 0.12 * _noise(rng, size, 5), 0, 1)[..., None]
    texture = 4 * _noise(rng, size, 40) + 3 * _noise(rng, size, 90)
    kind = rng.integers(4)
    if kind == 1:  # weave
        texture += 4 * np.sin(x * 1.1) * np.sin(y * 1.1)
    if kind == 2:  # planks
        texture += 5 * _noise(rng, (height, 1), 60) - 14 * (y % (height / 5) < 1.5)
    if kind == 3:  # gingham
        texture += 4 * np.sign(np.sin(x * 0.12)) + 4 * np.sign(np.sin(y * 0.12))
    return first * (1 - mix) + second * mix + texture[..., None]


def _corner(rng: np.random.Generator, size: tuple[int, int], side: int) -> tuple[int, int]:
    """Draw the position (left, top) of a square of `side`: usually inside the image, sometimes across its border."""
    margin = 8 if rng.random() < 0.88 else -side // 3
    top, left = rng.integers(margin, [max(length - side - margin, margin + 1) for length in size]).tolist()
    return left, top


def _finish(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Add uneven light, a color cast and sensor noise. f32 -> u8 [H, W, 3]."""
    light = rng.uniform(0.85, 1.08) * (1 + 0.12 * _noise(rng, rgb.shape[:2], 2))
    cast = rng.uniform(0.94, 1.06, 3)
    noisy = rgb * (light[..., None] * cast) + 2 * rng.standard_normal(rgb.shape, dtype=np.float32)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def _scene_classes(rng: np.random.Generator, classes: int, first: int) -> list[int]:
    """Draw the classes of a scene: `first` and 1-4 others. Sometimes a class occurs twice."""
    count = int(rng.integers(2, 6))
    others = [int(i) for i in rng.permutation(classes) if i != first]
    chosen = [first, *others][:count]
    if rng.random() < 0.25 or len(chosen) < 2:
        chosen.append(chosen[0])
    return chosen[:5]


def render_scene(
    rng: np.random.Generator, classes: Sequence[str], first: int | None = 0
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one scene: u8 [H, W, 3] and, for each object, its class index and visible mask, bool [H, W].

    first: index of a class that the scene must show, which balances a split. None draws only clutter.
    """
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas, light = _Canvas(_backdrop(rng, (height, width))), rng.uniform(0, 2 * np.pi)
    shown = [] if first is None else _scene_classes(rng, len(classes), first)
    # -1 means clutter. The first pieces lie below all objects, and sometimes a last piece lies on top.
    queue = [-1] * int(rng.integers(1, 3)) + shown + [-1] * int(rng.random() < 0.4)
    placed: list[int] = []
    for label in queue:
        kind = CLUTTER if label < 0 else CLASSES[classes[label]]
        side = int(rng.integers(24, 60) if label < 0 else 40 + 105 * rng.beta(1.6, 1.6))
        sprite = _draw(rng, kind, side, light)
        # Mostly an object tries free places first, so that occlusion occurs mainly in crowded scenes.
        shares = np.linspace(1.0, MIN_VISIBLE, PLACEMENTS) if rng.random() < 0.75 else [MIN_VISIBLE] * PLACEMENTS
        if any(canvas.place(sprite, *_corner(rng, (height, width), side), visible) for visible in shares):
            placed.append(label)
    masks = [(label, canvas.owner == index) for index, label in enumerate(placed) if label >= 0]
    return _finish(rng, canvas.rgb), masks


def render_split(
    seed: int, classes: Sequence[str], images: int, split: str = "train"
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Draw a split: `images` images, u8 [H, W, 3] each, and its COCO dict, ready for `json.dump`.

    Category ids are 1..K in the order of `classes`. Image ids are 1..images.
    Raises ValueError for an unknown class and for an empty list of classes.
    """
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes:
        raise ValueError(f"cannot draw {unknown or 'no classes'}; choose from {', '.join(CLASSES)}")
    pictures: list[np.ndarray] = []
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(images):
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), i])
        rgb, objects = render_scene(rng, classes, None if i % EMPTY_EVERY == EMPTY_EVERY - 1 else i % len(classes))
        pictures.append(rgb)
        height, width = rgb.shape[:2]
        records.append({"id": i + 1, "file_name": f"synthetic_{i + 1:06d}.png", "width": width, "height": height})
        first = len(annotations) + 1
        annotations += [annotation_of(id_, i + 1, label + 1, m) for id_, (label, m) in enumerate(objects, start=first)]
    categories = [{"id": k, "name": name, "supercategory": "drawn"} for k, name in enumerate(classes, start=1)]
    return pictures, {"images": records, "annotations": annotations, "categories": categories}
