"""Analyze what limits a result, segmentation or matching: proposal recall, upper bounds, confusion, error kinds.

Each rank examines the images that it processes and returns small records. The first rank gathers them and computes the
result. The order of the records does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refexp.data.coco import Split, has_mask
from refexp.evaluation.coco_protocol import CocoEvaluation, Engine
from refexp.evaluation.matches import IOUS
from refexp.evaluation.oracles import closest, oracle_class, oracle_mask, oracle_matching
from refexp.evaluation.overlaps import Kind, iou
from refexp.evaluation.tide import KINDS, MATCH, MISSED, Judgement, Truth, cost_of_errors, judge_image
from refexp.evaluation.verdict import reach_verdict
from refexp.masks import Rle, box_mask, boxes_xywh
from refexp.types import Detections, ImageId, Proposals

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of proposals per image at which recall is measured. The best by the proposer's quality come first."""


@dataclass(frozen=True)
class Examined:
    """The record of one image by boxes or by masks: N detections, T annotations, T' of them not crowds.

    closest, overlap: i64 [N] and f64 [N], from `oracles.closest`. confused: f64 [P, 3], from `confused`.
    best: f64 [T', len(COUNTS) + 1], the highest IoU among the first COUNTS proposals, and among all.
    fitting: T' best proposals of all, None if no proposal overlaps the instance.
    """

    judgement: Judgement
    closest: np.ndarray
    overlap: np.ndarray
    confused: np.ndarray
    best: np.ndarray
    fitting: list[Rle | None]


@dataclass(frozen=True)
class ImageDiagnosis:
    """The record of one image: arrays and run-length codes, some kilobytes. proposals: number of proposals."""

    image_id: ImageId
    proposals: int
    by_kind: dict[Kind, Examined]


