"""The keys by which runs are told apart: settings and metrics of the frame that `runs.find_runs` returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from refexp.errors import RefexpError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config/"
UNIMPORTANT = (
    "store.dir", "store.references", "store.claim_timeout", "checkpoints", "data_root", "vis", "runtime", "sweep",
    "hydra", "name", "stage", "logger", "summary", "masks", "evaluation.diagnostics", "evaluation.confusion_threshold",
    "evaluation.engine",
)  # fmt: skip
"""Settings, or groups of them, that change no number."""
RECIPES = ("experiment", "task")
"""Groups that only stand for settings of others; where these are known, they say it all."""
FIRST = ("dataset", "shots", "encoder", "proposer", "sampler", "matcher", "postprocess", "evaluation")
"""The groups that tell runs apart, before any single setting of theirs."""


def column(frame: pd.DataFrame, key: str) -> str:
    """The frame's column for a key as one types it: `shots`, `postprocess.topk.k`, `bbox/nAP`, `note`.

    Raises RefexpError for one that no run has.
    """
    if f"{CONFIG}{key}" in frame:
        return f"{CONFIG}{key}"
    if key in frame:
        return key
    known = [name.removeprefix(CONFIG) for name in frame if "/" not in name or name.startswith(CONFIG)]
    if "/" in key:
        known = overall_metrics(frame)
    raise RefexpError(f"'{key}' is in none of these runs. {did_you_mean(key, known)}")


def overall_metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics over all classes, in the order of metrics.json."""
    return [name for name in frame if name.count("/") == 1 and not name.startswith(CONFIG)]


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that ended well."""
    return frame[frame["state"] == "completed"]


def varying(frame: pd.DataFrame, given: Sequence[str] = ()) -> list[str]:
    """The keys, as one types them, that tell runs apart where `given` ones do not; groups first, `seed` if it differs.

    A setting that follows from others before it (a matcher's own from `matcher`) is not named, nor is one that changes
    no number. Runs of other data or other weights than the rest differ in `targets` or `note` if in nothing else.
    """
    begun = frame[frame["state"] != "not started"]
    frame = begun if len(begun) else frame
    settings = [name.removeprefix(CONFIG) for name in frame if name.startswith(CONFIG)]
    order = [*FIRST, *typed(frame), "seed", *settings, "targets", "note"]
    taken = list(given)
    for key in dict.fromkeys(order):
        name = key if key in ("targets", "note") else CONFIG + key
        if name not in frame or key in taken or not matters(key):
            continue
        runs = frame[frame["targets"].notna()] if key in ("targets", "note") else frame
        values = runs[name].astype(object).where(runs[name].notna(), None)
        if values.nunique(dropna=False) < 2:
            continue
        groups = [values] if not taken else [part for _, part in values.groupby(labels(runs, taken))]
        if any(part.nunique(dropna=False) > 1 for part in groups):
            taken.append(key)
    return taken[len(given) :]


def typed(frame: pd.DataFrame) -> list[str]:
    """The keys that were set on the command line of any of these runs, without the seed."""
    parts = {part.split("=")[0].lstrip("+~") for overrides in frame["overrides"] for part in overrides.split()}
    return sorted(parts - {"seed"})


def matters(key: str) -> bool:
    """Whether a setting can change a number, and stands for no others."""
    return not any(key == part or key.startswith((f"{part}.", f"{part}/")) for part in (*UNIMPORTANT, *RECIPES))


def labels(frame: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Each run's values of some keys as one string, equal where all of them are."""
    texts = [frame[column(frame, key)].map(label) for key in keys]
    return texts[0].str.cat(texts[1:], sep="\x1f") if len(texts) > 1 else texts[0]


def label(value: object) -> str:
    """A setting as a heading shows it: whole numbers without a point, "none" where there is none."""
    if value is None or value != value:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def in_order(values: Iterable[object]) -> list[object]:
    """Different values, numbers first and by size, others by name."""
    unique = {label(value): value for value in values}
    return sorted(unique.values(), key=lambda v: (not isinstance(v, int | float), v if is_number(v) else 0, label(v)))


def is_number(value: object) -> bool:
    """Whether a setting can stand on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def make_axis(values: Sequence[object]) -> bool:
    """Whether these values of a key are several, and all numbers."""
    return len(values) > 1 and all(map(is_number, values))
