"""A picture of what the references taught: patch features under their masks, and how alike the prototypes are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from refexp.files import atomic_path
from refexp.masks import boxes_xywh, encode
from refexp.method.memory import ReferenceView
from refexp.show.instances import window
from refexp.show.overlays import color
from refexp.show.patch_colors import feature_colors
from refexp.types import MemoryBank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED, MAX_FIGURES = 45, 10
"""Classes up to which the matrix names them, and up to which it holds figures."""

DPI = 130
TILE, SEAM, GAP, CAPTION = 0.95, 0.03, 0.16, 0.22
"""Inches: side of a tile, between the tiles of a reference, between references, under a tile."""
NAME, MARGIN, MATRIX, PANEL, HEADLINE = 1.25, 0.25, 3.65, (5.2, 5.0), 6.6
"""Inches: for a class's name, around all, side of a matrix, a matrix with its names, for the lines on top."""
INK, FAINT, ALARM = "#1f2933", "#7b8794", "#b42318"


def draw_memory_bank(
    path: Path, classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], bank: MemoryBank, note: str | None
) -> None:
    """Write the picture, a PNG: references with their masks, patch features as colors, and matrices of similarity.

    views: of the first references of the first classes; classes, bank: all of the run, in the same order. note: stands
    on top, if given.
    """
    from matplotlib.figure import Figure  # takes half a second to import

    columns = max(len(row) for row in views)
    tiles = (NAME + columns * (2 * TILE + SEAM + GAP), len(views) * (TILE + CAPTION))
    explanation = _explanation(classes, views, bank)
    head = 0.6 + 0.16 * len(explanation) + (0.2 if note else 0)
    # With one reference a class, references are prototypes.
    panels = 2 if max(len(rows) for rows in bank.instances) > 1 else 1
    width, height, corners = _arrange(tiles, panels)
    page = _Page(Figure(dpi=DPI, facecolor="white"), width + 2 * MARGIN, height + head + MARGIN)

    page.text(MARGIN, 0.3, "What the references taught", size=15, weight="bold")
    for number, line in enumerate(explanation):
        page.text(MARGIN, 0.56 + 0.16 * number, line, size=8.5, color=FAINT)
    if note:
        page.text(MARGIN, head - 0.16, note, size=9, weight="bold", color=ALARM)
    _draw_tiles(page, head, classes, views, bank)
    at = [(MARGIN + x, head + y) for x, y in corners]
    _draw_prototypes(page, at[0], classes, bank)
    if panels > 1:
        _draw_instances(page, at[1], classes, views, bank)
    with atomic_path(path) as temporary:
        page.figure.savefig(temporary, format="png")


def _arrange(tiles: tuple[float, float], panels: int) -> tuple[float, float, list[tuple[float, float]]]:
    """Width and height of all, and each panel's corner: beside the tiles if these are a tall block, else below."""
    if tiles[1] > 1.4 * MATRIX:
        x = tiles[0] + MARGIN
        return x + PANEL[0], max(tiles[1], panels * PANEL[1]), [(x, number * PANEL[1]) for number in range(panels)]
    width = max(tiles[0], panels * PANEL[0], HEADLINE)
    y = tiles[1] + 0.3
    return width, y + PANEL[1], [(number * PANEL[0], y) for number in range(panels)]


