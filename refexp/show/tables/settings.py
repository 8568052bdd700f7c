"""Settings as flat text by the keys one types: a run's own, or what its sweep says of one that never began."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refexp.errors import RefexpError
from refexp.folders.record import RunRecord

UNIMPORTANT = (
    "store.dir", "store.references", "store.claim_timeout", "checkpoints", "data_root", "vis", "runtime", "sweep",
    "hydra", "name", "stage", "logger", "summary", "masks", "evaluation.diagnostics", "evaluation.confusion_threshold",
    "evaluation.engine",
)  # fmt: skip
"""Settings, or groups of them, that change no number."""
RECIPES = ("experiment", "task")
"""Groups that only stand for settings of others; where these are known, they say it all."""
FIRST = ("dataset", "shots", "encoder", "proposer", "sampler", "matcher", "postprocess", "evaluation")
"""The groups that tell runs apart, before any single setting of theirs."""


def matters(key: str) -> bool:
    """Whether a setting can change a number, and stands for no others."""
    return not any(key == part or key.startswith((f"{part}.", f"{part}/")) for part in (*UNIMPORTANT, *RECIPES))


def key_of(override: str) -> str:
    """`+postprocess.topk.k=5` -> `postprocess.topk.k`."""
    return override.split("=")[0].lstrip("+~")


def as_number(text: str) -> float | None:
    """The number that a label stands for, if it does and can stand on an axis."""
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def read_settings(folder: Path, done: RunRecord | None) -> dict[str, str]:
    """Those of a run that began, {} of one that did not."""
    own = done.config if done else read_yaml(folder / "config.yaml")  # failed before it wrote its own: Hydra's
    config = own or resolved(read_yaml(folder / ".hydra" / "config.yaml"))
    return flat(config, read_yaml(folder / ".hydra" / "hydra.yaml"), done.shots if done else None)


def sweep_settings(folder: Path) -> dict[str, str]:
    """What the jobs of a sweep have in common, as far as multirun.yaml says."""
    base = read_yaml(folder / "multirun.yaml")
    return flat(resolved({key: value for key, value in base.items() if key != "hydra"}), base)


def guessed_settings(base: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """What a job that never began would have had: its sweep's settings, and its overrides key by key.

    Of a group with another option, or that was taken out, the settings are not known.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow to import, and seldom needed

    settings = dict(base)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in sorted(parsed, key=lambda one: "." in one.key_or_group):  # groups first, as Hydra
        key, value = override.key_or_group, override.value()
        if value is None or settings.get(key) != label(value):
            settings = {name: own for name, own in settings.items() if not f"{name}.".startswith(f"{key}.")}
        settings |= {} if value is None else {key: label(value)}
    return settings


def flat(config: Mapping[str, Any], hydra: Mapping[str, Any], shots: object = None) -> dict[str, str]:
    """Every setting by its dotted key, each group also by its option: `shots.n` and `shots`. hydra: a file of Hydra's.

    shots: the number, if the run has said it.
    """
    choices = (hydra.get("hydra") or {}).get("runtime", {}).get("choices", {})
    settings = flatten(config)
    settings |= {group: choices.get(group) or settings[group] for group in config if group in settings}
    settings["shots"] = shots or (config.get("shots") or {}).get("n") or choices.get("shots")
    return {key: label(value) for key, value in settings.items() if value is not None}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a component, or a step within one, also by its own key, as its class."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            class_name = str(value["_target_"]).rsplit(".", 1)[-1] if "_target_" in value else None
            settings |= {f"{prefix}{key}": class_name} | flatten(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = value
    return settings


def label(value: object) -> str:
    """A setting as a heading shows it: whole numbers without a point, lists as JSON, "none" where there is none."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    if value is None or value != value:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings, interpolations followed where they lead anywhere."""
    node = OmegaConf.create(dict(config))
    try:
        return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException:
        return OmegaConf.to_container(node)  # type: ignore[return-value]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's content, {} if there is none. Raises RefexpError if it is damaged."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML's own takes ten times as long
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader) or {}
    except OSError:
        return {}
    except yaml.YAMLError as error:
        raise RefexpError(f"{path} is damaged: {' '.join(str(error).split())}") from None
