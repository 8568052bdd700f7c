"""Upper bounds: the detections of one image if a part of the method knew the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from refexp.evaluation.tide import DUPLICATE, HIT, LOCALISATION, NEAR, Judgement
from refexp.masks import Rle
from refexp.types import Detections, ImageId


def closest(judgement: Judgement, ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the instance, of any class, that each detection overlaps most, i64 [N], and the IoU, f64 [N].

    ious: f64 [N, T]. Below an IoU of .1 the result is -1 and 0. For a hit it is the matched instance. Crowds are not
    considered.
    """
    chosen = np.full(len(ious), -1, dtype=np.int64)
    if not ious.size:
        return chosen, np.zeros(len(ious))
    allowed = np.where(judgement.ignored, -1.0, ious)
    chosen = allowed.argmax(axis=1)
    hits = np.array([kind == HIT for kind in judgement.kinds])
    chosen[hits] = judgement.nearest[hits]
    overlap = allowed[np.arange(len(ious)), chosen]
    near = overlap >= NEAR
    return np.where(near, chosen, -1), np.where(near, overlap, 0.0)


def oracle_class(found: Detections, judgement: Judgement, instance: np.ndarray, overlap: np.ndarray) -> Detections:
    """Correct classes: each detection gets the class of the instance that it overlaps most (`closest`).

    If several detections belong to one instance, the one with the highest overlap stays and gets their highest score:
    with correct classes, merging would have joined them. Detections without an overlap of .1 do not change.
    """
    rows, labels, scores = [], [], []
    for row in np.flatnonzero(instance < 0).tolist():
        rows.append(row)
        labels.append(int(judgement.labels[row]))
        scores.append(float(judgement.scores[row]))
    for one in np.unique(instance[instance >= 0]).tolist():
        rivals = np.flatnonzero(instance == one)
        rows.append(int(rivals[overlap[rivals].argmax()]))
        labels.append(int(judgement.truth[one]))
        scores.append(float(judgement.scores[rivals].max()))
    return _detections(found.image_id, labels, scores, [found.masks[row] for row in rows])


def oracle_mask(found: Detections, judgement: Judgement, truth: Sequence[Rle]) -> Detections:
    """Exact masks: a detection near an instance of its class (IoU of at least .1) gets the mask of this instance.

    Class and score do not change. If several detections belong to one instance, only the one of highest score stays.
    Other detections keep their masks. truth: the T masks of the annotations.
    Instances without such a detection stay missed, because this bound adds no proposals.
    """
    masks, kept, given = list(found.masks), [], set()
    for row in np.argsort(-judgement.scores, kind="stable").tolist():
        if judgement.kinds[row] in (HIT, LOCALISATION, DUPLICATE):
            one = int(judgement.nearest[row])
            if one in given:
                continue
            given.add(one)
            masks[row] = truth[one]
        kept.append(row)
    return replace(found, masks=masks).pick(kept)


def oracle_matching(image_id: ImageId, labels: np.ndarray, best: np.ndarray, masks: Sequence[Rle | None]) -> Detections:
    """Perfect matching and merging: each instance is detected by its best proposal, with their IoU as the score.

    labels: i64 [T]. best: [T], IoU with the best proposal. masks: the best proposals, None if no proposal overlaps.
    """
    rows = [row for row, mask in enumerate(masks) if mask is not None]
    chosen = [mask for mask in masks if mask is not None]
    return _detections(image_id, labels[rows].tolist(), best[rows].tolist(), chosen)


def _detections(image_id: ImageId, labels: list[int], scores: list[float], masks: list[Rle]) -> Detections:
    """Make detections, sorted by score."""
    ranked = torch.tensor(scores, dtype=torch.float64).argsort(descending=True, stable=True)
    return Detections(
        image_id,
        torch.tensor(labels, dtype=torch.int64)[ranked],
        torch.tensor(scores, dtype=torch.float64)[ranked],
        [masks[row] for row in ranked.tolist()],
    )
