"""Compare two runs on the same targets: what the second run won and lost against the first, by image and by class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from refexp.errors import RefexpError
from refexp.evaluation.matches import precision_by_image
from refexp.files import write_text
from refexp.folders.run_folder import RunFolder
from refexp.show.tables.compare import LEVEL, bootstrap
from refexp.show.terminal import cell
from refexp.show.words import BY_PROTOCOL, KINDS, counted, percent, run_name

ENDS = 10
"""Number of classes, and of images, that the terminal shows at each end."""


@dataclass(frozen=True)
class Comparison:
    """The first run (A) and the second run (B), and their differences, B minus A, the largest losses first.

    kind: masks ("segm"), or boxes ("bbox") if a run has no masks. lowest: each run's score of the best F1. An instance
    is won if only B finds it with at least its score, lost if only A does.
    classes: class, instances, nAP_A, nAP_B, difference; gain, low, high: mean difference of the images' nAP and its
    bootstrap interval; won, lost.
    images: image, file, instances, nAP_A, nAP_B, difference, won, lost, false_A, false_B; place among the targets.
    """

    runs: tuple[RunFolder, RunFolder]
    kind: str
    lowest: tuple[float, float]
    classes: pd.DataFrame
    images: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """What the two runs are called."""
        return [run_name(run.path) for run in self.runs]

    def __str__(self) -> str:
        gains = self.images["difference"].dropna()
        a, b = (run.record.metrics.overall[self.kind]["nAP"] for run in self.runs)
        text = (
            f"{KINDS[self.kind]} nAP {percent(a)} to {percent(b)}; nAP of a single image, mean over the "
            f"{counted(len(gains), 'image', 'images')} with instances"
        )
        won, lost = self.images["won"].sum(), self.images["lost"].sum()
        return f"{text}: {interval(gains)}; {counted(won, 'instance', 'instances')} won, {lost} lost"


def interval(gains: Sequence[float] | pd.Series) -> str:
    """The mean of paired differences and its interval: `+1.2 points (95% interval 0.4 to 2.0)`. gains: at least one."""
    mean = float(np.mean(gains))
    text = f"{'+' if round(100 * mean, 1) > 0 else ''}{percent(mean)} points"
    if len(gains) < 2:
        return text
    low, high = bootstrap(gains)
    return f"{text} ({LEVEL:.0%} interval {percent(low)} to {percent(high)})"


def compare_runs(first: RunFolder, second: RunFolder) -> Comparison:
    """Compare two runs. Raises RefexpError if they did not evaluate the same classes, images and instances."""
    runs = first, second
    for run in runs:
        if not run.matches or not run.per_image:
            evaluated = {"bbox", "segm"} & set(run.record.metrics.overall)
            why = "has no matches.npz, so run it again" if evaluated else "was not evaluated by masks or boxes"
            raise RefexpError(f"{run.path} {why}; compare needs evaluation=coco, lvis or boxes.")
    kind = next((kind for kind in ("segm", "bbox") if all(kind in run.matches for run in runs)), None)
    if kind is None:
        raise RefexpError(f"{first.path} and {second.path}: one was evaluated by masks, the other by boxes.")
    protocols = [run.record.protocol or "standard" for run in runs]
    if kind in BY_PROTOCOL and len(set(protocols)) > 1:
        raise RefexpError(
            f"{first.path} and {second.path}: boxes by the {protocols[0]} and by the {protocols[1]} protocol do not "
            "compare; run one of them again with the other's protocol."
        )
    a, b = (run.matches[kind] for run in runs)
    for what, same in {
        "classes": first.record.classes == second.record.classes,
        "images": [row["image"] for row in first.per_image] == [row["image"] for row in second.per_image],
        "instances": np.array_equal([a.true_image, a.true_label], [b.true_image, b.true_label]),
    }.items():
        if not same:
            raise RefexpError(f"{first.path} and {second.path} evaluated different {what}, so they do not compare.")
    lowest = lowest_score(first, kind), lowest_score(second, kind)
    by_a, by_b = a.found >= lowest[0], b.found >= lowest[1]
    won, lost = by_b & ~by_a, by_a & ~by_b
    return Comparison(runs, kind, lowest, classes_of(runs, kind, won, lost), images_of(runs, kind, won, lost))


def lowest_score(run: RunFolder, kind: str) -> float:
    """The score of the best F1 of a run. Infinite if the run found nothing."""
    score = run.record.metrics.overall[kind]["F1_score"]
    return np.inf if score is None else score


def classes_of(runs: tuple[RunFolder, RunFolder], kind: str, won: np.ndarray, lost: np.ndarray) -> pd.DataFrame:
    """The table of the classes. won, lost: bool [T]."""
    a, b = (run.matches[kind] for run in runs)
    names = runs[0].record.classes
    nap_a, nap_b = (run.record.metrics.per_class[kind]["nAP"] for run in runs)
    (_, label, before), (_, _, after) = precision_by_image(a), precision_by_image(b)
    gains = (after - before).mean(axis=1)
    table = pd.DataFrame({
        "class": names,
        "instances": np.bincount(a.true_label, minlength=len(names)),
        "nAP_A": pd.Series([nap_a[name] for name in names], dtype=float),
        "nAP_B": pd.Series([nap_b[name] for name in names], dtype=float),
    })  # fmt: skip
    table["difference"] = table["nAP_B"] - table["nAP_A"]
    by_class = [gains[label == number] for number in range(len(names))]
    table["gain"] = [values.mean() if len(values) else np.nan for values in by_class]
    table[["low", "high"]] = [bootstrap(values) if len(values) > 1 else (np.nan, np.nan) for values in by_class]
    for name, which in (("won", won), ("lost", lost)):
        table[name] = np.bincount(a.true_label[which], minlength=len(names))
    return table.sort_values("difference", kind="stable", ignore_index=True)


def images_of(runs: tuple[RunFolder, RunFolder], kind: str, won: np.ndarray, lost: np.ndarray) -> pd.DataFrame:
    """The table of the images. won, lost: bool [T]."""
    a, b = (pd.DataFrame(run.per_image).replace("", np.nan) for run in runs)
    table = a[["image", "file", "instances"]].copy()
    for name, side in (("A", a), ("B", b)):
        table[f"nAP_{name}"] = side[f"{kind}/nAP"].astype(float)
    table["difference"] = table["nAP_B"] - table["nAP_A"]
    image = runs[0].matches[kind].true_image
    for name, which in (("won", won), ("lost", lost)):
        table[name] = np.bincount(image[which], minlength=len(table))
    for name, side in (("A", a), ("B", b)):
        table[f"false_{name}"] = side[f"{kind}/false"].astype(int)
    # Of equal differences, those with more losses come first. Images without instances have none: they come last.
    order = np.lexsort((table["won"] - table["lost"], table["difference"]))
    return table.iloc[order].reset_index(names="place")


def default_folder(first: Path, second: Path) -> Path:
    """compare/<A>_<B> in the folder that both runs have in common."""
    common = Path(os.path.commonpath([first.parent, second.parent]))
    return common / "compare" / "_".join("-".join(path.relative_to(common).parts) for path in (first, second))


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write classes.csv and images.csv: fractions, the largest losses first."""
    write_text(out / "classes.csv", comparison.classes.to_csv(index=False))
    write_text(out / "images.csv", comparison.images.drop(columns="place").to_csv(index=False))


def print_comparison(comparison: Comparison) -> None:
    """Print the overall difference, and the classes and images with the largest losses and gains."""
    console = Console(soft_wrap=True)
    for letter, name in zip("AB", comparison.names, strict=True):
        console.print(f"{letter}: {name}", markup=False)
    console.print(str(comparison), markup=False)
    for table, name in ((comparison.classes, "class"), (comparison.images, "file")):
        rows = table.dropna(subset="difference")
        shown = rows if len(rows) <= 2 * ENDS else pd.concat([rows.head(ENDS), rows.tail(ENDS)])
        printed = Table(title="" if len(shown) == len(rows) else f"the first and last {ENDS} of {len(rows)}")
        for column in (name, "nAP A", "nAP B", "difference", "won", "lost"):
            printed.add_column(column, justify="left" if column == name else "right")
        for _, row in shown.iterrows():
            numbers = [percent(row[column]) for column in ("nAP_A", "nAP_B", "difference")]
            printed.add_row(cell(row[name]), *numbers, str(row["won"]), str(row["lost"]))
        console.print(printed)
