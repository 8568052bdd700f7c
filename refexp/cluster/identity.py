"""A job of a sweep is what it runs: its resolved settings, not its number or how its overrides were written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from refexp.cluster.composing import without_hydra
from refexp.errors import RefexpError
from refexp.folders.sweep_folder import Job
from refexp.show.tables.settings import FIRST, flat, is_protocol, key_of, matters, read_settings, resolved

Settings = dict[str, str]
"""The settings of a job by command-line key, as in the tables."""
GROWING = ("seed", "shots", "shots.n")
"""A sweep may get other values of these without repeating the old ones."""


@dataclass(frozen=True)
class Known:
    """A job that a sweep has already.

    command: index of the last command that named it. composed: its settings as its overrides give them today; {} if
    they no longer compose. settings: those it ran with if it is completed, else `composed`.
    """

    job: Job
    command: int
    composed: Settings
    settings: Settings


def settings_of(config: DictConfig) -> Settings:
    """The settings of a job that Hydra has composed."""
    plain = OmegaConf.to_container(without_hydra(config))
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    settings = movable(flat(resolved(plain), {"hydra": {"runtime": {"choices": choices}}}))  # type: ignore[arg-type]
    # A job that only extracts has no results. The other stages are two ways to the same results.
    return settings | {"stage": "extract" if settings.get("stage") == "extract" else "all"}


def as_run(folder: Path, composed: Settings) -> Settings:
    """The settings with which a completed job ran: since then, a configuration file may have changed."""
    ran = movable(read_settings(folder, None))
    if ran and composed:
        composed = composed | {key: "standard" for key in composed if is_protocol(key)}
    return composed | {key: value for key, value in ran.items() if matters(key) and (key in composed or not composed)}


def movable(settings: Settings) -> Settings:
    """The settings with refexp's own classes by name alone, because modules move from version to version."""
    own = {key for key, value in settings.items() if key.endswith("_target_") and value.startswith("refexp.")}
    return {key: value.rsplit(".", 1)[-1] if key in own else value for key, value in settings.items()}


def telling(known: Sequence[Known], new: Sequence[Settings]) -> list[str]:
    """The keys that tell jobs apart: those that can change results, and those to which one command gave many values."""
    commands = [[one.settings for one in known if one.command == index] for index in {one.command for one in known}]
    keys = dict.fromkeys(key for jobs in (*commands, new) for settings in jobs for key in settings)
    return [
        key for key in keys
        if key == "stage" or matters(key) or any(len(values(jobs, key)) > 1 for jobs in (*commands, new))
    ]  # fmt: skip


def values(jobs: Iterable[Settings], key: str) -> set[str | None]:
    """The values of a setting in these jobs, None where a job does not have it."""
    return {settings.get(key) for settings in jobs}


def refuse_changed(folder: Path, known: Sequence[Known], new: Sequence[Settings], typed: Iterable[str]) -> None:
    """Raise RefexpError if a setting has one value in all known jobs and another one in all new jobs.

    typed: the overrides of the new jobs. Of several changed settings, the message names one of these.
    """
    order = [*map(key_of, typed), *FIRST]
    for by_file in (False, True):
        old = [one.settings if by_file else one.composed for one in known if one.composed]
        found = {key: (values(old, key), values(new, key)) for key in telling(known, new) if key not in GROWING}
        changed = [key for key, (was, now) in found.items() if len(was) == len(now) == 1 and was != now]
        if old and changed:
            key = min(changed, key=lambda key: order.index(key) if key in order else len(order))
            was, now = (str(next(iter(both))).replace("None", "none") for both in found[key])
            way = "sweep.only=all repeats its jobs" if by_file else f"list both values ({key}={was},{now})"
            why = ", for a file of the configuration has changed" if by_file else ""
            raise RefexpError(
                f"{key}={now}: the sweep in {folder} has {key}={was} in all jobs{why}; {way}, or give another "
                "hydra.sweep.dir."
            )


def refuse_shared_folders(jobs: Iterable[Job]) -> None:
    """Raise RefexpError if two jobs would write to the same folder, as with a `hydra.sweep.subdir` of one's own."""
    owners: dict[str, int] = {}
    for job in jobs:
        if owners.setdefault(job.folder, job.number) != job.number:
            both = f"jobs {owners[job.folder]} and {job.number} would both write to {job.folder}"
            raise RefexpError(f"hydra.sweep.subdir: {both}. Leave it out, or let it name what they differ in.")
