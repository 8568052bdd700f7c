"""Shared wording for terminal, pages and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refexp.errors import RefexpError, shown
from refexp.folders.record import RunRecord
from refexp.folders.status import read_status
from refexp.folders.sweep_folder import Sweep

KINDS = {"bbox": "box", "segm": "mask", "semantic": "semantic"}
"""Short name of each kind of evaluation."""
BY_PROTOCOL = ("bbox", "semantic")
"""The kinds whose numbers depend on the protocol. Mask numbers are the same by both."""
NUMBERS = (
    "nAP", "nAP50", "nAP75", "nAP_small", "nAP_medium", "nAP_large", "AR100",
    "nAP_rare", "nAP_common", "nAP_frequent", "AR300",
)  # fmt: skip
"""The metrics to show, if the evaluation computes them. The last four are specific to LVIS."""
LONGEST = 100
"""Signs of a run's name."""
SEMANTIC = ("mIoU", "FB-IoU")
BOUNDS = {
    "class": "every detection with the correct class",
    "mask": "every detection with the exact mask",
    "matching": "the best proposals, perfectly matched and merged",
}
"""The upper bounds in diagnostics.json."""


def percent(value: float | None) -> str:
    """A fraction in percent: `36.8`, never `-0.0`. A dash where no instance counts (None, NaN)."""
    return "-" if value is None or value != value else f"{round(100 * value, 1) + 0.0:.1f}"


def counted(count: int | str, one: str, many: str) -> str:
    """`1 class`, `8 classes`."""
    return f"{count} {one if count == 1 else many}"


def listed(names: Iterable[str]) -> str:
    """Names in their order, three or more jobs in a row as a range: `#1, #4 to #9`. Other names stay as they are."""
    runs: list[list[str]] = []
    for name in names:
        if runs and re.fullmatch(r"#\d+", runs[-1][-1]) and name == f"#{int(runs[-1][-1][1:]) + 1}":
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def kind_name(kind: str, names: Mapping[str, str] = KINDS) -> str:
    """`bbox` -> `box`; `bbox@standard` -> `box, standard protocol`. names: by kind, without a protocol."""
    name, _, protocol = kind.partition("@")
    return names.get(name, name) + (f", {protocol} protocol" if protocol else "")


def metric_name(metric: str) -> str:
    """`bbox/nAP50` -> `box nAP50`; `bbox@standard/nAP50` -> `box nAP50, standard protocol`."""
    kind, _, what = metric.partition("/")
    name, _, protocol = kind.partition("@")
    return f"{kind_name(name)} {what.replace('/', ', ')}" + (f", {protocol} protocol" if protocol else "")


def kinds_of(record: RunRecord, order: Iterable[str]) -> dict[str, str]:
    """The kinds that a run has, each with the kind to name it by: with its protocol, if there are numbers by both.

    order: kinds without a protocol. `bbox` then is `bbox@published`, and `bbox@standard` comes after it.
    """
    found: dict[str, str] = {}
    for kind in order:
        if kind in record.metrics.overall:
            others = [other for other in record.metrics.overall if other.startswith(f"{kind}@")]
            found |= {kind: f"{kind}@{record.protocol}" if others else kind} | {other: other for other in others}
    return found


def protocol_of(record: RunRecord) -> str | None:
    """`published protocol`; None if the run has no numbers that depend on it, or did not record it."""
    depends = any(kind in record.metrics.overall for kind in BY_PROTOCOL)
    return f"{record.protocol} protocol" if record.protocol and depends else None


def this_run(kind: str, diagnostics: Mapping[str, Any]) -> str:
    """The name of the run's own numbers in its diagnostics: with the protocol, if they depend on it."""
    protocol = diagnostics.get("protocol") if kind in BY_PROTOCOL else None  # older files have none
    return f"this run, {protocol} protocol" if protocol else "this run"


def headline(record: RunRecord) -> list[str]:
    """The size of a run: numbers of classes, references and images, and of instances where they are known.

    The last entry is the protocol that leads.
    """
    left_out, skipped = len(record.classes_left_out), len(record.images_skipped)
    drawn = [counted(record.shots, "shot", "shots"), f"seed {record.seed}"]
    return [
        counted(len(record.classes), "class", "classes") + (f" ({left_out} left out)" if left_out else ""),
        *(["all references"] if record.shots == "all" else drawn),
        counted(record.images, "image", "images") + (f" ({skipped} skipped, unreadable)" if skipped else ""),
        *([counted(record.instances, "instance", "instances")] if record.instances else []),
        *filter(None, [protocol_of(record)]),
    ]


def typed(argument: str) -> str:
    """An argument as a person types it, without the quotes that Hydra needs: `shots='1'` -> `shots=1`."""
    key, equals, value = argument.partition("=")
    return key + equals + (value.replace("'", "") if re.fullmatch(r"'[^']*'(,'[^']*')*", value) else value)


def varied(given: Iterable[str], jobs: Sequence[Sequence[str]]) -> str:
    """The overrides of a job that are not those of all jobs, as typed. Empty if there are no others."""
    return " ".join(typed(one) for one in given if not all(one in overrides for overrides in jobs))


def run_name(folder: Path) -> str:
    """What a run is called: `shots=5 seed=0`, what varies within its sweep, or else its folder: `run/<time>`."""
    try:
        jobs = [job.overrides for job, _ in Sweep(folder.parent).jobs()]
    except RefexpError:
        jobs = []
    given = read_status(folder).get("overrides", []) if jobs else []
    what = varied(given, jobs)
    return shown(what, LONGEST) if what else "/".join(folder.parts[-2:])


def short(source: str) -> str:
    """A split's source without its parent folders. A source that is not a path stays as it is."""

    return "/".join(source.rsplit("/", 2)[-2:]) if source.startswith("/") else source
