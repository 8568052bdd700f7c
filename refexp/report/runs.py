"""Finished and unfinished runs below some folders, as a table with one row for each.

Columns of the frame that `find_runs` returns:

    folder, run, sweep, job   the run's folder (absolute; and as seen from the folders' common one), the sweep's
                              folder or "", the job's number in it or missing
    state, message, seconds   as `python -m refexp.sweep status` has them
    overrides                 of the command line, in one string
    note                      what must be said of weights that are not the published ones, or ""
    targets, images, instances, detections, classes, class_names, commit, ended
    config/<key>              a setting, by the name one types: `config/seed`, `config/postprocess.topk.k`. A group goes
                              by its option (`config/matcher`: "prototype"), a step within one by its class
                              (`config/postprocess.merge`: "SoftMerge"), `config/shots` by the number. Missing where a
                              run has no such setting; lists are JSON.
    <kind>/<number>[/<class>] the metrics, as in metrics.json: fractions, missing where no instance counts
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from refexp.errors import RefexpError
from refexp.jobs import GONE, NAME, Job, Sweep, SweepRecord, local_state, record_of, survey
from refexp.report.keys import CONFIG
from refexp.status import read_status

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Place:
    """A run before its files are read."""

    record: SweepRecord
    folder: Path
    name: str
    sweep: str


def find_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """All runs below these folders, sweeps' jobs in order; of a sweep also those that failed or never began.

    Raises RefexpError if a folder is missing or there is no run.
    """
    import pandas as pd

    roots = [Path(folder).absolute() for folder in folders]
    for root in roots:
        if not root.is_dir():
            raise RefexpError(f"{root}: no such folder; give that of a run, of a sweep, or one with some in it.")
    common = os.path.commonpath(roots)
    places = {place.folder: place for root in roots for place in below(root, common)}
    if not places:
        shown = ", ".join(map(str, folders))
        raise RefexpError(f"no run below {shown}: looked for {NAME}, status.json and metrics.json.")
    bases = {sweep: read_yaml(Path(sweep) / "multirun.yaml") for sweep in {p.sweep for p in places.values()} if sweep}
    frame = pd.DataFrame([read_run(place, bases.get(place.sweep, {})) for place in places.values()])
    return frame.astype({"job": "Int64", "seconds": float})


def below(folder: Path, root: str) -> Iterator[Place]:
    """The runs in a folder and in those within it, named as seen from `root`; never those inside another run."""
    for path, children, files in os.walk(folder):
        here = Path(path)
        if NAME in files:
            for record in records_of(Sweep(here)):
                job = here / record.job.folder
                yield Place(record, job, os.path.relpath(job, root), str(here))
        elif "status.json" in files or "metrics.json" in files:
            name = os.path.relpath(here, root)
            yield Place(record_alone(here), here, here.name if name == "." else name, "")
        else:
            children.sort()
            continue
        children.clear()


def records_of(sweep: Sweep) -> list[SweepRecord]:
    """What is known of a sweep's jobs; with SLURM out of reach, those without an end count as waiting."""
    try:
        return survey(sweep)
    except RefexpError:
        if sweep.read()["launcher"] != "slurm":
            raise
        jobs = [(job, id_, read_status(sweep.folder / job.folder)) for job, id_ in sweep.jobs()]
        return [record_of(sweep.folder, job, status, "PENDING", id_) for job, id_, status in jobs]


def record_alone(folder: Path) -> SweepRecord:
    """What is known of a run that is no part of a sweep."""
    status = read_status(folder)
    job = Job(0, list((status or {}).get("overrides", [])), ".")
    if status is None:
        return SweepRecord(job, "completed", False)
    scheduled = "RUNNING" if status["job_id"] else local_state(status["pid"], status["host"])
    return record_of(folder, job, status, GONE if status["state"] != "running" else scheduled, status["job_id"])


