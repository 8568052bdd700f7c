"""Mask proposals without learned weights: hierarchical merging of color regions.

An over-segmentation (Felzenszwalb and Huttenlocher 2004) is computed in each of several color spaces. The two most
similar neighbors are merged repeatedly, similar to selective search (Uijlings et al. 2013). Every region of this
hierarchy is a proposal. The quality is high for object-like regions: strong edges along the contour, a convex shape,
little contour on the image border, and a large area.

For speed, proposals are sets of *leaves*. The leaves are the pieces into which all segmentations together cut the
image. A proposal is a row of `members`, bool [M, L]. Areas, contours and overlaps of masks are sums over leaves.
Shapes: n segments of one segmentation, L leaves, M proposals, h = w = 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from pydantic import Field
from scipy import ndimage, sparse
from skimage.color import rgb2hsv, rgb2lab
from skimage.segmentation import felzenszwalb

from refexp.masks import LOW_RES, Rle, box_mask, boxes_xywh
from refexp.proposers.base import Proposer
from refexp.types import MaskProposals, Target

ColorSpace = Literal["rgb", "lab", "hsv"]

COLOR_BINS = 25
"""Histogram bins per Lab channel."""
ORIENTATIONS, MAGNITUDES = 8, 4
"""Bins of the texture histogram: orientation and log-magnitude of the lightness gradient."""
GRADIENT_MAX = 30.0
"""Upper limit of the magnitude bins: lightness gradient in Lab units per pixel."""
DIRECTIONS = 16
"""Number of normals of the polygon that approximates the convex hull."""


@dataclass(eq=False)
class RegionProposer(Proposer):
    """Makes class-agnostic proposals by hierarchical region merging; see the docstring of the module.

    color_spaces, scales: one over-segmentation for each pair. A larger scale gives larger segments.
    sigma, min_size: Gaussian smoothing and smallest segment, in pixels of the 256 x 256 image.
    color, texture, size, fill, edge: weights of the terms of the merge similarity. color, texture: histogram
        intersections. size: preference for small pairs. fill: preference for pairs that fill their common box.
        edge: penalty for edges on the shared contour.
    edge_half: color gradient (Lab units per pixel) that gives an edge strength of 0.5.
    min_area, max_area: minimum and maximum area of a proposal, as a fraction of the image.
    full_area, area_power, border_power: quality = edge strength * solidity * (1 - share of the contour on the image
        border) ** border_power * min(1, area / full_area) ** area_power, all factors in [0, 1].
    duplicate_iou: if two proposals overlap more than this, only the one of higher quality stays.
    max_proposals: maximum number of proposals, by quality.
    """

    image_size: Annotated[int, Field(ge=LOW_RES)] = 512
    color_spaces: Annotated[Sequence[ColorSpace], Field(min_length=1)] = ("lab", "hsv")
    scales: Sequence[Annotated[float, Field(gt=0)]] = (50.0, 100.0)
    sigma: Annotated[float, Field(ge=0)] = 0.8
    min_size: Annotated[int, Field(ge=1)] = 60
    color: Annotated[float, Field(ge=0)] = 1.0
    texture: Annotated[float, Field(ge=0)] = 1.0
    size: Annotated[float, Field(ge=0)] = 1.0
    fill: Annotated[float, Field(ge=0)] = 1.0
    edge: Annotated[float, Field(ge=0)] = 2.0
    edge_half: Annotated[float, Field(gt=0)] = 5.0
    min_area: Annotated[float, Field(ge=0, le=1)] = 0.0015
    max_area: Annotated[float, Field(ge=0, lt=1)] = 0.8
    full_area: Annotated[float, Field(gt=0, le=1)] = 0.125
    area_power: Annotated[float, Field(ge=0)] = 0.25
    border_power: Annotated[float, Field(ge=0)] = 2.0
    duplicate_iou: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_proposals: Annotated[int, Field(ge=1)] = 300

    def __post_init__(self) -> None:
        spaces, scales = self.color_spaces, self.scales
        if len(spaces) != len(scales):
            raise ValueError(f"{len(spaces)} color_spaces but {len(scales)} scales; each color space needs one scale")
        if self.min_area >= self.max_area:
            raise ValueError(f"min_area={self.min_area} must lie below max_area={self.max_area}")
        self.segmentations = tuple(zip(spaces, scales, strict=True))

    def propose(self, target: Target) -> MaskProposals:
        """Return at most `max_proposals` proposals, best first."""
        rgb = F.interpolate(target.square[None].float().cpu(), size=(LOW_RES, LOW_RES), mode="area")[0]
        pixels = PixelGraph.of(rgb.permute(1, 2, 0).numpy(), self.edge_half)
        segmentations = [pixels.segment(space, scale, self.sigma, self.min_size) for space, scale in self.segmentations]
        leaf_hw = _common_refinement(segmentations)
        members = np.concatenate([_hierarchy(pixels, labels, leaf_hw, self) for labels in segmentations])
        leaves = Leaves.of(leaf_hw, pixels.edge)
        area = members.astype(np.float32) @ leaves.area / leaf_hw.size
        members = members[(area >= self.min_area) & (area <= self.max_area)]
        quality = self._quality(members, leaves, leaf_hw.size)
        keep = _best_first(members, leaves.area, quality, self.duplicate_iou)[: self.max_proposals]
        masks_lr = np.array([row[leaf_hw] for row in members[keep]], dtype=bool).reshape(-1, *leaf_hw.shape)
        masks = _upscaled_rles(masks_lr, _boxes(members[keep], leaf_hw), target.size)
        seen = np.flatnonzero(boxes_xywh(masks)[:, 2])  # a small region can vanish at the original size
        return MaskProposals(
            torch.from_numpy(quality[keep][seen]), torch.from_numpy(masks_lr[seen]), [masks[i] for i in seen]
        )

    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        """Return, for each box, the region whose box overlaps it most, or the whole box if no IoU reaches .5."""
        wanted = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().numpy()
        whole = [box_mask(box, target.size) for box in wanted.tolist()]
        regions = self.propose(target).masks
        if not regions:
            return whole
        overlap = coco_mask.iou(wanted, boxes_xywh(regions), [0] * len(regions))
        closest = overlap.argmax(axis=1)
        return [regions[c] if overlap[row, c] >= 0.5 else whole[row] for row, c in enumerate(closest)]

    def _quality(self, members: np.ndarray, leaves: Leaves, pixels: int) -> np.ndarray:
        """Compute the quality of proposals: bool [M, L] -> f32 [M] in [0, 1]."""
        area = members.astype(np.float32) @ leaves.area
        length, strength = (_cut(members, weights) for weights in (leaves.length, leaves.strength))
        border = members.astype(np.float32) @ leaves.border
        edge = strength / np.maximum(length, 1)
        inside = length / np.maximum(length + border, 1)
        solidity = np.minimum(area / _hull_area(members, leaves.support), 1)
        size = np.minimum(area / (pixels * self.full_area), 1)
        return (edge * solidity * inside**self.border_power * size**self.area_power).astype(np.float32)


@dataclass(frozen=True)
class PixelGraph:
    """Values per pixel, computed once per image.

    rgb, lab: f32 [h, w, 3]. edge: f32 [h, w] in [0, 1). color: i64 [3, h, w] and texture: i64 [h, w], histogram bins.
    """

    rgb: np.ndarray
    lab: np.ndarray
    edge: np.ndarray
    color: np.ndarray
    texture: np.ndarray

    @classmethod
    def of(cls, rgb: np.ndarray, edge_half: float) -> PixelGraph:
        """Compute the values of an image. rgb: f32 [h, w, 3] in [0, 1]. edge_half: see `RegionProposer`."""
        lab = rgb2lab(rgb).astype(np.float32)
        smooth = ndimage.gaussian_filter(lab, (1, 1, 0))
        dx, dy = ndimage.sobel(smooth, axis=1) / 8, ndimage.sobel(smooth, axis=0) / 8
        gradient = np.sqrt((dx**2 + dy**2).sum(axis=2))
        unit = np.stack([lab[..., 0] / 100, lab[..., 1] / 120 + 0.5, lab[..., 2] / 120 + 0.5])
        turn = np.arctan2(dy[..., 0], dx[..., 0]) / (2 * np.pi) % 1
        magnitude = np.log1p(np.hypot(dx[..., 0], dy[..., 0])) / np.log1p(GRADIENT_MAX)
        texture = _bins(turn, ORIENTATIONS) * MAGNITUDES + _bins(magnitude, MAGNITUDES)
        return cls(rgb, lab, gradient / (gradient + edge_half), _bins(unit, COLOR_BINS), texture)

    def segment(self, space: ColorSpace, scale: float, sigma: float, min_size: int) -> np.ndarray:
        """Compute Felzenszwalb labels, i64 [h, w], from 0 without gaps."""
        image = {"rgb": lambda: self.rgb, "lab": lambda: self.lab / 100, "hsv": lambda: rgb2hsv(self.rgb)}[space]()
        return felzenszwalb(image.astype(np.float64), scale=scale, sigma=sigma, min_size=min_size)


@dataclass(frozen=True)
class Leaves:
    """The leaves: the pieces of the common refinement of all segmentations.

    area: f32 [L], in pixels. border: f32 [L], pixel sides on the image border.
    support: f32 [L, DIRECTIONS], maximum extent in each direction.
    length, strength: sparse [L, L], length of the shared contour in pixel sides, and edge strength summed along it.
    """

    area: np.ndarray
    border: np.ndarray
    support: np.ndarray
    length: sparse.csr_array
    strength: sparse.csr_array

    @classmethod
    def of(cls, leaf_hw: np.ndarray, edge: np.ndarray) -> Leaves:
        """Compute the leaves of labels, i64 [h, w]. edge: edge strength, f32 [h, w]."""
        n = int(leaf_hw.max()) + 1
        rim = np.concatenate([leaf_hw[0], leaf_hw[-1], leaf_hw[:, 0], leaf_hw[:, -1]])
        area, border = (np.bincount(v.ravel(), minlength=n).astype(np.float32) for v in (leaf_hw, rim))
        return cls(area, border, _support(leaf_hw), *_contours(leaf_hw, edge))


class Merger:
    """Greedy merging of one segmentation. Slot i of every array belongs to region i; a merged region reuses a slot.

    area: f32 [n]. color, texture: f32 [n, bins], each row sums to 1. box: f32 [n, 4], x1 y1 x2 y2 (exclusive).
    length, strength: f32 [n, n], shared contours. score: f32 [n, n], similarity of neighbors i < j, else -inf.
    weights: the proposer, whose color, texture, size, fill and edge weigh the terms of the similarity.
    """

    def __init__(self, pixels: PixelGraph, labels: np.ndarray, weights: RegionProposer) -> None:
        n = int(labels.max()) + 1
        self.weights, self.total = weights, labels.size
        self.area = np.bincount(labels.ravel(), minlength=n).astype(np.float32)
        color = [_histogram(labels, bins, n, COLOR_BINS) for bins in pixels.color]
        self.color = np.concatenate(color, axis=1) / (len(color) * self.area[:, None])
        self.texture = _histogram(labels, pixels.texture, n, ORIENTATIONS * MAGNITUDES) / self.area[:, None]
        slices = ndimage.find_objects(labels + 1)
        self.box = np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices], dtype=np.float32)
        self.length, self.strength = (m.toarray() for m in _contours(labels, pixels.edge))
        self.score = np.full((n, n), -np.inf, dtype=np.float32)
        first, second = np.nonzero(np.triu(self.length))
        self.score[first, second] = self._similarity(first, second)

    def _similarity(self, i: np.ndarray | int, j: np.ndarray) -> np.ndarray:
        """Compute the merge similarity of regions i and their neighbors j."""
        w = self.weights
        both = self.area[i] + self.area[j]
        corner = np.minimum(self.box[i, ..., :2], self.box[j, :2])
        box_area = (np.maximum(self.box[i, ..., 2:], self.box[j, 2:]) - corner).prod(axis=-1)
        alike = w.color * np.minimum(self.color[i], self.color[j]).sum(axis=-1)
        alike += w.texture * np.minimum(self.texture[i], self.texture[j]).sum(axis=-1)
        alike -= w.size * both / self.total + w.fill * (box_area - both) / self.total
        return alike - w.edge * self.strength[i, j] / self.length[i, j]

    def step(self) -> tuple[int, int] | None:
        """Merge the two most similar neighbors into slot i and empty slot j. Returns None if no neighbors remain."""
        i, j = divmod(int(self.score.argmax()), len(self.area))
        if self.score[i, j] == -np.inf:
            return None
        # Histograms are normalised, so the merged one is the mean weighted by area.
        share = self.area[i] / (self.area[i] + self.area[j])
        for histogram in (self.color, self.texture):
            histogram[i] = share * histogram[i] + (1 - share) * histogram[j]
        self.box[i] = np.concatenate(
            [np.minimum(self.box[i, :2], self.box[j, :2]), np.maximum(self.box[i, 2:], self.box[j, 2:])]
        )
        self.area[i] += self.area[j]
        for contour in (self.length, self.strength):
            contour[i] += contour[j]
            contour[i, [i, j]] = 0
            contour[:, i] = contour[i]
            contour[j], contour[:, j] = 0, 0
        self.score[j], self.score[:, j] = -np.inf, -np.inf
        near = np.nonzero(self.length[i])[0]
        self.score[np.minimum(near, i), np.maximum(near, i)] = self._similarity(i, near)
        return i, j


def _hierarchy(pixels: PixelGraph, labels: np.ndarray, leaf_hw: np.ndarray, weights: RegionProposer) -> np.ndarray:
    """Return all regions of one merge tree, bool [M, L]."""
    merger = Merger(pixels, labels, weights)
    current = np.zeros((len(merger.area), int(leaf_hw.max()) + 1), dtype=bool)
    current[labels.ravel(), leaf_hw.ravel()] = True
    regions = [current.copy()]
    while (pair := merger.step()) is not None:
        i, j = pair
        current[i] |= current[j]
        regions.append(current[i : i + 1].copy())
    return np.concatenate(regions)


def _common_refinement(segmentations: Sequence[np.ndarray]) -> np.ndarray:
    """Label the pieces into which all segmentations together cut the image, i64 [h, w], from 0 without gaps."""
    code = np.zeros_like(segmentations[0], dtype=np.int64)
    for labels in segmentations:
        code = code * (int(labels.max()) + 1) + labels
    return np.unique(code, return_inverse=True)[1].reshape(code.shape)


def _bins(values: np.ndarray, count: int) -> np.ndarray:
    """Convert values in [0, 1] to bin indices. Values outside go to the nearest bin."""
    return (values * count).astype(np.int64).clip(0, count - 1)


def _histogram(labels: np.ndarray, bins: np.ndarray, n: int, count: int) -> np.ndarray:
    """Count the pixels of each label in each bin, f32 [n, count]."""
    return np.bincount((labels * count + bins).ravel(), minlength=n * count).reshape(n, count).astype(np.float32)


def _contours(labels: np.ndarray, edge: np.ndarray) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Compute the shared contours of labels, f32 [n, n], symmetric: length in pixel sides, and the sum of `edge`."""
    n = int(labels.max()) + 1
    pairs = []
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differ = labels[a] != labels[b]
        pairs.append((labels[a][differ], labels[b][differ], (edge[a][differ] + edge[b][differ]) / 2))
    first, second, strength = (np.concatenate(column) for column in zip(*pairs, strict=True))
    index = np.concatenate([first, second]), np.concatenate([second, first])
    values = np.ones(2 * len(first), dtype=np.float32), np.concatenate([strength, strength]).astype(np.float32)
    length, total = (sparse.coo_array((v, index), shape=(n, n)).tocsr() for v in values)
    return length, total


