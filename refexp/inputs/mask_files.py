"""Masks in files and arrays as people have them. What is not plainly a mask is thresholded, refused or warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refexp.errors import RefexpError, first_line
from refexp.inputs.images import converted, has_alpha, is_deep, made_upright, open_upright
from refexp.inputs.repairs import repaired

FEW = 16
"""Labels are few values. More are noise, soft edges, a photograph, or many instances in one mask."""
NEAR = 0.1
"""What lies within this share of the largest value is near 0, or near the top."""
LOWEST_TOP = 64
"""A mask with noise has a largest value above this. Below lie labels, which are small numbers."""
VOID = 255
"""Pascal VOC's label of the pixels between an object and the background."""
MOST, FRAME = 0.9, 0.5
"""Shares of the image, and of its border, from which on a mask is warned of."""


def read_mask(path: Path) -> np.ndarray:
    """Read a mask file, upright, as bool [H, W]. Raises the errors of `open_upright` and `to_mask`."""
    return to_mask(open_upright(path), path)


def reference_mask(path: Path, beside: Path) -> np.ndarray:
    """Read the mask of a reference image, bool [H, W]: the file `beside` if there is one, else its alpha channel.

    Raises RefexpError if there is no mask, or if it is empty or not of the image's size.
    """
    image = open_upright(path)
    if not beside.is_file():
        return _cut_out(image, path, beside)
    mask = read_mask(beside)
    if mask.shape != (image.height, image.width):
        raise RefexpError(
            f"{beside} has {mask.shape[1]} x {mask.shape[0]} pixels, but {path.name} has {image.width} x "
            f"{image.height}; a mask must have the size of its image."
        )
    if not mask.any():
        raise RefexpError(f"{beside}: the mask is empty; mark the object's pixels with a non-zero value.")
    return mask


def as_mask(mask: Any, name: object = "this mask") -> np.ndarray:
    """Convert a mask file, PIL image or array [H, W] to bool [H, W]. Raises RefexpError like `to_mask`."""
    if isinstance(mask, (str, Path)):
        return read_mask(Path(mask))
    if isinstance(mask, Image.Image):
        return to_mask(made_upright(mask, name), name)
    try:
        array = np.asarray(mask)
    except Exception as error:  # such as a tensor on a GPU; other libraries raise errors of any type
        raise RefexpError(f"{name} cannot become an array: {first_line(error)}") from None
    if array.ndim != 2 or not array.size or array.dtype.kind not in "buif":
        raise RefexpError(f"{name} must be numbers [H, W], not {array.dtype} {list(array.shape)}.")
    return _checked(np.where(void(array, name), 0, array), name)


def to_mask(image: Image.Image, name: object) -> np.ndarray:
    """Convert an image of any mode to a mask, bool [H, W]: pixels that are neither black nor transparent.

    Noise, soft edges and floating-point numbers are thresholded, with a note. name: the file in messages.
    Raises RefexpError for floating-point numbers of no known range.
    """
    solid = opaque(image, name)
    # Palette indices say nothing: black is not always index 0.
    values = np.asarray(image) if is_deep(image) else np.asarray(converted(image, "RGB", name)).max(axis=2)
    if image.mode in ("L", "P"):
        values = np.where(void(np.asarray(image), name), 0, values)
    if not values.any() and not solid.all():  # a black object on a transparent background
        return solid
    return _checked(values, name) & solid


def void(labels: np.ndarray, name: object) -> np.ndarray:
    """Return where labels [H, W] are 255, bool [H, W]: by Pascal VOC's convention, neither object nor background.

    Such labels are 0 and small numbers otherwise. In a mask of other values, nothing is void.
    """
    levels = np.unique(labels)
    by_label = len(levels) > 2 and levels[0] == 0 and levels[-2] < LOWEST_TOP and levels[-1] == VOID
    if not by_label or not _is_flat(labels, (labels > 0) & (labels < VOID)):
        return np.zeros(labels.shape, dtype=bool)
    repaired("pixels of the label 255 (void) taken as background", f"{name}, {(labels == VOID).mean():.1%}")
    return labels == VOID


def opaque(image: Image.Image, name: object) -> np.ndarray:
    """Return where an image is more opaque than half of its most opaque pixel, bool [H, W]."""
    if not has_alpha(image):
        return np.ones((image.height, image.width), dtype=bool)
    alpha = np.asarray(converted(image, "RGBA", name))[..., 3]
    return alpha > alpha.max() / 2


def _cut_out(image: Image.Image, path: Path, beside: Path) -> np.ndarray:
    """Return the mask of an image with a transparent background. Raises RefexpError if it is no such image."""
    mask = opaque(image, path)
    if not has_alpha(image):
        state = "no alpha channel"
    elif mask.all() or not mask.any():
        state = "an alpha channel with a single value"
    elif _hides_only_edges(mask):
        state = f"an alpha channel that hides only edges ({(~mask).mean():.2%} of the image)"
    else:
        return mask
    raise RefexpError(
        f"{path} has {state}, so it has no mask. Make the background transparent, or add {beside.name} in the same "
        "folder, with 0 for the background and a non-zero value for the object."
    )


