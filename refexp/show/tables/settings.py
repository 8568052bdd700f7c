"""Settings of a run as flat text, by command-line key. For a job that never started, they come from its sweep."""

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
    "evaluation.engine", "evaluation.both", "both_protocols", "detections", "published_detections", "needs",
    "objective",
)  # fmt: skip
"""Settings, or groups of settings, that do not change results."""
RECIPES = ("experiment", "task")
"""Groups that only set values in other groups, so they add no information where those values are known."""
FIRST = ("dataset", "shots", "encoder", "proposer", "sampler", "matcher", "postprocess", "evaluation")
"""The groups to compare first, before their single settings."""
PROTOCOLS = ["protocol", "evaluation.protocol"]
"""By which protocol the references and the evaluation are. Numbers of two protocols are never averaged."""


def is_protocol(key: str) -> bool:
    """Whether a setting names a protocol. Runs from before there were protocols are by the standard one."""
    return key.split(".")[-1] == "protocol"


def matters(key: str) -> bool:
    """Whether a setting can change results, and is not a recipe for other settings."""
    return not any(key == part or key.startswith((f"{part}.", f"{part}/")) for part in (*UNIMPORTANT, *RECIPES))


def key_of(override: str) -> str:
    """`+postprocess.topk.k=5` -> `postprocess.topk.k`."""
    return override.split("=")[0].lstrip("+~")


def as_number(text: str) -> float | None:
    """The label as a finite number, or None."""
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def read_settings(folder: Path, done: RunRecord | None) -> dict[str, str]:
    """The settings of a run that started; {} for one that did not."""
    own = done.config if done else read_yaml(folder / "config.yaml")
    # A run that failed before it wrote its configuration still has the one of Hydra.
    config = own or resolved(read_yaml(folder / ".hydra" / "config.yaml"))
    return flat(config, read_yaml(folder / ".hydra" / "hydra.yaml"), done.shots if done else None)


def sweep_settings(folder: Path) -> dict[str, str]:
    """The settings that all jobs of a sweep share, from multirun.yaml."""
    base = read_yaml(folder / "multirun.yaml")
    return flat(resolved({key: value for key, value in base.items() if key != "hydra"}), base)


def guessed_settings(base: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """The expected settings of a job that never started: its sweep's settings with its overrides applied.

    If an override removes a group or selects another option, the settings of that group are unknown and left out.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow to import and rarely needed

    settings = dict(base)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in sorted(parsed, key=lambda one: "." in one.key_or_group):  # groups first, as Hydra
        key, value = override.key_or_group, override.value()
        if value is None or settings.get(key) != label(value):
            settings = {name: own for name, own in settings.items() if not f"{name}.".startswith(f"{key}.")}
        settings |= {} if value is None else {key: label(value)}
    return settings


def flat(config: Mapping[str, Any], hydra: Mapping[str, Any], shots: object = None) -> dict[str, str]:
    """Every setting by its dotted key, and each group by its option: `shots.n` and `shots`.

    hydra: the content of hydra.yaml or multirun.yaml. shots: the number, if the run has recorded it.
    """
    # Hydra does not write its file atomically: a killed run may have left a part of it.
    choices = ((hydra.get("hydra") or {}).get("runtime") or {}).get("choices") or {}
    settings = renamed(flatten(config))
    settings |= {group: choices.get(group) or settings[group] for group in config if group in settings}
    settings["shots"] = shots or (config.get("shots") or {}).get("n") or choices.get("shots")
    return {key: label(value) for key, value in settings.items() if value is not None}


def renamed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older run by their names of today."""
    if settings.pop("evaluation.box_end", None) == "last":
        settings["evaluation.protocol"] = "published"
    if settings.get("evaluation.protocol") in ("classes", "foreground"):
        settings["evaluation.average"] = settings.pop("evaluation.protocol")
    return settings


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. The key of a component or a step itself has its class name as value."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            class_name = str(value["_target_"]).rsplit(".", 1)[-1] if "_target_" in value else None
            settings |= {f"{prefix}{key}": class_name} | flatten(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = value
    return settings


def label(value: object) -> str:
    """A setting as text for headings: integers without a decimal point, lists as JSON, "none" for a missing value."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    if value is None or value != value:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as plain values. Interpolations stay as text if any of them cannot be resolved."""
    node = OmegaConf.create(dict(config))
    try:
        return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException:
        return OmegaConf.to_container(node)  # type: ignore[return-value]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's content, {} if there is no file. Raises RefexpError if it is damaged."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the pure Python loader is ten times slower
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader) or {}
    except OSError:
        return {}
    except yaml.YAMLError as error:
        raise RefexpError(f"{path} is damaged: {' '.join(str(error).split())}") from None