class Diagnostics:
    """Examines images one by one, then computes the content of diagnostics.json.

    targets: annotated targets. kinds, engine: see `CocoEvaluation`.
    confusion_threshold: minimum score of the detections in the confusion matrix. None takes the N detections of highest
    score, N = number of instances.

    Cost per image: (M + N) x T overlaps of run-length codes where boxes intersect (5 ms for 160 proposals and 3
    instances, 30 to 160 ms for 400 and 20), and 10 to 100 KB in the gathered records. `conclude` costs three
    evaluations of each kind.
    """

    def __init__(
        self,
        targets: Split,
        kinds: Sequence[Kind],
        engine: Engine = "refexp",
        confusion_threshold: float | None = None,
    ) -> None:
        self.targets, self.kinds, self.engine = targets, kinds, engine
        self.confusion_threshold = confusion_threshold

    def examine(self, proposals: Proposals, detections: Detections) -> ImageDiagnosis:
        """Examine one image. detections: the result of matching and postprocessing for `proposals`."""
        order = torch.argsort(proposals.quality, descending=True, stable=True).tolist()
        ranked = [proposals.masks[row] for row in order]
        by_kind = {kind: self._examine(kind, ranked, detections) for kind in self.kinds}
        return ImageDiagnosis(detections.image_id, len(proposals), by_kind)

    def _examine(self, kind: Kind, ranked: list[Rle], detections: Detections) -> Examined:
        truth = Truth.of(self.targets, detections.image_id, kind)
        judgement, near = judge_image(kind, detections, truth)
        offered = ranked if kind == "segm" else boxes_xywh(ranked)
        reach = iou(offered, truth.shapes, truth.crowd.tolist())[:, ~truth.crowd]
        best = best_of_first(reach)
        rows = reach.argmax(axis=0) if len(ranked) else np.zeros(len(best), dtype=np.int64)
        return Examined(
            judgement,
            *closest(judgement, near),
            confused=confused(judgement, near),
            best=best,
            fitting=[ranked[row] if top > 0 else None for row, top in zip(rows.tolist(), best[:, -1], strict=True)],
        )

    def conclude(
        self,
        images: Sequence[ImageDiagnosis],
        detections: Sequence[Detections],
        classes: Sequence[str],
        metrics: Mapping[str, float | None],
    ) -> dict[str, Any]:
        """Compute the content of diagnostics.json: fractions and counts, by kind. None where no instance counts.

        images: one record for each target, in any order. metrics: the metrics of the evaluation. All numbers are by
        the standard protocol, because the bounds exist only there.
        Raises ValueError if the record of a target is missing.
        """
        by_image = {image.image_id: image for image in images}
        missing = [image_id for image_id in self.targets.images if image_id not in by_image]
        if missing:
            raise ValueError(f"{len(missing)} images were not examined, first {missing[0]}")
        found = {of_image.image_id: of_image for of_image in detections}
        counts = [by_image[image_id].proposals for image_id in self.targets.images]
        threshold = self.confusion_threshold
        if threshold is None:
            threshold = score_of_rank(detections, sum(not a.get("iscrowd", 0) for a in self.targets.annotations))
        return {
            "protocol": "standard",
            "images": len(counts),
            "proposals": {"mean": float(np.mean(counts)), "most": max(counts)},
            "confusion_threshold": threshold,
            "kinds": {
                kind: self._conclude(
                    kind,
                    [(by_image[i].by_kind[kind], found[i]) for i in self.targets.images],
                    max(counts),
                    classes,
                    threshold,
                    {
                        name: metrics.get(f"{kind}@standard/{name}", metrics[f"{kind}/{name}"])
                        for name in ("nAP", "nAP50")
                    },
                )
                for kind in self.kinds
            },
        }

    def _conclude(
        self,
        kind: Kind,
        pairs: Sequence[tuple[Examined, Detections]],
        most: int,
        classes: Sequence[str],
        threshold: float,
        as_it_is: dict[str, float | None],
    ) -> dict[str, Any]:
        judgements = [one.judgement for one, _ in pairs]
        best = np.concatenate([one.best for one, _ in pairs])
        nap50, costs = cost_of_errors(judgements, len(classes))
        oracles = {
            "class": [oracle_class(found, one.judgement, one.closest, one.overlap) for one, found in pairs],
            "mask": [oracle_mask(found, one.judgement, self._masks(found.image_id)) for one, found in pairs],
            "matching": [
                oracle_matching(found.image_id, j.truth[~j.ignored], one.best[:, -1], one.fitting)
                for (one, found), j in zip(pairs, judgements, strict=True)
            ],
        }
        bounds = {name: self._score(kind, answers, classes) for name, answers in oracles.items()}
        instances = account(judgements, best)
        return {
            **as_it_is,
            "bounds": bounds,
            "recall": recall(best, most),
            "instances": instances,
            "errors": {"nAP50": nap50, "count": count_errors(judgements), "dAP50": costs},
            "confusion": confusion([one.confused for one, _ in pairs], classes, threshold),
            "verdict": reach_verdict(kind, as_it_is, bounds["matching"], instances, costs),
        }

    def _score(self, kind: Kind, detections: Sequence[Detections], classes: Sequence[str]) -> dict[str, float | None]:
        metrics = CocoEvaluation([kind], self.engine).evaluate(self.targets, detections, classes).metrics
        return {name: metrics[f"{kind}/{name}"] for name in ("nAP", "nAP50")}

    def _masks(self, image_id: ImageId) -> list[Rle]:
        """Return the masks of the annotations. An annotation with only a box gives its box, in whole pixels."""
        image = self.targets.images[image_id]
        size = image["height"], image["width"]
        annotations = self.targets.by_image[image_id]
        return [self.targets.mask(a) if has_mask(a) else box_mask(a["bbox"], size) for a in annotations]


def best_of_first(ious: np.ndarray) -> np.ndarray:
    """Return f64 [T, len(COUNTS) + 1]: the highest IoU among the first COUNTS proposals, and among all.

    ious: f64 [M, T], best quality first. The result is 0 if there are no proposals.
    """
    columns = [ious[:count].max(axis=0, initial=0.0) for count in COUNTS]
    return np.stack([*columns, ious.max(axis=0, initial=0.0)], axis=1)


