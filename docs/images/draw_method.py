"""Draw method.svg, the figure of docs/concepts.md. `python docs/images/draw_method.py` writes the same bytes each time.

The method runs from left to right. Three rows cross the store: prototypes, features and masks.
"""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 1280, 730
ROWS = (200, 372, 548)
"""The middle of the rows: references, features, masks."""

INK, SOFT = "#1f2a37", "#52606f"
BLUE, BLUE_EDGE, BLUE_PALE = "#1f5fa8", "#a9c6e8", "#eef5fc"
ORANGE, ORANGE_EDGE, ORANGE_PALE = "#b4560b", "#efc08e", "#fef5ea"
GREY, GREY_PALE = "#8493a3", "#eef1f4"
SCENE, COIN, LEAF = "#3d4a5a", "#cdd5dd", "#8fb07f"
FOUND = ("#e4572e", "#2a9d8f", "#f2b134", "#7a5cc7")
VECTOR = ("#174a85", "#3f82cc", "#a9c6e8", "#2f6cb3", "#d3e3f5", "#5c98da", "#1f5fa8", "#8ab5e6")

SANS = "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\""
MONO = "font-family=\"Menlo, Consolas, 'DejaVu Sans Mono', monospace\""
COINS = ((0.26, 0.3, 0.17), (0.7, 0.26, 0.14), (0.32, 0.74, 0.13))
"""The coins of the target: centre and radius, as shares of the picture's side."""


def text(
    x: float, y: float, words: str, size: int = 19, color: str = INK, anchor: str = "middle", style: str = SANS,
    bold: bool = False,
) -> str:  # fmt: skip
    """A line of text."""
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {place} {style} font-size="{size}" fill="{color}"{weight}>{words}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, edge: str, radius: float = 10, line: float = 2) -> str:
    """A rounded rectangle."""
    place = f'x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}"'
    return f'<rect {place} fill="{fill}" stroke="{edge}" stroke-width="{line:g}"/>'


def arrow(*points: tuple[float, float], color: str = SOFT) -> str:
    """A line through the points, with a head at the last."""
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    path = " ".join(f"{x:g},{y:g}" for x, y in [*points[:-1], (x1 - 9 * dx, y1 - 9 * dy)])
    head = [(x1, y1), (x1 - 12 * dx - 6 * dy, y1 - 12 * dy - 6 * dx), (x1 - 12 * dx + 6 * dy, y1 - 12 * dy + 6 * dx)]
    tip = " ".join(f"{x:g},{y:g}" for x, y in head)
    line = f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5" stroke-linejoin="round"/>'
    return line + f'<polygon points="{tip}" fill="{color}"/>'


def coin(x: float, y: float, r: float, outline: str = "none") -> str:
    """A coin around (x, y), with a coloured outline once it is found."""
    inner = f'<circle cx="{x:g}" cy="{y:g}" r="{0.62 * r:g}" fill="none" stroke="#9aa7b4" stroke-width="2"/>'
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{COIN}" stroke="{outline}" stroke-width="3.5"/>' + inner


def leaf(x: float, y: float, size: float, fill: str = LEAF) -> str:
    """A leaf around (x, y)."""
    left, right, top, bottom = f"{x - size:g}", f"{x + size:g}", f"{y - size:g}", f"{y + size:g}"
    path = f"M{left},{bottom} Q{left},{top} {right},{top} Q{right},{bottom} {left},{bottom}Z"
    return f'<path d="{path}" fill="{fill}"/>'


def scene(x: float, y: float, side: float, found: bool = False) -> str:
    """The target: three coins and a leaf; with the coins outlined once they are found."""
    parts = [box(x, y, side, side, SCENE, INK, 6, 1.5), leaf(x + 0.74 * side, y + 0.72 * side, 0.13 * side)]
    for across, down, radius in COINS:
        parts.append(coin(x + across * side, y + down * side, radius * side, FOUND[0] if found else "none"))
    return "".join(parts)