def read_run(place: Place, base: Mapping[str, Any]) -> dict[str, Any]:
    """One row. base: the sweep's multirun.yaml, for jobs that left no configuration of their own."""
    record, folder = place.record, place.folder
    done = read_json(folder / "metrics.json") if record.state == "completed" else {}
    config = done.get("config") or read_yaml(folder / "config.yaml") or unresolved(folder / ".hydra" / "config.yaml")
    choices = (read_yaml(folder / ".hydra" / "hydra.yaml").get("hydra") or {}).get("runtime", {}).get("choices", {})
    if not config and base:
        config, choices = with_overrides(base, record.job.overrides)
    settings = flatten(config) | {
        group: choices.get(group) or short_class(config[group])
        for group in [key for key, value in config.items() if isinstance(value, Mapping)]
    }
    settings["shots"] = done.get("shots") or (config.get("shots") or {}).get("n") or number(choices.get("shots"))
    return {
        "folder": str(folder),
        "run": place.name,
        "sweep": place.sweep,
        "job": record.job.number if place.sweep else None,
        "state": record.state,
        "message": record.message,
        "seconds": record.seconds,
        "overrides": " ".join(record.job.overrides),
        "note": (done["note"] or "") if "note" in done else read_weights_file(folder),
        "targets": done.get("targets"),
        "images": done.get("images"),
        "instances": done.get("instances"),
        "detections": done.get("detections"),
        "classes": len(done["classes"]) if done else None,
        "class_names": "; ".join(done["classes"]) if done else None,
        "commit": done.get("commit"),
        "ended": (read_status(folder) or {}).get("ended"),
        **{CONFIG + key: value for key, value in settings.items() if value is not None},
        **(done.get("metrics") or {}),
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a component within a group also by its own key, as its class."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            if prefix and "_target_" in value:
                flat[f"{prefix}{key}"] = short_class(value)
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return flat


def with_overrides(base: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a job that never began would have been: its settings, as far as its overrides say, and its options."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    config = OmegaConf.create({key: value for key, value in base.items() if key != "hydra"})
    choices = dict(base["hydra"]["runtime"]["choices"])
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in sorted(parsed, key=lambda override: override.key_or_group not in choices):  # groups first, as Hydra
        key = override.key_or_group
        parent, _, last = key.rpartition(".")
        if key in choices:
            option = None if override.is_delete() else str(override.value())
            config[key] = config.get(key) if option == choices[key] else {}
            choices[key] = option
        elif not override.is_delete():
            OmegaConf.update(config, key, override.value(), force_add=True)
        elif (within := OmegaConf.select(config, parent) if parent else config) is not None:
            within.pop(last, None)
    return resolved(config), choices


def unresolved(path: Path) -> dict[str, Any]:
    """The configuration Hydra left, for a run that failed before it wrote its own."""
    from omegaconf import OmegaConf

    return resolved(OmegaConf.create(read_yaml(path)))


def resolved(config: Any) -> dict[str, Any]:
    """Plain settings, interpolations followed where they lead anywhere."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException:
        return OmegaConf.to_container(config)  # type: ignore[return-value]


def read_weights_file(folder: Path) -> str:
    """What a run that has no note in its metrics.json, one that did not complete or an old one, says of its weights."""
    path = folder / "WEIGHTS.txt"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def short_class(config: Mapping[str, Any]) -> str | None:
    """The class a component is built from, without the module."""
    return str(config["_target_"]).rsplit(".", 1)[-1] if "_target_" in config else None


def number(text: object) -> int | None:
    """An option that is a number, as one."""
    return int(str(text)) if str(text).isdigit() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content, {} if there is none. Raises RefexpError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise RefexpError(f"{path} is damaged: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's content, {} if there is none. Raises RefexpError if it is damaged."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML's own takes ten times as long
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader) or {}
    except OSError:
        return {}
    except yaml.YAMLError as error:
        raise RefexpError(f"{path} is damaged: {' '.join(str(error).split())}") from None
