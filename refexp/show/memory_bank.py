"""A picture of the memory bank: the references' patch features, and the similarity of the class prototypes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from refexp.files import atomic_path
from refexp.masks import boxes_xywh, encode
from refexp.method.memory import ReferenceView
from refexp.show.fonts import captions, files_of
from refexp.show.instances import window
from refexp.show.overlays import color
from refexp.show.patch_colors import feature_colors
from refexp.types import MemoryBank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMED, MAX_FIGURES = 45, 10
"""Up to this many classes, the matrix shows class names, and numbers."""

DPI = 130
NAME, PAIR, ROW, MATRIX, HEAD = 1.2, 2.1, 1.25, 4.8, 1.0
"""Approximate inches: width of a class name, of a pair, height of a row, side of a matrix, height of the title."""
INK, FAINT, ALARM = "#1f2933", "#7b8794", "#b42318"
STYLE: Any = {
    "text.parse_math": False,  # class names are taken literally
    "text.color": INK, "axes.labelcolor": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "xaxis.labellocation": "left",
    "xtick.major.size": 0, "ytick.major.size": 0, "axes.linewidth": 0, "axes.labelsize": 8, "axes.labelpad": 6,
    "figure.constrained_layout.hspace": 0.06,
}  # fmt: skip


def draw_memory_bank(
    path: Path, classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], bank: MemoryBank, note: str | None
) -> None:
    """Write a PNG with the references and their masks, their patch features as colors, and similarity matrices.

    views: the first references of the first classes. classes, bank: all classes of the run, in the same order. note:
    printed at the top if given.
    """
    from matplotlib import rc_context  # takes half a second to import
    from matplotlib.figure import Figure

    columns, shots = max(len(row) for row in views), max(len(rows) for rows in bank.instances)
    panels = 2 if shots > 1 else 1  # with one reference per class, references and prototypes are the same
    width, height = NAME + columns * PAIR, len(views) * ROW
    beside = height > MATRIX  # a tall block of pairs has room for the matrices at its right, a flat one below
    right, below = (MATRIX, panels * MATRIX - height) if beside else (panels * MATRIX - width, MATRIX)
    widths, heights = (width, max(right, 0.01)), (height, max(below, 0.01))
    classes = captions(classes)
    with rc_context(STYLE | {"font.family": families(classes)}), atomic_path(path) as temporary:
        figure = Figure((sum(widths), sum(heights) + HEAD), dpi=DPI, layout="constrained")
        page: Any = figure
        explanation = _explanation(classes, views, shots)
        for words, size, ink in (("Memory bank", 15, INK), (explanation, 8.5, FAINT), (note, 9, ALARM)):
            if words:
                page.suptitle(words, x=0, ha="left", size=size, color=ink, weight=400 if ink == FAINT else 700)
                page = page.subfigures()
        grid = page.add_gridspec(2, 2, width_ratios=widths, height_ratios=heights)
        _draw_pairs(page.add_subfigure(grid[0, 0]).subplots(len(views), columns, squeeze=False), classes, views, bank)
        matrices = page.add_subfigure(grid[:, 1] if beside else grid[1, :])
        axes = matrices.subplots(*((panels, 1) if beside else (1, panels)), squeeze=False).flat
        _draw_prototypes(axes[0], classes, bank)
        if panels > 1:
            _draw_instances(axes[1], classes, views, bank)
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.2)


def families(texts: Sequence[str]) -> list[str]:
    """Return the font families that have the signs of these texts, in the order in which matplotlib tries them."""
    from matplotlib.font_manager import FontProperties, fontManager

    found = ["DejaVu Sans"]  # matplotlib's own
    for file in sorted(files_of("".join(texts))):
        if all(font.fname != file for font in fontManager.ttflist):
            fontManager.addfont(file)
        found.append(FontProperties(fname=file).get_name())
    return list(dict.fromkeys(found))


def _explanation(classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], shots: int) -> str:
    drawn = max(len(row) for row in views)
    text = (
        "Left: the reference and its mask. Right: its patch features; red, green and blue are the first three\n"
        "principal components of the patches under all masks shown."
    )
    if shots > 1:
        text += " Number: similarity to the mean of the other references of its class (red: another class is nearer)."
    parts = [f"the first {len(views)} of {len(classes)} classes"] if len(views) < len(classes) else []
    parts += [f"the first {drawn} of up to {shots} references of a class"] if drawn < shots else []
    return f"{text}\nShown: {' and '.join(parts)}." if parts else text


def _draw_pairs(
    grid: np.ndarray, classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], bank: MemoryBank
) -> None:
    """One row per class. The caption marks a reference that the other references would assign to another class."""
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], box_aspect=1 / 2.03, anchor="W")
    colors = iter(feature_colors([(view.tokens, view.weights) for row in views for view in row]))
    for label, row in enumerate(views):
        ink = np.divide(color(label), 255)
        grid[label, 0].spines["left"].set(color=ink, lw=5, position=("outward", 6), capstyle="butt")
        first, *rest = textwrap.wrap(classes[label], 13) or [""]
        name = f"{first}\n{_short(' '.join(rest), 13)}".strip()
        grid[label, 0].set_ylabel(name, rotation=0, ha="right", va="center", size=9, color=INK, weight="bold")
        for axes, shot, view in zip(grid[label], range(len(row)), row, strict=False):
            _draw_pair(axes, view, ink, next(colors))
            named, similarity = named_by_the_others(label, shot, bank) or (label, None)
            nearer = "" if named == label else f"nearer to {_short(classes[named], 15)}: "
            words = "" if similarity is None else f"{nearer}{similarity:.2f}"
            axes.set_xlabel(words, labelpad=3, size=7, color=ALARM if nearer else FAINT)


def _draw_pair(axes: Axes, view: ReferenceView, ink: np.ndarray, patches: np.ndarray) -> None:
    """Draw the region around a mask twice: as image and as patch colors."""
    height, width = view.mask.shape
    x1, y1, x2, y2 = window(boxes_xywh(encode(view.mask[None]))[0].tolist(), view.mask.shape, least=12)
    mask, rgb = view.mask[y1:y2, x1:x2], view.rgb[y1:y2, x1:x2]
    faded = np.where(mask[..., None], rgb, rgb // 2 + 127)
    whole, part = (0, width, height, 0), (x1, x2, y2, y1)
    for left, picture, extent, how, line in (
        (0, faded, part, None, (ink, 1.6)), (1.03, patches, whole, "nearest", (INK, 0.8)),
    ):  # fmt: skip
        tile = axes.inset_axes((left / 2.03, 0, 1 / 2.03, 1), in_layout=False)
        tile.set_axis_off()
        tile.imshow(picture, extent=extent, interpolation=how)
        if not mask.all() and min(mask.shape) > 1:
            at = np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5
            tile.contour(*at, mask, [0.5], colors=[line[0]], linewidths=line[1])
        tile.set(xlim=(x1, x2), ylim=(y2, y1))


def named_by_the_others(label: int, shot: int, bank: MemoryBank) -> tuple[int, float] | None:
    """Leave-one-out label and cosine similarity of a reference. None if its class has only one reference.

    The prototype of its own class is computed without it.
    """
    rows = bank.instances[label]
    if len(rows) < 2:
        return None
    prototypes = bank.prototypes.clone()
    prototypes[label] = F.normalize(torch.cat([rows[:shot], rows[shot + 1 :]]).mean(dim=0), dim=0)
    similarity, named = (prototypes @ F.normalize(rows[shot], dim=0)).max(dim=0)
    return int(named), float(similarity)


def _draw_prototypes(axes: Axes, classes: Sequence[str], bank: MemoryBank) -> None:
    count = len(classes)
    similarity = _draw_matrix(axes, bank.prototypes, "Class prototypes", np.arange(count), classes)
    words = f"{count} classes"
    if count > 1:
        apart = similarity - 2 * np.eye(count)
        first, second = (_short(classes[label], 18) for label in divmod(int(apart.argmax()), count))
        words = f"most similar classes: {first} and {second}, {apart.max():.2f}"
    axes.set_xlabel(f"cosine similarity\n{words}")
    for (row, column), value in np.ndenumerate(similarity if count <= MAX_FIGURES else []):
        ink = "white" if np.greater(axes.images[0].norm(value), 0.55) else INK
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", size=7.5, color=ink)


def _draw_instances(
    axes: Axes, classes: Sequence[str], views: Sequence[Sequence[ReferenceView]], bank: MemoryBank
) -> None:
    counts = np.array([len(row) for row in views])
    unit = F.normalize(torch.cat([rows[:count] for rows, count in zip(bank.instances, counts, strict=False)]), dim=1)
    _draw_matrix(axes, unit, "References", counts.cumsum() - counts / 2 - 0.5, classes[: len(views)])
    axes.set_xlabel("cosine similarity\npairwise; a consistent class is a dark block")
    for end in counts.cumsum()[:-1] - 0.5:
        axes.axhline(end, color="white", linewidth=1.2)
        axes.axvline(end, color="white", linewidth=1.2)


def _draw_matrix(axes: Axes, unit: torch.Tensor, title: str, at: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw and return the matrix of cosines between unit vectors f32 [N, C]. Few names are drawn `at` these rows."""
    similarity = (unit @ unit.T).clamp(-1, 1).numpy()
    axes.imshow(similarity, cmap="YlGnBu", vmin=min(float(similarity.min()), 0.95), vmax=1, interpolation="nearest")
    axes.set(title=title, anchor="NW", xticks=[], yticks=[])
    if len(names) <= MAX_NAMED:
        labels, size = [_short(name, 13) for name in names], min(8, 200 / len(names))
        turn: dict[str, Any] = {"rotation": 40} if size == 8 else {"rotation": 90, "va": "center"}
        axes.set_yticks(at, labels, size=size)
        axes.set_xticks(at, labels, size=size, ha="right", rotation_mode="anchor", **turn)
    return similarity


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