class _Page:
    """A figure measured in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        figure.set_size_inches(width, height)
        self.figure, self.width, self.height = figure, width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """A frame without ticks."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """One line whose foot is at y. Class names are taken literally."""
        all_styles: dict[str, Any] = {"color": INK, "size": 8, "parse_math": False, **style}
        self.figure.text(x / self.width, 1 - y / self.height, words, **all_styles)


def _explanation(classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], bank: MemoryBank) -> list[str]:
    shots, drawn = max(len(rows) for rows in bank.instances), max(len(row) for row in views)
    parts = [f"the first {len(views)} of {len(classes)} classes"] if len(views) < len(classes) else []
    parts += [f"the first {drawn} of up to {shots} references of a class"] if drawn < shots else []
    lines = [
        "Left of each pair the reference and its mask, right its patch features: the first three principal components",
        "of the patches under all masks drawn, as red, green, blue."
        + (
            " Below it, its similarity to the mean of the others of its class, red: to another class."
            if shots > 1
            else ""
        ),
    ]
    return lines + ([f"Drawn are {' and '.join(parts)}."] if parts else [])


def _draw_tiles(
    page: _Page, top: float, classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], bank: MemoryBank
) -> None:
    """A row a class; a reference that the others would name differently says so."""
    colors = iter(feature_colors([(view.tokens, view.weights) for row in views for view in row]))
    for label, row in enumerate(views):
        y = top + label * (TILE + CAPTION)
        page.axes(MARGIN, y + 0.02, 0.06, TILE - 0.04).set_facecolor(_hex(label))
        for number, line in enumerate(_wrapped(classes[label])):
            page.text(MARGIN + 0.14, y + TILE / 2 + 0.04 + 0.15 * number, line, size=9, weight="bold")
        for shot, view in enumerate(row):
            x = MARGIN + NAME + shot * (2 * TILE + SEAM + GAP)
            _draw_pair(page, x, y, view, label, next(colors))
            words, alarm = _judged_by_the_others(label, shot, classes, bank)
            page.text(x, y + TILE + 0.13, words, size=7, color=ALARM if alarm else FAINT)


def _draw_pair(page: _Page, x: float, y: float, view: ReferenceView, label: int, patches: np.ndarray) -> None:
    """The neighbourhood of a mask, as picture and as patches."""
    height, width = view.mask.shape
    left, top, right, bottom = window(boxes_xywh(encode(view.mask[None]))[0].tolist(), view.mask.shape, least=12)
    pair = page.axes(x, y, TILE, TILE), page.axes(x + TILE + SEAM, y, TILE, TILE)
    faded = np.where(view.mask[..., None], view.rgb, view.rgb // 2 + 127)
    pair[0].imshow(faded, extent=(0, width, height, 0))
    pair[1].imshow(patches, extent=(0, width, height, 0), interpolation="nearest")
    at = np.arange(width) + 0.5, np.arange(height) + 0.5
    for axes, ink, line in zip(pair, (_hex(label), INK), (1.6, 0.8), strict=True):
        if not view.mask.all() and min(view.mask.shape) > 1:
            axes.contour(*at, view.mask, [0.5], colors=ink, linewidths=line)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")


def named_by_the_others(label: int, shot: int, bank: MemoryBank) -> tuple[int, float] | None:
    """What a reference would be named, and with which similarity, if it were not one itself; None for a single one."""
    rows = bank.instances[label]
    if len(rows) < 2:
        return None
    prototypes = bank.prototypes.clone()
    prototypes[label] = F.normalize(torch.cat([rows[:shot], rows[shot + 1 :]]).mean(dim=0), dim=0)
    similarity, named = (prototypes @ F.normalize(rows[shot], dim=0)).max(dim=0)
    return int(named), float(similarity)


def _judged_by_the_others(label: int, shot: int, classes: Sequence[str], bank: MemoryBank) -> tuple[str, bool]:
    answer = named_by_the_others(label, shot, bank)
    if answer is None:
        return "", False
    named, similarity = answer
    if named == label:
        return f"{similarity:.2f}", False
    return f"nearer to {_short(classes[named], 15)}: {similarity:.2f}", True


def _draw_prototypes(page: _Page, corner: tuple[float, float], classes: Sequence[str], bank: MemoryBank) -> None:
    similarity = (bank.prototypes @ bank.prototypes.T).clamp(-1, 1).numpy()
    count = len(classes)
    words = f"{count} classes"
    if count > 1:
        apart = similarity - 2 * np.eye(count)
        first, second = divmod(int(apart.argmax()), count)
        words = f"most alike: {_short(classes[first], 18)} and {_short(classes[second], 18)}, {apart.max():.2f}"
    axes = _matrix(page, corner, similarity, "Class prototypes", words)
    if count <= MAX_NAMED:
        _name_axes(axes, np.arange(count), classes)
    if count <= MAX_FIGURES:
        lowest, highest = axes.images[0].get_clim()
        for (row, column), value in np.ndenumerate(similarity):
            ink = "white" if value > lowest + 0.55 * (highest - lowest) else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", size=7.5, color=ink)


def _draw_instances(
    page: _Page,
    corner: tuple[float, float],
    classes: Sequence[str],
    views: Sequence[Sequence[ReferenceView]],
    bank: MemoryBank,
) -> None:
    counts = np.array([len(row) for row in views])
    rows = torch.cat([bank.instances[label][:count] for label, count in enumerate(counts)])
    unit = F.normalize(rows, dim=1)
    words = "each drawn one with each other; a good class is a dark square"
    axes = _matrix(page, corner, (unit @ unit.T).clamp(-1, 1).numpy(), "References", words)
    ends = counts.cumsum()
    for end in ends[:-1] - 0.5:
        axes.axhline(end, color="white", linewidth=1.2)
        axes.axvline(end, color="white", linewidth=1.2)
    _name_axes(axes, ends - counts / 2 - 0.5, classes[: len(views)])


def _matrix(page: _Page, corner: tuple[float, float], similarity: np.ndarray, title: str, words: str) -> Axes:
    """A square of cosines with a title, and a line of words under it."""
    x, y = corner
    page.text(x, y + 0.2, title, size=11, weight="bold")
    page.text(x, y + 0.38, f"cosine similarity; {words}", size=8, color=FAINT)
    axes = page.axes(x + 1.0, y + 0.48, MATRIX, MATRIX)
    lowest = min(float(similarity.min()), 0.95)
    axes.imshow(similarity, cmap="YlGnBu", vmin=lowest, vmax=1, interpolation="nearest")
    return axes


def _name_axes(axes: Axes, at: np.ndarray, names: Sequence[str]) -> None:
    labels = [_short(name, 13) for name in names]
    size = min(8, 0.8 * 72 * MATRIX / len(names))
    turn = {"rotation": 40} if size == 8 else {"rotation": 90, "va": "center"}
    axes.set_yticks(at, labels, fontsize=size, color=INK)
    axes.set_xticks(at, labels, fontsize=size, color=INK, ha="right", rotation_mode="anchor", **turn)
    axes.tick_params(length=0)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color(label))


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _wrapped(name: str) -> list[str]:
    """A name in at most two lines."""
    words, lines = name.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= 12 and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [_short(line, 13) for line in lines]