def reference(x: float, y: float, side: float, radius: float) -> str:
    """A picture with one outlined coin."""
    return box(x, y, side, side, SCENE, "#ffffff", 6, 2) + coin(x + side / 2, y + side / 2, radius, FOUND[0])


def masks(x: float, y: float, side: float) -> str:
    """What the proposer returns: a mask for whatever may be an object, of no class yet."""
    paper = box(x, y, side, side, "#ffffff", GREY, 6, 1.5)
    parts = [paper, leaf(x + 0.74 * side, y + 0.72 * side, 0.15 * side, FOUND[3])]
    for (across, down, radius), color in zip(COINS, FOUND, strict=False):
        place = f'cx="{x + across * side:g}" cy="{y + down * side:g}" r="{radius * side:g}"'
        parts.append(f'<circle {place} fill="{color}"/>')
    return "".join(parts)


def vectors(x: float, y: float, rows: int, columns: int, cell: float = 13, gap: float = 7) -> str:
    """Rows of coloured cells: one vector a row."""
    parts = []
    for row in range(rows):
        top = y + row * (cell + gap)
        for column in range(columns):
            color = VECTOR[(5 * row + 3 * column + row * column) % len(VECTOR)]
            parts.append(box(x + column * cell, top, cell, cell, color, "none", 0))
        parts.append(box(x, top, columns * cell, cell, "none", INK, 0, 1))
    return "".join(parts)


def network(x: float, y: float, w: float, h: float, name: str, key: str) -> str:
    """A network and its configuration group."""
    middle = y + h / 2
    label = text(x + w / 2, middle - 2, name, 21, "#ffffff", bold=True)
    return box(x, y, w, h, BLUE, BLUE) + label + text(x + w / 2, middle + 24, key, 16, "#dbe9f8", style=MONO)


def step(x: float, y: float, w: float, h: float, name: str, *keys: str) -> str:
    """A step of the cheap half and the keys that change it."""
    top = y + h / 2 + 7 - 11 * len(keys)
    lines = [text(x + w / 2, top + 23 * n, key, 16, ORANGE, style=MONO) for n, key in enumerate(keys, start=1)]
    return box(x, y, w, h, "#ffffff", ORANGE) + text(x + w / 2, top, name, 19, bold=True) + "".join(lines)


def result(y: float, name: str, detail: str) -> str:
    """The words beside the picture of what goes into the store."""
    return text(556, y - 2, name, 20, anchor="start", bold=True) + text(556, y + 22, detail, 17, SOFT, "start")


def extract_panel() -> str:
    """From references and target to what the store keeps."""
    first, second, third = ROWS
    between = (second + third) / 2
    return "\n".join(
        [
            box(24, 24, 686, 682, BLUE_PALE, BLUE_EDGE, 16),
            text(48, 66, "Extract", 28, BLUE, "start", bold=True),
            text(48, 94, "runs the networks once for each image", 19, SOFT, "start"),
            text(686, 66, "stage=extract", 18, BLUE, "end", MONO),
            # references
            reference(96, first - 62, 76, 24),
            reference(74, first - 44, 76, 27),
            reference(52, first - 26, 76, 25),
            text(112, first + 78, "references", 20, bold=True),
            arrow((180, first), (238, first)),
            # target
            scene(48, between - 66, 132),
            text(114, between + 92, "target", 20, bold=True),
            arrow((180, between - 34), (210, between - 34), (210, second), (238, second)),
            arrow((180, between + 34), (210, between + 34), (210, third), (238, third)),
            # networks
            network(240, first - 48, 150, second - first + 96, "encoder", "encoder="),
            network(240, third - 44, 150, 88, "proposer", "proposer="),
            arrow((392, first), (446, first)),
            arrow((392, second), (446, second)),
            arrow((392, third), (446, third)),
            # what goes into the store
            vectors(450, first - 26, 3, 7),
            result(first, "prototypes", "per reference"),
            vectors(450, second - 36, 4, 7),
            result(second, "features", "per mask"),
            masks(450, third - 46, 91),
            result(third, "masks", "of the target"),
            arrow((496, third - 50), (496, second + 44)),
            text(512, (second + third) / 2 + 6, "averaged per mask", 17, SOFT, "start"),
            text(48, 684, "A GPU helps. Minutes to hours.", 18, SOFT, "start"),
        ]
    )