def _hides_only_edges(mask: np.ndarray) -> bool:
    """Whether only little near the edges is transparent, as at the round corners of a screenshot."""
    y, x = (-(-side // 10) for side in mask.shape)
    inside = mask[y:-y, x:-x]
    return bool(mask.mean() > 0.9 and inside.size and inside.all())


def _checked(values: np.ndarray, name: object) -> np.ndarray:
    """Convert numbers [H, W] to bool [H, W], and warn of a mask that is hardly one of an object."""
    levels = np.unique(values)
    if values.dtype.kind == "f":
        mask = _of_floats(values, levels, name)
    elif levels[0] < 0:
        mask = _above(values, 0, name)
    elif _is_noisy(values, levels):
        mask = _above(values, levels[-1] / 2, name)
    else:
        mask = values != 0
    share = mask.mean()
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    many = values.dtype.kind != "f" and len(levels) > FEW and (mask == (values != 0)).all()
    if many:
        repaired("doubtful masks of many values, each taken as one object", f"{name} has {len(levels)} values")
    elif share > MOST or border > FRAME:
        covered = f"{name} covers {share:.0%} of the image and {border:.0%} of its border"
        repaired("doubtful masks, maybe inverted (0 is the background)", covered)
    return mask


def _above(values: np.ndarray, threshold: float, name: object) -> np.ndarray:
    mask = values > threshold
    repaired("masks thresholded", f"{name}, the object is where values are above {threshold:g} ({mask.mean():.1%})")
    return mask


def _of_floats(values: np.ndarray, levels: np.ndarray, name: object) -> np.ndarray:
    """Convert floating-point numbers: probabilities and logits need a threshold, whole numbers do not."""
    if np.isnan(levels[-1]):
        repaired("mask pixels without a value (NaN) taken as background", f"{name}, {np.isnan(values).sum()} pixels")
        values = np.where(np.isnan(values), 0, values)
        levels = np.unique(values)
    low, top = levels[0], levels[-1]
    if low < 0:
        return _above(values, _plateau(values, top) / 2, name)
    if (len(levels) == 2 and low == 0) or (levels == np.round(levels)).all():
        return _above(values, top / 2, name) if _is_noisy(values, levels) else values != 0
    if top <= 1:
        return _above(values, 0.5, name)
    raise RefexpError(
        f"{name} has floating-point values from {low:g} to {top:g}, which are neither probabilities nor logits; make "
        "it a mask of 0 and 1 with a threshold of your own."
    )


def _plateau(values: np.ndarray, top: float) -> float:
    """Return the object's value in a mask that was resized: interpolation passes 0 and the top a little. Else 0.

    Much of such a mask is still exactly 0, which no logits are.
    """
    if not np.isfinite(values).all() or values.min() < -top / 4 or (np.abs(values) <= top / 1000).mean() < 0.1:
        return 0.0
    return float(np.median(values[values >= 0.7 * top]))


def _is_noisy(values: np.ndarray, levels: np.ndarray) -> bool:
    """Whether numbers are those of two values with noise or soft edges between, and not labels.

    levels: the values that occur, sorted.
    """
    top = levels[-1]
    if top < LOWEST_TOP or len(levels) < 2 or (len(levels) == 2 and levels[0] == 0):
        return False
    low, high = levels <= NEAR * top, levels >= (1 - NEAR) * top
    if len(levels) <= FEW:
        if not (low | high).all():
            return False  # labels such as 0, 80, 160
        if levels[0] > 0 or (low.sum() > 1 and high.sum() > 1):
            return low.any()
    middle = (values > NEAR * top) & (values < (1 - NEAR) * top)
    return bool(middle.mean() <= 0.5 and _changes_everywhere(values, (values > 0) & (values < top)))


def _is_flat(values: np.ndarray, where: np.ndarray) -> bool:
    """Whether these pixels form areas of one value, as labels do. Noise is scattered, or differs at each pixel."""
    beside = [where[:, 1:] & where[:, :-1], where[1:] & where[:-1]]
    equal = [beside[0] & (values[:, 1:] == values[:, :-1]), beside[1] & (values[1:] == values[:-1])]
    pairs, same = (sum(int(part.sum()) for part in parts) for parts in (beside, equal))
    return 2 * pairs >= where.sum() and 2 * same >= pairs


def _changes_everywhere(values: np.ndarray, where: np.ndarray) -> bool:
    """Whether most of these pixels differ from the next one to the right or below. Those of labels do not."""
    differs = np.zeros(values.shape, dtype=bool)
    differs[:, :-1] |= values[:, 1:] != values[:, :-1]
    differs[:-1] |= values[1:] != values[:-1]
    return bool(differs[where].mean() > 0.5)