def _cut(members: np.ndarray, weights: sparse.csr_array) -> np.ndarray:
    """Sum the weights between the leaves of each proposal and all other leaves, f32 [M]."""
    inside = members.astype(np.float32)
    return ((weights @ inside.T).T * ~members).sum(axis=1)


def _angles() -> np.ndarray:
    """Return the angles of the DIRECTIONS normals."""
    return np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)


def _support(labels: np.ndarray) -> np.ndarray:
    """Compute the maximum extent of each label's pixel squares in each direction, f32 [n, DIRECTIONS]."""
    order = np.argsort(labels, axis=None, kind="stable")
    starts = np.searchsorted(labels.ravel()[order], np.arange(int(labels.max()) + 1))
    y, x = (v.ravel()[order] for v in np.indices(labels.shape, dtype=np.float32))
    reach = [
        np.maximum.reduceat(x * np.cos(t) + y * np.sin(t), starts) + (abs(np.cos(t)) + abs(np.sin(t))) / 2
        for t in _angles()
    ]
    return np.stack(reach, axis=1).astype(np.float32)


def _hull_area(members: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Compute the area of the tight polygon with DIRECTIONS fixed normals around each proposal, f32 [M].

    It is slightly larger than the area of the convex hull.
    """
    reach = np.stack([np.where(members, column, -np.inf).max(axis=1) for column in support.T], axis=1)
    turn = 2 * np.pi / DIRECTIONS
    sides = (np.roll(reach, 1, axis=1) + np.roll(reach, -1, axis=1) - 2 * np.cos(turn) * reach) / np.sin(turn)
    return (reach * sides).sum(axis=1) / 2


def _best_first(members: np.ndarray, area: np.ndarray, quality: np.ndarray, duplicate_iou: float) -> np.ndarray:
    """Return the rows by decreasing quality, without near-duplicates of better rows, i64."""
    order = np.argsort(-quality, kind="stable")
    inside = members[order].astype(np.float32)
    overlap = (inside * area) @ inside.T
    own = overlap.diagonal()
    duplicate = overlap > duplicate_iou * (own[:, None] + own - overlap)
    dropped = np.zeros(len(order), dtype=bool)
    for row in range(len(order)):
        if not dropped[row]:
            dropped[row + 1 :] |= duplicate[row, row + 1 :]
    return order[~dropped]


def _boxes(members: np.ndarray, leaf_hw: np.ndarray) -> np.ndarray:
    """Compute the tight low-resolution boxes `x1 y1 x2 y2` (exclusive) of bool [M, L] proposals, i64 [M, 4]."""
    leaf = np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(leaf_hw + 1)]).reshape(-1, 4)
    low = [np.where(members, column, LOW_RES).min(axis=1) for column in leaf[:, :2].T]
    high = [np.where(members, column, 0).max(axis=1) for column in leaf[:, 2:].T]
    return np.stack(low + high, axis=1)


def _upscaled_rles(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> list[Rle]:
    """Upscale masks, bool [M, 256, 256], with their boxes to RLEs at `size` = (H, W).

    The result equals `masks.upscale_to_rle` of +-1 logits. It is ten times faster, because it resizes only the boxes.
    """
    (rows, first_row, end_row), (columns, first_column, end_column) = (_resampling(side) for side in size)
    rles = []
    for mask, (x1, y1, x2, y2) in zip(torch.from_numpy(masks), boxes.tolist(), strict=True):
        top, left = first_row[y1], first_column[x1]
        y_part, x_part = rows[top : end_row[y2 - 1], y1:y2], columns[left : end_column[x2 - 1], x1:x2]
        full = x_part @ (y_part @ mask[y1:y2, x1:x2].float()).T > 0.5
        rles.append(_rle(full.numpy(), top, left, size))
    return rles


def _resampling(side: int) -> tuple[torch.Tensor, list[int], list[int]]:
    """Return the bilinear antialiased resize of one axis as a matrix, f32 [side, 256].

    Also returns the first row and the end of the rows with non-zero values, for each column.
    """
    identity = torch.eye(LOW_RES)[None, None]
    matrix = F.interpolate(identity, size=(side, LOW_RES), mode="bilinear", align_corners=False, antialias=True)[0, 0]
    used = matrix.numpy() > 0
    return matrix, used.argmax(axis=0).tolist(), (side - used[::-1].argmax(axis=0)).tolist()


def _rle(box: np.ndarray, top: int, left: int, size: tuple[int, int]) -> Rle:
    """Encode bool [w, h], transposed, at (top, left) in an otherwise empty image of `size` = (H, W) as compressed RLE.

    A run is stored as its first pixel and the pixel after its last, in column-major order. If a run ends in the last
    row and the next run starts in the first row of the next column, both positions are equal and cancel.
    """
    height, width = size
    padded = np.zeros((box.shape[0], box.shape[1] + 2), dtype=bool)
    padded[:, 1:-1] = box
    x, y = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), box.shape[1] + 1)
    flips = (left + x) * height + top + y
    joins = np.flatnonzero(flips[1:] == flips[:-1])
    flips = np.delete(flips, np.concatenate([joins, joins + 1]))
    counts = np.diff(flips, prepend=0, append=height * width)
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
