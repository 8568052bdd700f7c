"""The options of a configuration group, with what their files and the docstrings of their classes say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Option:
    """An option of a group, such as matcher=prototype.

    text: the comment at the top of its file, or else the first line of its class's docstring. source, cost: what the
    docstrings of its classes say after `Source:` and `Cost:`, "" where they say nothing.
    """

    name: str
    text: str
    source: str
    cost: str


def options_of(group: str, folders: Sequence[Path]) -> list[Option]:
    """Return the options of a group. Of two options with one name, that of the first folder counts, as for Hydra."""
    files = {path.stem: path for folder in reversed(folders) for path in sorted((folder / group).glob("[!_]*.yaml"))}
    # Shots sort by number: 1, 2, 3, 5, 10.
    names = sorted(files, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    return [read_option(files[name]) for name in names]


def read_option(path: Path) -> Option:
    """Read an option's file and the source of its classes. Imports nothing, so that a list takes no second."""
    docs = {target.rpartition(".")[2]: docstring_of(target) for target in targets_of(path)}
    parts = []
    for label in ("Source", "Cost"):
        said = {name: text for name, doc in docs.items() if (text := labelled(doc, label))}
        # Of several steps, each says its own.
        parts.append(" ".join(text if len(docs) == 1 else f"{name}: {text}" for name, text in said.items()))
    summaries = (doc.strip().partition("\n")[0] for doc in docs.values())
    return Option(path.stem, described(path) or next(summaries, ""), *parts)


def described(path: Path) -> str:
    """The comment at the top of an option's file."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def targets_of(path: Path) -> Iterator[str]:
    """Yield the classes that an option's file, or a base of it in the same folder, names with `_target_`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError:  # Hydra says so when the option is chosen
        return
    content = content if isinstance(content, dict) else {}
    yield from _targets(content)
    for base in content.get("defaults") or ():
        if isinstance(base, str) and (file := path.with_name(f"{base}.yaml")).is_file() and file != path:
            yield from targets_of(file)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(target := node.get("_target_"), str):
            yield target
        for value in node.values():
            yield from _targets(value)


def docstring_of(target: str) -> str:
    """The docstring of the class `package.module.Class`, read from its file. "" if there is none."""
    module, _, name = target.rpartition(".")
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return ""
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.ImportFrom) and node.level == 0 and any(part.name == name for part in node.names):
            return docstring_of(f"{node.module}.{name}")
    return ""


def labelled(docstring: str, label: str) -> str:
    """What a docstring says in the lines from `label:` on, up to the next label or an empty line."""
    found = re.search(rf"^{label}: (.+(?:\n(?!\w+: |Raises ).+)*)", docstring, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""
