"""report.html: one run as a page of static files that opens without a server."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from omegaconf import OmegaConf

from refexp import __version__
from refexp.errors import UNSAFE, escaped
from refexp.evaluation.matches import Matches
from refexp.evaluation.threshold import counts
from refexp.evaluation.verdict import NOUNS
from refexp.files import write_text
from refexp.folders.record import RunRecord
from refexp.folders.run_folder import RunFolder
from refexp.folders.status import read_status
from refexp.show.fonts import numbered
from refexp.show.gallery import MAX_CLASSES, MAX_SHOTS, spread
from refexp.show.page.diagnosis import view
from refexp.show.page.mistakes import COLORS, NAMES, confident_alarms, judge_all, judged_by, worst_misses
from refexp.show.page.pictures import Pictures, css, write_images, write_part, write_references
from refexp.show.words import (
    KINDS,
    NUMBERS,
    SEMANTIC,
    counted,
    headline,
    kind_name,
    kinds_of,
    percent,
    run_name,
    short,
    typed,
)

NAME = "report.html"
MISSES = "The largest instances that no detection of their class hits at any score (IoU of the {} at least .5)."
ALARMS = "The false positives with the highest scores, and the type of each error, by {}."
CROPS = 18
"""Number of misses, and of false positives, that are shown as crops."""
PLURALS = {**NOUNS, "semantic": "semantic"}
FILES = (
    "metrics.json", "per_image.csv", "detections.json", "detections.json.gz", "detections_published.json",
    "references.json", "diagnostics.json", "curves.npz", "matches.npz", "config.yaml", "run.log",
)  # fmt: skip
"""The files of a run to which its page links."""
SORTS = {"file": "in the order of the data set", "score": "highest score first"}
BY_NAP = {"low": "lowest nAP first", "high": "highest nAP first"}


def write_report(run: RunFolder, limit: int | None, score_threshold: float, missing: str | None = None) -> Path:
    """Write report.html into the run's folder and its pictures into report/ next to it. Returns the path of the page.

    Shows the targets of the overlays (`limit`), and those with the worst misses and the most confident false positives.
    Reads no other target. Without annotations, the page has no accuracy and no errors. With limit=0, or if the images
    are missing (`missing`: the reason), the page has only numbers, and no image is read.
    """
    start = time.perf_counter()
    record, folder = run.record, run.path / "report"
    pictures, total, kind = Pictures(), 0, "segm"
    if limit != 0 and missing is None:
        data = run.data
        chosen = spread(data.targets.images, limit)
        kind = judged_by(data, record.metrics.overall)
        errors = judge_all(data, run.detections, kind) if data.targets.annotations else {}
        mistakes = worst_misses(errors, data, CROPS), confident_alarms(errors, data, CROPS)
        ids = list(dict.fromkeys([*chosen, *(one.image_id for row in mistakes for one in row)]))
        pictures = write_images(run, folder, ids, errors, mistakes, score_threshold)
        pictures.references = write_references(run, folder / "references")
        total = len(ids) - len(chosen)
    rank(pictures.images, run, kind)
    status = read_status(run.path)
    diagnosed = view(run.diagnostics) if run.diagnostics else {}
    charts = {kind["chart"]["name"]: kind["chart"] for kind in diagnosed.values()}
    run.add_stage("page", time.perf_counter() - start)
    page = {
        **describe(run.record),
        **about(run.path, FILES, ["refexp", "run", *status.get("overrides", [])], status.get("started", "")),
        "title": run_name(run.path),
        "kinds": accuracy(record),
        "images": pictures.images,
        "more": total,
        "truth": bool(record.instances),
        "layers": ["predictions"],
        "sorts": SORTS | (BY_NAP if any(image["rank"] for image in pictures.images) else {}),
        "missing": missing,
        "diagnostics": diagnosed,
        "misses": pictures.crops[0],
        "alarms": pictures.crops[1],
        "misses_text": MISSES.format(PLURALS[kind]),
        "alarms_text": ALARMS.format(PLURALS[kind]),
        "references": pictures.references,
        "references_text": references_text(record),
        "numbered": numbered(record.classes) if pictures.images else {},
        "memory_bank": (run.path / "memory_bank.png").exists(),
        "data": write_data(run, folder, score_threshold) | {"charts": charts},
    }
    write_text(run.path / NAME, templates().get_template("run.html").render(page))
    return run.path / NAME


def write_data(run: RunFolder, folder: Path, score_threshold: float) -> dict[str, Any]:
    """The data of the page's script. What it needs of single classes becomes files that it loads on demand."""
    record = run.record
    labels = range(len(record.classes))
    for kind, precision in run.curves.items():
        write_part(folder, f"curves-{kind}", [curves(precision[:, :, [label]]) for label in labels])
    return {
        "classes": record.classes,
        "colors": [css(label) for label in labels],
        "judgements": [{"name": NAMES[verdict], "color": value} for verdict, value in COLORS.items()],
        "threshold": score_threshold,
        "runs": [],
        "total": record.images,
        "curves": {kind: curves(precision) for kind, precision in run.curves.items()},
        "scores": {kind: write_scores(kind, matches, record, folder) for kind, matches in run.matches.items()},
    }


