"""Write docs/components.md from the options' files and the docstrings of their classes."""

from __future__ import annotations

from pathlib import Path

from refexp.config.composing import conf_folder
from refexp.config.options import Option, options_of

GROUPS = ("encoder", "proposer", "sampler", "matcher", "postprocess", "evaluation")
HEAD = """# Components

A table for each group of components. On the command line, `group=option` chooses an option. `refexp ls GROUP` prints
the same, with your own options and those of installed packages. `python docs/list_components.py` writes this page.
"""


def page() -> str:
    """Return the page in Markdown."""
    tables = (table(group, options_of(group, [conf_folder()])) for group in GROUPS)
    return HEAD + "".join(tables)


def table(group: str, options: list[Option]) -> str:
    """Return the section of a group. Columns in which nothing is said are left out."""
    columns = {name: [getattr(option, name) for option in options] for name in ("text", "source", "cost")}
    said = {name: cells for name, cells in columns.items() if any(cells)}
    names = {"text": "what it does", "source": "source", "cost": "cost"}
    lines = [[f"`{group}=`", *(names[name] for name in said)], ["---"] * (1 + len(said))]
    lines += [[f"`{option.name}`", *cells] for option, *cells in zip(options, *said.values(), strict=True)]
    rows = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return f"\n## {group}\n\n" + "".join(f"| {row} |\n" for row in rows)


if __name__ == "__main__":
    (Path(__file__).parent / "components.md").write_text(page(), encoding="utf-8")
