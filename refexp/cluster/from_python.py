"""A sweep from a Python program: the command in a process of its own, and its runs as a data frame."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from refexp.errors import RefexpError
from refexp.show.tables.apart import varying
from refexp.show.tables.runs import find_runs
from refexp.show.tables.settings import key_of
from refexp.show.tables.write import as_numbers


def sweep(grid: Mapping[str, Any], folder: str | Path | None, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Run the combinations of some values; see `refexp.sweep`."""
    lists = {key: [value] if is_single(value) else list(value) for key, value in grid.items()}
    if empty := [key for key, of_key in lists.items() if not of_key]:
        raise RefexpError(f"{empty[0]}: its list of values is empty.")
    # As conf/hydra/plumbing.yaml names it, but known before the sweep starts.
    dataset, name = settings.get("dataset", "synthetic"), settings.get("name", "run")
    folder = Path(folder or f"outputs/{dataset}/{name}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
    words = [f"{key}={','.join(map(spelled, of_key))}" for key, of_key in lists.items()]
    words += [f"{key}={spelled(value)}" for key, value in settings.items()]
    run([*words, f"hydra.sweep.dir={folder}"])
    return as_frame(folder, [key_of(key) for key, of_key in lists.items() if len(of_key) > 1])


def run(words: list[str]) -> None:
    """Run `refexp run -m WORDS` and print what it says. Raises RefexpError if it refuses the command."""
    command, line = [sys.executable, "-u", "-m", "refexp", "run", "-m", *words], ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                print(line, end="")  # not the process itself: a notebook shows only what Python prints
        except BaseException:
            process.terminate()  # Ctrl-C in a notebook reaches this process alone
            raise
    if process.returncode and line.startswith("error: "):
        raise RefexpError(line.removeprefix("error: ").strip())


def as_frame(folder: Path, keys: list[str]) -> pd.DataFrame:
    """One row for each run of a sweep: job, these keys and others in which runs differ, state, metrics and folder."""
    runs = find_runs([folder])
    differ = [key for key in dict.fromkeys([*keys, *varying(runs)]) if key in runs.settings]
    frame = runs.frame[["job", *differ, "state", *runs.metrics, "folder"]]
    return frame.assign(**{key: as_numbers(frame[key]) for key in differ})


def is_single(value: object) -> bool:
    """Whether this is one value, and not several to sweep over."""
    return isinstance(value, (str, Path, Mapping)) or not hasattr(value, "__iter__")


def spelled(value: Any) -> str:
    """A Python value in Hydra's grammar. Text is quoted, so that it stays text."""
    value = value.item() if hasattr(value, "item") else value  # of NumPy
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spelled(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(spelled, value)) + "]"
    return "'" + str(value).replace("'", r"\'") + "'"
