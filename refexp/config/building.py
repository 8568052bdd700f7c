"""Build components from configuration nodes. Errors are reported before anything is loaded."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from refexp.errors import RefexpError, did_you_mean, first_line

REPLACED = {
    "evaluation=fast": "evaluation=coco, which is faster",
    "evaluation.engine=faster": "evaluation.engine=refexp",
    "evaluation.box_end": "protocol=published (was last) or protocol=standard (was past)",
    "evaluation.protocol=classes": "evaluation.average=classes",
    "evaluation.protocol=foreground": "evaluation.average=foreground",
}
"""Settings of older versions, some with their value, and what replaces them."""


def replacement(key: str, value: object) -> str:
    """What replaces a setting of an older version, as a sentence; "" for other settings."""
    instead = REPLACED.get(key) or REPLACED.get(f"{key}={value}")
    return f"It was replaced: set {instead}." if instead else ""


def build(node: Any, key: str, target: type | None = None) -> Any:
    """Build the class `node["_target_"]` (or `target`) with the node's other entries as arguments.

    An argument that has a `_target_` itself, or a mapping of such arguments, is built first.
    Checks arguments against the constructor's type hints, so a component defines its choices and ranges only once, in
    its signature. Raises RefexpError that names the key, the value and the valid values.
    """
    if not isinstance(node, Mapping):
        raise RefexpError(f"{key}={node!r}: expected a mapping; see conf/{key.split('.')[0]}.")
    arguments = {name: _with_built(value, f"{key}.{name}") for name, value in node.items() if name != "_target_"}
    if target is None and "_target_" not in node:
        raise RefexpError(f"{key}: no _target_, which names the class to build; see conf/{key.split('.')[0]}.")
    if target is None:
        target = _import(node.get("_target_"), f"{key}._target_")
    constructor: Any = target
    hints = typing.get_type_hints(constructor.__init__, include_extras=True)
    parameters = inspect.signature(target).parameters
    for name in arguments:
        if name not in parameters:
            hint = replacement(f"{key}.{name}", arguments[name]) or did_you_mean(name, parameters)
            raise RefexpError(f"{key}.{name}: {target.__name__} has no such setting. {hint}")
    for name, parameter in parameters.items():
        if name not in arguments and parameter.default is parameter.empty:
            raise RefexpError(f"{key}.{name} must be given.")
    checked = {name: check(value, hints.get(name, Any), f"{key}.{name}") for name, value in arguments.items()}
    try:
        return target(**checked)
    except ValueError as error:
        raise RefexpError(f"{key}: {error}") from None


def _with_built(value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value:
        return build(value, key)
    return {name: _with_built(one, f"{key}.{name}") for name, one in value.items()}


def check(value: Any, hint: Any, key: str) -> Any:
    """Convert `value` to the type `hint`. Raises RefexpError that names the key, the value and the choices."""
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        number = first["type"] == "string_type" and isinstance(first["input"], (int, float))
        # The shell strips the outer quotes; the inner ones tell Hydra that this is text.

        hint = f" To pass a numeric-looking string, quote it twice: \"'{first['input']}'\"." if number else ""
        instead = replacement(key, value)
        raise RefexpError(f"{key}={value!r}: {message}.{hint}{instead and ' ' + instead}") from None


def _import(path: Any, key: str) -> type:
    try:
        module, _, name = str(path).rpartition(".")
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise RefexpError(
            f"{key}: cannot import {path!r}: {first_line(error)}. For your own code: PYTHONPATH=DIR python ..."
        ) from None
