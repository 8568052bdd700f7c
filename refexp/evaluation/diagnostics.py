"""What holds an experiment back, segmentation or matching: recall of the proposals, upper bounds, confusion, errors.

Each image is examined where its proposals are; the small records that come of it are gathered, and the first rank
concludes. The order of the records does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refexp.data.coco import Split, has_mask
from refexp.evaluation.coco_protocol import CocoEvaluation, Engine, Kind
from refexp.evaluation.oracles import closest, oracle_class, oracle_mask, oracle_matching
from refexp.evaluation.tide import KINDS, MATCH, MISSED, Judgement, Truth, cost_of_errors, iou, judge_image
from refexp.evaluation.verdict import reach_verdict
from refexp.masks import Rle, box_mask, boxes_xywh
from refexp.types import Detections, ImageId, Proposals

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of proposals, an image's best by the proposer's own quality, at which recall is measured; then all."""

IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Examined:
    """One image by boxes or by masks: N detections, T annotations, of which T' are no crowds.

    closest, overlap: i64 [N], f64 [N] of `oracles.closest`. confused: f64 [P, 3] of `confused`.
    best: f64 [T', len(COUNTS) + 1], IoU of the best among so many proposals, and among all.
    fitting: T', the best proposal of all, None where none touches the instance.
    """

    judgement: Judgement
    closest: np.ndarray
    overlap: np.ndarray
    confused: np.ndarray
    best: np.ndarray
    fitting: list[Rle | None]


@dataclass(frozen=True)
class ImageDiagnosis:
    """What is known of one image: arrays and run-length codes, some kilobytes. proposals: how many there were."""

    image_id: ImageId
    proposals: int
    by_kind: dict[Kind, Examined]


class Diagnostics:
    """Examines images one by one, and concludes.

    targets: with annotations. kinds, engine: as of the evaluation. confusion_threshold: detections of a lower score
    are no part of the confusion matrix; None takes as many detections as there are instances, those of highest score.

    An image costs (M + N) x T overlaps of run-length codes where boxes meet (5 ms for 160 proposals and 3 instances,
    30 to 160 ms for 400 and 20) and 10 to 100 KB in the gathered records; the conclusion three evaluations of a kind.
    """

    def __init__(
        self,
        targets: Split,
        kinds: Sequence[Kind],
        engine: Engine = "pycocotools",
        confusion_threshold: float | None = None,
    ) -> None:
        self.targets, self.kinds, self.engine = targets, kinds, engine
        self.confusion_threshold = confusion_threshold

    def examine(self, proposals: Proposals, detections: Detections) -> ImageDiagnosis:
        """One image; `detections` is what matching and postprocessing made of `proposals`."""
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
        """The content of diagnostics.json: fractions and counts, by kind; None where no instance counts.

        images: a record for each target, in any order; metrics: of the evaluation. Raises ValueError if one is missing.
        """
        by_image = {image.image_id: image for image in images}
        missing = [image_id for image_id in self.targets.images if image_id not in by_image]
        if missing:
            raise ValueError(f"{len(missing)} images were not examined, the first of them is {missing[0]}")
        found = {of_image.image_id: of_image for of_image in detections}
        counts = [by_image[image_id].proposals for image_id in self.targets.images]
        threshold = self.confusion_threshold
        if threshold is None:
            threshold = score_of_rank(detections, sum(not a.get("iscrowd", 0) for a in self.targets.annotations))
        return {
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
                    {name: metrics[f"{kind}/{name}"] for name in ("nAP", "nAP50")},
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
        """The annotations' masks; of those with a box only the box, to whole pixels."""
        image = self.targets.images[image_id]
        size = image["height"], image["width"]
        annotations = self.targets.by_image[image_id]
        return [self.targets.mask(a) if has_mask(a) else box_mask(a["bbox"], size) for a in annotations]


def best_of_first(ious: np.ndarray) -> np.ndarray:
    """IoU f64 [M, T] of proposals, best quality first -> f64 [T, len(COUNTS) + 1], the largest of so many, and of all.

    0 where there is no proposal at all.
    """
    columns = [ious[:count].max(axis=0, initial=0.0) for count in COUNTS]
    return np.stack([*columns, ious.max(axis=0, initial=0.0)], axis=1)


def recall(best: np.ndarray, most: int) -> dict[str, list[float] | list[int]]:
    """Share of instances with a proposal of IoU .5, .75 and, on average, .5 to .95, by the number of proposals kept.

    best: [T, len(COUNTS) + 1] of all images; most: the number of proposals of the image that has most: "all".
    An instance is reached if any proposal fits, even one that fits another instance too.
    """
    columns = [column for column, count in enumerate(COUNTS) if count < most] + [len(COUNTS)]
    kept = best[:, columns]
    reached = {iou_: (kept >= iou_ - 1e-9).mean(axis=0) if len(kept) else np.zeros(len(columns)) for iou_ in IOUS}
    return {
        "proposals": [*(COUNTS[column] for column in columns[:-1]), most],
        "0.5": reached[IOUS[0]].tolist(),
        "0.75": reached[IOUS[5]].tolist(),
        "mean": np.mean(list(reached.values()), axis=0).tolist(),
    }


def account(images: Sequence[Judgement], best: np.ndarray) -> dict[str, int]:
    """What became of each instance at IoU .5: found; lost, though a proposal covers it; unproposed.

    best: [T', len(COUNTS) + 1] of the same images, crowds left out.
    """
    hit = np.concatenate([image.matched[~image.ignored] for image in images])
    offered = best[:, -1] >= MATCH
    return {
        "found": int(hit.sum()),
        "lost": int((~hit & offered).sum()),
        "unproposed": int((~hit & ~offered).sum()),
    }


def count_errors(images: Sequence[Judgement]) -> dict[str, int]:
    """How many detections (and, for MISSED, instances) there are of each kind of error."""
    counts = Counter(kind for image in images for kind in image.kinds)
    counts[MISSED] = sum(int(image.missed.sum()) for image in images)
    return {kind: counts[kind] for kind in KINDS}


def score_of_rank(detections: Sequence[Detections], rank: int) -> float:
    """The score of which `rank` detections have that much or more; the lowest if there are fewer, 0 without any."""
    scores = torch.cat([of_image.scores for of_image in detections]).sort(descending=True).values
    return float(scores[min(rank, len(scores)) - 1]) if len(scores) and rank else 0.0


def confused(judgement: Judgement, ious: np.ndarray) -> np.ndarray:
    """Score, true class and found class f64 [P, 3] of detections, best first, -1 being background.

    The best detection chooses first, whatever its class: the free instance that it overlaps most, by .5 at least. What
    is left is background found; a crowd excuses its own class. Instances that nobody chose follow, found as background
    with an infinite score.
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
    """How often each true class (row) was found as which (column), at IoU .5; the last of both is background.

    images: of `confused`. An instance whose detection has a score below the threshold was found as background.
    """
    size = len(classes) + 1
    rows = np.concatenate([np.zeros((0, 3)), *images])
    true, found = rows[:, 1:].astype(np.int64).T
    found = np.where(rows[:, 0] >= threshold, found, -1)
    counts = (true >= 0) | (found >= 0)
    matrix = np.zeros((size, size), dtype=np.int64)
    np.add.at(matrix, (true[counts], found[counts]), 1)  # -1 is the last row or column
    return {"classes": [*classes, "background"], "matrix": matrix.tolist()}
