"""The data of the report page's diagnostics section, from diagnostics.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from refexp.show.page.mistakes import NAMES
from refexp.show.words import BOUNDS, this_run

HEAT = 24
"""Maximum number of classes in a confusion matrix. With more classes, the most confused ones are shown."""


def view(diagnostics: dict[str, Any]) -> dict[str, Any]:
    """For each kind of evaluation: the values for the template, and the data of its recall chart."""
    return {kind: _kind(kind, content, diagnostics) for kind, content in diagnostics["kinds"].items()}


def _kind(kind: str, content: dict[str, Any], diagnostics: dict[str, Any]) -> dict[str, Any]:
    bounds = [(this_run(kind, diagnostics), content["nAP"], content["nAP50"])]
    bounds += [(BOUNDS[name], bound["nAP"], bound["nAP50"]) for name, bound in content["bounds"].items()]
    errors, recall = content["errors"], content["recall"]
    most = max((cost or 0 for cost in errors["dAP50"].values()), default=0) or 1
    names = {"0.5": "IoU .50", "0.75": "IoU .75", "mean": "mean of .50 to .95"}
    series = [
        [name, list(zip(recall["proposals"], recall[key], strict=True)), f"{100 * recall[key][-1]:.1f}"]
        for key, name in names.items()
    ]
    last = recall["proposals"][-1]
    ticks = [*(count for count in (1, 10, 100, 1000) if count < last / 1.5), last]
    return {
        "verdict": content["verdict"]["text"],
        "bounds": bounds,
        "errors": [
            (NAMES[name], errors["count"][name], cost, (cost or 0) / most) for name, cost in errors["dAP50"].items()
        ],
        "proposals": diagnostics["proposals"],
        "threshold": f"{diagnostics['confusion_threshold']:.2f}",
        "confusion": heat_map(content["confusion"]["classes"], np.array(content["confusion"]["matrix"])),
        "chart": {
            "name": f"recall-{kind}",
            "series": series,
            "axes": {
                "x": "proposals kept per image",
                "y": "instances covered, %",
                "log": True,
                "ticks": [[count, str(count)] for count in ticks],
            },
        },
    }


def heat_map(names: list[str], matrix: np.ndarray) -> dict[str, Any]:
    """Counts i64 [K + 1, K + 1], background last -> rows of cells, each with its fraction of the row's total."""
    classes = len(names) - 1
    off = matrix - np.diag(np.diag(matrix))
    wrong = (off.sum(axis=0) + off.sum(axis=1))[:classes]
    kept = np.sort(np.argsort(-wrong, kind="stable")[:HEAT])
    order = [*kept.tolist(), classes]
    totals = np.maximum(matrix.sum(axis=1), 1)
    rows = [
        {
            "name": names[row],
            "cells": [
                {
                    "count": int(matrix[row, column]),
                    "share": float(matrix[row, column] / totals[row]),
                    "right": row == column,
                }
                for column in order
            ],
        }
        for row in order
    ]
    return {"names": [names[column] for column in order], "rows": rows, "left_out": classes - len(kept)}
