"""report.html: a run as a page to look through, made of files alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from omegaconf import OmegaConf

from refexp import __version__
from refexp.evaluation.verdict import NOUNS
from refexp.files import write_text
from refexp.outcome import Outcome
from refexp.report.gallery import MAX_CLASSES, MAX_SHOTS, spread
from refexp.report.page_diagnostics import view
from refexp.report.page_errors import (
    COLOURS,
    NAMES,
    confident_alarms,
    judge_all,
    judged_by,
    worst_misses,
)
from refexp.report.page_gallery import css, write_images, write_part, write_references
from refexp.report.table import NUMBERS, SEMANTIC
from refexp.report.words import KINDS, counted, headline, percent, short

NAME = "report.html"
MISSES = "The largest instances that nothing of their class hits, at any score: IoU .5 of the {} makes a hit."
ALARMS = "The detections of highest score that hit nothing, and what they are instead, by {}."
CROPS = 18
"""Misses, and false positives, that are cut out."""
PLURALS = {**NOUNS, "semantic": "semantic"}


def write_report(outcome: Outcome) -> Path:
    """Write report.html into the run's folder, its pictures into report/ beside it, and return its path.

    Shows the targets that the overlays show (`vis.limit`) and those of the worst misses and most confident false
    positives; reads no other target. Without annotations: no accuracy, no errors. `vis.limit=0`: no pictures, and no
    image is read.
    """
    data, folder = outcome.data, outcome.output / "report"
    vis = outcome.config["vis"]
    chosen = spread(data.targets.images, vis["limit"])
    kind = judged_by(data, outcome.curves)
    errors = judge_all(data, outcome.detections, kind) if chosen and data.targets.annotations else {}
    misses, alarms = worst_misses(errors, data, CROPS), confident_alarms(errors, data, CROPS)
    ids = list(dict.fromkeys([*chosen, *(shown.image_id for shown in (*misses, *alarms))]))
    images, crops = write_images(outcome, folder, ids, errors, (misses, alarms))
    for name, precision in outcome.curves.items():
        write_part(folder, f"curves-{name}", [curves(precision[:, :, [label]]) for label in range(len(data.classes))])
    diagnosed = view(outcome.diagnostics) if outcome.diagnostics else {}
    page = {
        **describe(outcome),
        "kinds": accuracy(outcome),
        "images": images,
        "more": len(ids) - len(chosen),
        "truth": bool(data.targets.annotations),
        "diagnostics": diagnosed,
        "misses": crops[0],
        "alarms": crops[1],
        "misses_text": MISSES.format(PLURALS[kind]),
        "alarms_text": ALARMS.format(PLURALS[kind]),
        "references": write_references(outcome, folder / "references") if chosen else [],
        "references_text": references_text(outcome),
        "memory_bank": vis.get("memory_bank", False),
        "data": {
            "classes": data.classes,
            "colours": [css(label) for label in range(len(data.classes))],
            "judgements": [{"name": NAMES[verdict], "colour": value} for verdict, value in COLOURS.items()],
            "threshold": vis["score_threshold"],
            "total": len(outcome.detections),
            "curves": {kind: curves(precision) for kind, precision in outcome.curves.items()},
            "charts": {kind["chart"]["name"]: kind["chart"] for kind in diagnosed.values()},
        },
    }
    write_text(outcome.output / NAME, templates().get_template("run.html").render(page))
    return outcome.output / NAME


def templates() -> jinja2.Environment:
    """The page's templates; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("refexp.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def describe(outcome: Outcome) -> dict[str, Any]:
    """What was run: the page's title and first lines, time, weights, environment and configuration."""
    summary, config = outcome.summary, outcome.config
    facts = [*headline(summary), counted(summary["detections"], "detection", "detections")]
    parts = {part: component(config.get(part) or {}) for part in ("encoder", "proposer", "matcher")}
    origins = [source["origin"] for source in summary["weights"].values() if source["origin"] != "none needed"]
    weights = "; ".join(dict.fromkeys(origins)) or "none needed"
    memory = ", ".join(f"{place} {mib:.0f} MiB" for place, mib in summary["peak_memory_mib"].items())
    run = {"device": summary["device"], "ranks": summary["ranks"], "peak memory": memory, "commit": summary["commit"]}
    return {
        "title": short(summary["targets"])
        if config["name"] == "run"
        else f"{config['name']}: {short(summary['targets'])}",
        "facts": facts,
        "parts": parts | {"weights": weights},
        "note": outcome.note,
        "stages": stages(summary["stages"]),
        "weights": summary["weights"],
        "environment": {k: v for k, v in run.items() if v is not None} | summary["versions"],
        "config": OmegaConf.to_yaml(OmegaConf.create(config)),
        "version": __version__,
    }


