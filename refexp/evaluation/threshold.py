"""Which lowest score to choose: precision, recall and F1 of the detections that it leaves, at IoU .5."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refexp.evaluation.matches import Matches, rows_by_class

SCORES = np.linspace(0, 1, 101)
"""The scores of `counts`."""


def best_f1(matches: Matches, classes: Sequence[str]) -> dict[str, float | None]:
    """The best F1 over all classes and of each class: `F1`, the lowest score that gives it, precision and recall there.

    Returns `F1`, `F1_score`, `F1_precision`, `F1_recall`, and each with `/<class>`. None where no instance counts; the
    score and the precision also where nothing is found.
    """
    instances = np.bincount(matches.true_label, minlength=len(classes)).tolist()
    ranked = np.argsort(-matches.score)
    named = best(matches, ranked, sum(instances))
    by_class = rows_by_class(matches.label[ranked], len(classes))
    for name, rows, count in zip(classes, by_class, instances, strict=True):
        named |= {f"{number}/{name}": value for number, value in best(matches, ranked[rows], count).items()}
    return named


def best(matches: Matches, rows: np.ndarray, instances: int) -> dict[str, float | None]:
    """The best F1 of these detections. Of equally good scores, the highest. rows: i64 [n], highest score first."""
    names = "F1", "F1_score", "F1_precision", "F1_recall"
    if not instances:
        return dict.fromkeys(names)
    rows = rows[~matches.ignored[rows, 0]]
    score, right = matches.score[rows], matches.hit[rows, 0].cumsum()
    if not right.any():
        return dict(zip(names, (0.0, None, None, 0.0), strict=True))
    f1 = 2 * right / (np.arange(1, len(rows) + 1) + instances)
    f1[:-1][score[1:] == score[:-1]] = 0  # detections of equal score stay or go together
    at = int(f1.argmax())
    values = f1[at], score[at], right[at] / (at + 1), right[at] / instances
    return dict(zip(names, map(float, values), strict=True))


def counts(matches: Matches, classes: int) -> np.ndarray:
    """The right and the false detections with a score of at least each of SCORES, by class: i64 [2, K, 101]."""
    right = matches.hit[:, 0]
    table = np.zeros((2, classes, len(SCORES)), dtype=np.int64)
    for label, rows in enumerate(rows_by_class(matches.label, classes)):
        for side, which in enumerate((right, ~right & ~matches.ignored[:, 0])):
            scores = np.sort(matches.score[rows[which[rows]]])
            table[side, label] = len(scores) - np.searchsorted(scores, SCORES, side="left")
    return table
