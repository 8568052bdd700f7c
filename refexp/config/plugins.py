"""Options that installed packages bring: each announces its folder of options by an entry point `refexp.conf`.

    [project.entry-points."refexp.conf"]
    mypackage = "mypackage.conf"

The value is the dotted path of a folder with options, laid out like conf/: `mypackage/conf/encoder/mine.yaml`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from refexp.errors import RefexpError

GROUP = "refexp.conf"


def option_folders() -> dict[str, Path]:
    """Return the folder of options of each installed package that brings some, by the entry point's name.

    It looks for the package, but does not import it. Raises RefexpError if a package has no such folder.
    """
    found = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        top, *below = point.value.split(".")
        spec = find_spec(top)
        roots = (spec.submodule_search_locations if spec else None) or []
        folder = next((path for root in roots if (path := Path(root, *below)).is_dir()), None)
        if folder is None:
            package = point.dist.name if point.dist else point.name
            raise RefexpError(
                f"the installed package '{package}' says that its options lie in {point.value}, but there is no such "
                f"folder. Install it again, or remove it: pip uninstall {package}."
            )
        found[point.name] = folder
    return found
