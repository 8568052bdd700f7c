"""From overrides to a configuration and from its nodes to components; mistakes are named before anything is loaded."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from refexp.cli import explain, quoted
from refexp.errors import RefexpError, did_you_mean, first_line


def build(node: Any, key: str, target: type | None = None) -> Any:
    """Build the class that `node["_target_"]` names (or `target`) from the node's other entries.

    Arguments are checked against the constructor's type hints, so a component states its choices and ranges once, in
    its signature. Raises RefexpError that names the key, the value and what would be right.
    """
    if not isinstance(node, Mapping):
        raise RefexpError(f"{key}={node!r}: a group of settings is needed; see conf/{key.split('.')[0]}.")
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    if target is None:
        target = _import(node.get("_target_"), f"{key}._target_")
    constructor: Any = target
    hints = typing.get_type_hints(constructor.__init__, include_extras=True)
    parameters = inspect.signature(target).parameters
    for name in arguments:
        if name not in parameters:
            raise RefexpError(f"{key}.{name}: {target.__name__} has no such setting. {did_you_mean(name, parameters)}")
    for name, parameter in parameters.items():
        if name not in arguments and parameter.default is parameter.empty:
            raise RefexpError(f"{key}.{name} must be given.")
    checked = {name: check(value, hints.get(name, Any), f"{key}.{name}") for name, value in arguments.items()}
    try:
        return target(**checked)
    except ValueError as error:
        raise RefexpError(f"{key}: {error}") from None


def build_all(node: Any, key: str) -> dict[str, Any]:
    """Build every entry of a node, in order, by name."""
    if not isinstance(node, Mapping):
        raise RefexpError(f"{key}={node!r}: a mapping of named steps is needed; see conf/{key}.")
    return {name: build(entry, f"{key}.{name}") for name, entry in node.items() if entry is not None}


def check(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type `hint` says. Raises RefexpError naming the key, the value and the choices."""
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        number = first["type"] == "string_type" and isinstance(first["input"], (int, float))
        hint = f" For a text that looks like a number: \"'{first['input']}'\", quotes and all." if number else ""
        raise RefexpError(f"{key}={value!r}: {message}.{hint}") from None


def _import(path: Any, key: str) -> type:
    try:
        module, _, name = str(path).rpartition(".")
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise RefexpError(
            f"{key}: cannot import {path!r}: {first_line(error)}. Code of your own: PYTHONPATH=DIR python ..."
        ) from None


def conf_folder() -> Path:
    """The folder conf: that of the checkout, or the one that was packaged with refexp."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise RefexpError(f"no configuration in {package / 'conf'} or {package.parent / 'conf'}: install from a checkout.")


def composed(overrides: Sequence[str], conf: Path | None = None) -> DictConfig:
    """What these overrides compose, as on the command line; references to other keys stay unresolved.

    conf: the folder that holds config.yaml; None takes `conf_folder()`. Raises RefexpError for a mistake in overrides
    or folder.
    """
    # Hydra keeps its state globally: the caller may be a Hydra application, and importing SAM2 leaves one behind.
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str((conf or conf_folder()).resolve()), version_base="1.3"):
            return compose("config", [quoted(override) for override in overrides])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RefexpError(explain(error)) from None
    finally:
        GlobalHydra.instance().hydra = before