def templates() -> jinja2.Environment:
    """The page's templates. Every value is HTML-escaped, and so are control characters in it but line breaks."""

    def finalize(value: Any) -> Any:
        if type(value) is not str:  # markup has been through here
            return value
        return UNSAFE.sub(lambda sign: sign[0] if sign[0] in "\t\n" else escaped(sign), value)

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("refexp.show.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters["percent"] = percent
    return environment


def describe(record: RunRecord) -> dict[str, Any]:
    """The page's facts about the run: header lines, time, weights, environment and configuration."""
    config = record.config
    facts = [short(record.targets), *headline(record), counted(record.detections, "detection", "detections")]
    parts = {part: component(config.get(part) or {}) for part in ("encoder", "proposer", "matcher")}
    origins = [source["origin"] for source in record.weights.values() if source["origin"] != "none needed"]
    weights = "; ".join(dict.fromkeys(origins)) or "none needed"
    memory = ", ".join(f"{place} {mib:.0f} MiB" for place, mib in record.peak_memory_mib.items())
    run = {"device": record.device, "ranks": record.ranks, "peak memory": memory, "commit": record.commit}
    return {
        "facts": facts,
        "parts": parts | {"weights": weights},
        "note": record.note,
        "repairs": record.repairs,
        "skipped": record.images_skipped,
        "stages": stages(record.stages),
        "weights": record.weights,
        "environment": {k: v for k, v in run.items() if v is not None} | record.versions,
        "config": OmegaConf.to_yaml(OmegaConf.create(config)),
        "version": __version__,
    }


def about(folder: Path, files: Sequence[str], command: Sequence[str], started: str = "") -> dict[str, Any]:
    """Date, command and folder of a page, and those of these files that the folder has."""
    return {
        "date": f"{started[:16].replace('T', ' ')} UTC" if started else "",
        "command": shlex.join(map(typed, command)),
        "folder": str(folder.absolute()),
        "files": [name for name in files if (folder / name).exists()],
    }


def component(config: dict[str, Any]) -> str:
    """A component's class name, and the size of its network if it has several."""
    name = str(config.get("_target_", "none")).rsplit(".", 1)[-1]
    size = config.get("model") or config.get("arch")
    return f"{name} {size}" if size else name


def stages(report: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Seconds and rate of each stage, and its duration as a fraction of the longest stage."""
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


def accuracy(record: RunRecord) -> list[dict[str, Any]]:
    """For each kind of evaluation: the metrics over all classes, and of each class, highest first."""
    found = []
    for key, named in kinds_of(record, PLURALS).items():
        overall, per_class = record.metrics.overall[key], record.metrics.per_class.get(key, {})
        wanted = SEMANTIC if key.startswith("semantic") else NUMBERS
        numbers = {name: overall[name] for name in wanted if name in overall}
        if not numbers:
            continue
        columns = [name for name in ("nAP", "nAP50", "IoU", "F1") if name in per_class]
        rows: list[dict[str, Any]] = [
            {
                "name": class_name,
                "values": [per_class[column][class_name] for column in columns],
                "score": per_class.get("F1_score", {}).get(class_name),
                "instances": (record.instances_of_class or {}).get(class_name),
            }
            for class_name in (record.classes if columns else ())
        ]
        rows.sort(key=lambda row: -1 if row["values"][0] is None else row["values"][0], reverse=True)
        names = {"name": KINDS[key.partition("@")[0]], "plural": kind_name(named, PLURALS)}
        found.append({"key": key, **names, "numbers": numbers, "columns": columns, "rows": rows})
    return found


def curves(precision: np.ndarray) -> list[tuple[str, list[int]]]:
    """Precision f64 [10 IoUs, 101 recalls, K] -> named curves in thousandths, over the classes with an instance."""
    counted = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not counted.shape[2]:
        return []
    mean = counted.mean(axis=2)
    chosen = {"IoU .50": mean[0], "IoU .75": mean[5], "mean of .50 to .95": mean.mean(axis=0)}
    return [(name, (1000 * line).round().astype(int).tolist()) for name, line in chosen.items()]


def write_scores(kind: str, matches: Matches, record: RunRecord, folder: Path) -> dict[str, Any]:
    """Write for each class: right and false detections with a score of at least 0, .01, ... 1, and its instances.

    Returns their sums over all classes, and the score of the best F1, over all classes and of each.
    """
    instances = np.bincount(matches.true_label, minlength=len(record.classes)).tolist()
    rows = list(zip(*counts(matches, len(record.classes)).tolist(), instances, strict=True))
    write_part(folder, f"scores-{kind}", rows)
    per_class = record.metrics.per_class[kind]["F1_score"]
    best = [record.metrics.overall[kind]["F1_score"], *(per_class[name] for name in record.classes)]
    return {"all": [np.sum(column, axis=0).tolist() for column in zip(*rows, strict=True)], "best": best}


def rank(images: list[dict[str, Any]], run: RunFolder, kind: str) -> None:
    """Give each picture the nAP of its image, to sort by, and as its text."""
    naps = {row["image"]: row.get(f"{kind}/nAP", "") for row in run.per_image}
    for image in images:
        image["rank"] = naps.get(str(image["id"]), "")
        image["text"] = f"nAP {percent(float(image['rank']))}" if image["rank"] else ""


def references_text(record: RunRecord) -> str:
    """A sentence with the number of references, and a second one if not all are shown."""
    counts = list(record.references.values())
    text = f"This run used {sum(counts)} annotated instances of {len(counts)} classes as references."
    if len(counts) > MAX_CLASSES or max(counts, default=0) > MAX_SHOTS:
        text += f" Shown: the first {MAX_CLASSES} classes, with the first {MAX_SHOTS} references of each."
    return text