def store() -> str:
    """The store, with the three rows that go in and come out."""
    left, right, top, bottom = 744, 842, 132, 616
    middle, bend = (left + right) / 2, 16
    side = f"M{left},{top} V{bottom} A{(right - left) / 2:g},{bend} 0 0 0 {right},{bottom} V{top}"
    edge = f'stroke="{GREY}" stroke-width="2"'
    parts = [
        f'<path d="{side}" fill="{GREY_PALE}" {edge}/>',
        f'<ellipse cx="{middle:g}" cy="{top}" rx="{(right - left) / 2:g}" ry="{bend}" fill="#ffffff" {edge}/>',
        text(middle, (ROWS[0] + ROWS[1]) / 2 + 7, "store", 22, bold=True),
        text(middle, (ROWS[1] + ROWS[2]) / 2 - 3, "kept for", 17, SOFT),
        text(middle, (ROWS[1] + ROWS[2]) / 2 + 19, "all runs", 17, SOFT),
    ]
    for y in ROWS:
        parts += [
            arrow((692, y), (left - 2, y)),
            f'<line x1="{left + 8}" y1="{y}" x2="{right - 8}" y2="{y}" {edge} stroke-dasharray="3 6"/>',
            arrow((right, y), (898, y)),
        ]
    return "\n".join(parts)


def ablate_panel() -> str:
    """From the store to detections and a run folder; cards behind it stand for the other runs."""
    first, second, third = ROWS
    left, wide, right, narrow = 900, 166, 1104, 132
    middle, column = left + wide / 2, right + narrow / 2
    behind = [box(876 + shift, 24 - shift / 2 + 8, 372, 674, ORANGE_PALE, ORANGE_EDGE, 16) for shift in (16, 8)]
    return "\n".join(
        [
            *behind,
            box(876, 32, 372, 674, ORANGE_PALE, ORANGE_EDGE, 16),
            text(900, 66, "Ablate", 28, ORANGE, "start", bold=True),
            text(1232, 66, "stage=ablate", 18, ORANGE, "end", MONO),
            text(900, 92, "repeats for each combination of", 19, SOFT, "start"),
            text(900, 115, "shots, seed, matcher, postprocess", 19, SOFT, "start"),
            # the cheap half
            step(left, first - 56, wide, 112, "memory bank", "shots= seed=", "sampler="),
            arrow((middle, first + 58), (middle, second - 46)),
            step(left, second - 44, wide, 88, "matching", "matcher="),
            arrow((middle, second + 46), (middle, third - 46)),
            step(left, third - 44, wide, 88, "merging", "postprocess="),
            arrow((left + wide + 2, third), (right - 2, third)),
            scene(right, third - 66, 132, found=True),
            text(column, third + 92, "detections", 20, bold=True),
            arrow((column, third - 68), (column, second + 46)),
            step(right, second - 44, narrow, 88, "nAP", "evaluation="),
            arrow((column, second - 46), (column, first + 58)),
            step(right, first - 56, narrow, 112, "run folder", "outputs/..."),
            text(900, 684, "A CPU is enough. Seconds.", 18, SOFT, "start"),
        ]
    )


def figure() -> str:
    """The whole SVG file."""
    title = "How refexp segments: extract once into the store, ablate from it"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    paper = box(1, 1, WIDTH - 2, HEIGHT - 2, "#ffffff", "#d0d7de", 18)
    return "\n".join([head, f"<title>{title}</title>", paper, ablate_panel(), extract_panel(), store(), "</svg>\n"])


if __name__ == "__main__":
    Path(__file__).with_name("method.svg").write_text(figure(), encoding="utf-8", newline="\n")
