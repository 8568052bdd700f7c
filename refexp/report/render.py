"""A table of runs as text: for the terminal, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from refexp.report.layout import Cell, Table
from refexp.show.words import percent

if TYPE_CHECKING:
    import rich.table

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "\N{MINUS SIGN}": "$-$"}
)
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]"})


def cell_text(cell: Cell, usual: int) -> str:
    """`36.8 ± 0.4`; with `(n=2)` where the number of runs is not the usual one, and why there is none."""
    if cell.mean is None:
        return cell.state
    spread = "" if cell.deviation is None else f" ± {percent(cell.deviation)}"
    return f"{percent(cell.mean)}{spread}" + ("" if cell.n == usual else f" (n={cell.n})")


def headings(table: Table) -> list[str]:
    """The first line: the keys, the columns, the published columns."""
    corner = table.rows if table.cols is None else f"{table.rows} / {table.cols}"
    return [corner, *table.col_labels, *table.published]


def body(table: Table, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    """The lines below, escaped, the best in bold."""
    lines = []
    for i, name in enumerate(table.row_labels):
        texts = [(escape(cell_text(cell, table.n)), cell.best) for cell in table.cells[i]]
        own = [bold(text) if best else text for text, best in texts]
        lines.append([escape(name), *own, *(escape(cell_text(column[i], 0)) for column in table.published.values())])
    return lines


def to_rich(table: Table) -> rich.table.Table:
    """The table for a rich console, without its title, which would be wrapped to the table's width."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    made = RichTable()
    for i, heading in enumerate(headings(table)):
        foreign = i > len(table.col_labels)
        made.add_column(escape(heading), justify="right" if i else "left", style="dim" if foreign else None)
    for line in body(table, escape, lambda text: f"[bold green]{text}[/]"):
        made.add_row(*line)
    return made


def to_markdown(table: Table) -> str:
    """A Markdown table with its title above, notes and troubles below."""

    def escape(text: str) -> str:
        return " ".join(text.split()).translate(MARKDOWN)

    lines = [[escape(h) for h in headings(table)], ["---", *["---:"] * (len(headings(table)) - 1)]]
    lines += body(table, escape, lambda text: f"**{text}**")
    text = f"{escape(table.title)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    below = [f"**{escape(note)}**" for note in table.notes] + [escape(trouble) for trouble in table.troubles]
    return text + "".join(f"{'' if i else chr(10)}- {line}\n" for i, line in enumerate(below))


def to_latex(table: Table) -> str:
    """A LaTeX table (packages booktabs and inputenc or newer): notes in the caption, troubles as comments."""

    def escape(text: str) -> str:
        return " ".join(text.split()).translate(LATEX)

    first, *lines = [[escape(h) for h in headings(table)], *body(table, escape, lambda text: f"\\textbf{{{text}}}")]
    # A bracket after the end of a row would be taken for its length.
    rows = "".join(f"  {'{}' * line[0].startswith(('[', '*'))}{' & '.join(line)} \\\\\n" for line in lines)
    caption = " ".join(f"{escape(part).rstrip('.')}." for part in [table.title, *table.notes])
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(first) - 1)}}}\n  \\toprule\n  {' & '.join(first)} \\\\\n  \\midrule\n"
        f"{rows}  \\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
        + "".join(f"% {' '.join(trouble.split())}\n" for trouble in table.troubles)
    )