def component(config: dict[str, Any]) -> str:
    """A component in few words: its class, and the network's size where there are several."""
    name = str(config.get("_target_", "none")).rsplit(".", 1)[-1]
    size = config.get("model") or config.get("arch")
    return f"{name} {size}" if size else name


def stages(report: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Seconds of each stage, and their share of the longest."""
    longest = max((stage["seconds"] for stage in report.values()), default=0) or 1
    return [
        {
            "name": name,
            "share": stage["seconds"] / longest,
            "seconds": f"{stage['seconds']:.1f}",
            "rate": f"{stage['per_second']:.1f}" if stage["items"] > 1 else "",
        }
        for name, stage in report.items()
        if stage["seconds"] >= 0.05
    ]


def accuracy(outcome: Outcome) -> list[dict[str, Any]]:
    """For each kind of comparison that was made: the numbers overall and of each class, best first."""
    instances = Counter(
        outcome.data.targets.labels[a["category_id"]]
        for a in outcome.data.targets.annotations
        if not a.get("iscrowd", 0)
    )
    metrics, found = outcome.metrics, []
    for key, plural in PLURALS.items():
        overall = SEMANTIC if key == "semantic" else NUMBERS
        numbers = {column: metrics[f"{key}/{column}"] for column in overall if f"{key}/{column}" in metrics}
        if not numbers:
            continue
        columns = [c for c in ("nAP", "nAP50", "IoU") if f"{key}/{c}/{outcome.data.classes[0]}" in metrics]
        rows: list[dict[str, Any]] = [
            {
                "name": class_name,
                "values": [metrics[f"{key}/{column}/{class_name}"] for column in columns],
                "instances": instances[label],
            }
            for label, class_name in enumerate(outcome.data.classes if columns else ())
        ]
        rows.sort(key=lambda row: -1 if row["values"][0] is None else row["values"][0], reverse=True)
        kind = {"key": key, "name": KINDS[key], "plural": plural, "numbers": numbers, "columns": columns, "rows": rows}
        found.append(kind)
    return found


def curves(precision: np.ndarray) -> list[tuple[str, list[int]]]:
    """Precision f64 [10 IoUs, 101 recalls, K] -> named curves in thousandths, over the classes of which any counts."""
    counted = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not counted.shape[2]:
        return []
    mean = counted.mean(axis=2)
    chosen = {"IoU .50": mean[0], "IoU .75": mean[5], "mean of .50 to .95": mean.mean(axis=0)}
    return [(name, (1000 * line).round().astype(int).tolist()) for name, line in chosen.items()]


def references_text(outcome: Outcome) -> str:
    """How many references there were, and whether all are shown."""
    counts = [len(per_class) for per_class in outcome.references]
    text = f"{sum(counts)} annotated instances of {len(counts)} classes taught this run what to look for."
    if len(counts) > MAX_CLASSES or max(counts, default=0) > MAX_SHOTS:
        text += f" Shown are the first {MAX_CLASSES} classes, and of each the first {MAX_SHOTS}."
    return text