def recall(best: np.ndarray, most: int) -> dict[str, list[float] | list[int]]:
    """Compute the recall of the proposals at IoU .5 and .75, and the mean over .5 to .95, by the number kept.

    best: [T, len(COUNTS) + 1] of all images. most: the largest number of proposals of an image, which stands for "all".
    An instance counts as reached if any proposal fits, even if this proposal also fits another instance.
    """
    columns = [column for column, count in enumerate(COUNTS) if count < most] + [len(COUNTS)]
    kept = best[:, columns]
    # The tolerance counts IoUs that equal the threshold up to a rounding error.
    reached = {iou_: (kept >= iou_ - 1e-9).mean(axis=0) if len(kept) else np.zeros(len(columns)) for iou_ in IOUS}
    return {
        "proposals": [*(COUNTS[column] for column in columns[:-1]), most],
        "0.5": reached[IOUS[0]].tolist(),
        "0.75": reached[IOUS[5]].tolist(),
        "mean": np.mean(list(reached.values()), axis=0).tolist(),
    }


def account(images: Sequence[Judgement], best: np.ndarray) -> dict[str, int]:
    """Count the instances at IoU .5 that are found, lost (although a proposal covers them) or unproposed.

    best: [T', len(COUNTS) + 1] of the same images, without crowds.
    """
    hit = np.concatenate([image.matched[~image.ignored] for image in images])
    offered = best[:, -1] >= MATCH
    return {
        "found": int(hit.sum()),
        "lost": int((~hit & offered).sum()),
        "unproposed": int((~hit & ~offered).sum()),
    }


def count_errors(images: Sequence[Judgement]) -> dict[str, int]:
    """Count the detections (for MISSED: the instances) of each kind of error."""
    counts = Counter(kind for image in images for kind in image.kinds)
    counts[MISSED] = sum(int(image.missed.sum()) for image in images)
    return {kind: counts[kind] for kind in KINDS}


def score_of_rank(detections: Sequence[Detections], rank: int) -> float:
    """Return the score that `rank` detections reach: the lowest score if there are fewer, 0 without detections."""
    scores = torch.cat([of_image.scores for of_image in detections]).sort(descending=True).values
    return float(scores[min(rank, len(scores)) - 1]) if len(scores) and rank else 0.0


def confused(judgement: Judgement, ious: np.ndarray) -> np.ndarray:
    """Return score, true class and detected class of detections, f64 [P, 3], best first. -1 is background.

    Detections are matched in the order of their scores, whatever their class, to the free instance that they overlap
    most (IoU of at least .5). An unmatched detection has the true class background, unless it lies in a crowd of its
    class: then it is left out. Unmatched instances follow, with the detected class background and an infinite score.
    """
    free, rows = ~judgement.ignored, []
    for row in np.argsort(-judgement.scores, kind="stable").tolist():
        score, label = float(judgement.scores[row]), int(judgement.labels[row])
        allowed = np.where(free, ious[row], 0.0)
        if allowed.size and allowed.max() >= MATCH:
            choice = int(allowed.argmax())
            free[choice] = False
            rows.append((score, int(judgement.truth[choice]), label))
        elif not (ious[row, judgement.ignored & (judgement.truth == label)] >= MATCH).any():
            rows.append((score, -1, label))
    rows += [(np.inf, label, -1) for label in judgement.truth[free].tolist()]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def confusion(images: Sequence[np.ndarray], classes: Sequence[str], threshold: float) -> dict[str, Any]:
    """Compute the confusion matrix at IoU .5: true class (row) by detected class (column). Background comes last.

    images: the arrays of `confused`. An instance whose detection has a score below the threshold counts as detected
    as background.
    """
    size = len(classes) + 1
    rows = np.concatenate([np.zeros((0, 3)), *images])
    true, found = rows[:, 1:].astype(np.int64).T
    found = np.where(rows[:, 0] >= threshold, found, -1)
    counts = (true >= 0) | (found >= 0)
    matrix = np.zeros((size, size), dtype=np.int64)
    np.add.at(matrix, (true[counts], found[counts]), 1)  # -1 is the last row or column
    return {"classes": [*classes, "background"], "matrix": matrix.tolist()}
