"""The code of a component from outside the package, as its store keys hold it: its file, and what it imports nearby."""

from __future__ import annotations

import ast
import inspect
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from refexp.files import sha256
from refexp.store.entries import digest


def code_of(kind: type) -> str | None:
    """A hash of a class's code; None for classes of this package, whose code `store.entries.FORMAT` stands for.

    The code is the file of the class, and the modules that this file imports from its own folder: a module beside it, a
    package below it. Of a class within a package it is whatever the file imports from that package. Helpers of helpers
    count too. Imports are read from the text, so those within functions count, and computed names do not.
    """
    if kind.__module__.split(".")[0] == "refexp":
        return None
    source = inspect.getsourcefile(kind)
    if source is None:
        return None
    path = Path(source).absolute()
    names = kind.__module__.split(".")
    in_package = len(names) > 1 or path.name == "__init__.py"
    root = path.parents[len(names) - (path.name != "__init__.py")]
    # A lone file among installed packages would have all of them beside it.
    area = root / names[0] if in_package else None if _holds_installed(root) else root
    helpers = local_modules(path, root, area) if area else []
    if not helpers:
        return sha256(path)
    return digest([sha256(path), [[helper.relative_to(root).as_posix(), sha256(helper)] for helper in helpers]])


def local_modules(path: Path, root: Path, area: Path) -> list[Path]:
    """The files in the folder `area` that `path` imports, directly or not, sorted; without itself.

    root: the folder on sys.path, at `area` or above.
    """
    found, ahead = {path}, [path]
    while ahead:
        for name in imported(ahead.pop(), root):
            new = {file for file in _files(name, root) if file.is_relative_to(area)} - found
            found |= new
            ahead += new
    return sorted(found - {path})


def imported(path: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """What a file names in its import statements, as names from `root` on: `from a import b` may name a module a.b."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a helper of another Python, say, that is never really imported
        return
    package = path.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def _files(name: tuple[str, ...], root: Path) -> Iterator[Path]:
    """The files that Python runs for `import a.b.c`: every package's __init__.py on the way, and the module's."""
    if name[:1] == ("refexp",):
        return
    for end in range(1, len(name) + 1):
        place = root.joinpath(*name[:end])
        for file in (place / "__init__.py", place.parent / f"{place.name}.py"):
            if file.is_file():
                yield file
                break


def _holds_installed(folder: Path) -> bool:
    installed = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")} | {site.getusersitepackages()}
    return folder.resolve() in {Path(one).resolve() for one in installed}
