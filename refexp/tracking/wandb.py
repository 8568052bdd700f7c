"""Weights & Biases: a reader of run folders, and `logger=wandb`, which starts the reader in a separate process.

Because of the separate process, a failure of W&B or of the network ends the reader but not the run. Tested with wandb
0.31 offline and against a local server that answers its first calls, but never against wandb.ai.
"""

from __future__ import annotations

import csv
import importlib.metadata
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

import refexp
from refexp.errors import RefexpError, first_line, shown
from refexp.files import read_json, sha256, write_json, write_text
from refexp.folders.record import PARTIAL, RunRecord
from refexp.folders.status import is_running, read_status
from refexp.folders.sweep_folder import NAME as SWEEP
from refexp.masks import decode
from refexp.show.gallery import REFERENCES, spread
from refexp.show.harmless import harmless
from refexp.show.page.pictures import TARGETS
from refexp.show.tables.settings import FIRST, RECIPES, key_of, matters, read_yaml
from refexp.show.words import run_name
from refexp.tracking.logger import Logger, per_class

log = logging.getLogger(__name__)

NAME = "wandb.json"
"""File in a run's folder with the settings of the logger and the state of the upload."""
POLL_SECONDS = 2.0
RETRY_SECONDS = 600.0
"""After a failure, later runs of this process stay offline for this long without a new attempt."""
STOPPED_SECONDS = 10.0
"""Maximum wait at the end of a stopped run. It is short, because the scheduler will soon kill the run."""
REPEATED = ("seed", "shots", "shots.n")
"""The keys in which the runs of one variant differ."""
COMMAND = (sys.executable, "-m", "refexp", "push", "--follow")
MAX_IDS = 127
"""Maximum number of classes in a mask, because W&B stores class ids as signed bytes."""


OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RESUME", "WANDB_NAME")
"""Variables that would make several runs one W&B run. They come from an outer program, such as a sweep agent."""


@dataclass(eq=False)
class WandbLogger(Logger):
    """One W&B run per experiment.

    mode: "auto" is online if there is an API key, unless WANDB_MODE is set. If W&B cannot be reached, the run stays
    offline, and a message says how to send it. The next jobs of a multirun then stay offline for ten minutes. group:
    "auto" takes the sweep's folder in a multirun. images: number of targets to send, out of those on the run's page.
    wait: maximum seconds to wait for W&B at the end of a run; `refexp push` can send the rest later. dir: folder for
    W&B's own files; None takes the run's folder. Raises RefexpError if wandb is not installed, or refuses a variable.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "refexp"
    entity: str | None = None
    group: str | None = "auto"
    job_type: str | None = None
    tags: list[str] | None = None
    artifacts: list[Literal["detections", "references"]] | None = None
    images: Annotated[int, Field(ge=0)] = 8
    wait: Annotated[float, Field(ge=3, allow_inf_nan=False)] = 60.0
    dir: str | None = None

    def __post_init__(self) -> None:
        need_wandb()
        check_environment()
        if foreign := [name for name in OF_ONE_RUN if name in os.environ]:
            log.warning("%s ignored: each run of refexp is a W&B run of its own", ", ".join(foreign))
        place = str(Path(self.dir).absolute()) if self.dir else None
        self.settings = asdict(self) | {"tags": self.tags or [], "artifacts": self.artifacts or [], "dir": place}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, folder: Path) -> None:
        if self.settings["mode"] == "disabled":
            return
        mode = "offline" if time.monotonic() < _offline_until else self.settings["mode"]
        write_json(folder / NAME, self.settings | {"mode": mode}, indent=1)
        packages = str(Path(refexp.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
        # In its own session, so that Ctrl-C at the terminal does not stop it.
        self.process = subprocess.Popen(
            [*COMMAND, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip

    def finish(self, folder: Path) -> None:
        """Wait until everything is sent, at most `wait` seconds."""
        if self.process is None:
            return
        stopped = read_status(folder).get("state") == "stopped"
        wait = min(self.settings["wait"], STOPPED_SECONDS) if stopped else self.settings["wait"]
        try:
            code = self.process.wait(timeout=wait)
            ended = f"its process ended with code {code}" if code else ""
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            ended = f"upload not finished after {wait:g} s (logger.wait)"
        report_upload(folder, ended)


def need_wandb() -> None:
    """Raise RefexpError if the package is not installed."""
    try:
        importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError:
        raise RefexpError("W&B needs a package that is not installed: pip install 'wandb>=0.31'") from None


def check_environment() -> None:
    """Raise RefexpError for a variable that W&B would refuse, before the run computes anything."""
    if not any(name.startswith("WANDB_") for name in os.environ):
        return
    import wandb

    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        first = error.errors()[0]
        name = f"WANDB_{first['loc'][0]}".upper()
        raise RefexpError(f"{name}={os.environ.get(name)!r}: {first['msg']}: unset {name}, or correct it.") from None


_offline_until = 0.0
_told: set[str] = set()
"""The commands that were logged already: one sends all runs of a sweep."""


def report_upload(folder: Path, ended: str = "") -> None:
    """Log one line about the upload, with the command that sends the rest. ended: why the reader process failed."""
    global _offline_until
    state = read_json(folder / NAME) or {}
    fault = state.get("fault") or ended
    if fault:
        kept = state.get("folder")
        remedy = f"wandb sync {kept} sends the stored part" if kept else f"refexp push {folder} sends it"
        log.warning("W&B: %s; %s", fault.strip().rstrip("."), remedy)
    elif command := sync_command(folder):
        if state["offline"]:
            _offline_until = time.monotonic() + RETRY_SECONDS
            log.warning("W&B: offline, %s; %s", state["offline"].strip().rstrip("."), command)
        elif command not in _told:
            log.info("W&B: kept offline; %s", command)
        _told.add(command)


def sync_command(folder: Path) -> str | None:
    """What sends a run that was kept offline, or all runs of its sweep when it has ended. None if it was sent."""
    state = read_json(folder / NAME) or {}
    if not state.get("kept"):
        return None
    kept = Path(state["folder"])
    if not (folder.parent / SWEEP).exists():
        return f"wandb sync {kept} sends it"
    jobs = kept.parent if state["dir"] else folder.parent / "*" / kept.parent.name
    return f"wandb sync {jobs / 'offline-run-*'} sends all runs of the sweep, when it has ended"


class Reader:
    """Sends one run's folder to one W&B run. If the network fails, starts the W&B run again offline.

    folder: absolute path. The settings come from its wandb.json, or else are the defaults.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: dict[str, Any] = (read_json(folder / NAME) or WandbLogger().settings) | {
            "fault": None,
            "sent": None,
        }
        self.run: Any = None
        self.rows = 0

    def follow(self) -> None:
        """Read the folder until the run has ended. Never raises; writes errors into wandb.json."""
        try:
            while is_running(self.folder) and not self.has("config.yaml"):
                time.sleep(POLL_SECONDS / 4)
            self.start()
            while is_running(self.folder):
                self.send_progress()
                time.sleep(POLL_SECONDS)
            self.send_progress()
            self.finish()
        except Exception as error:
            self.state |= {"fault": first_line(error)}
            with suppress(OSError):  # the folder itself may be the fault
                self.note()

    def has(self, name: str) -> bool:
        """Whether the run has written this file. A file that is older than the run is from an earlier run."""
        path = self.folder / name
        started = read_status(self.folder).get("started")
        since = datetime.fromisoformat(started).timestamp() if started else 0.0
        return path.exists() and path.stat().st_mtime >= since

    def start(self) -> None:
        """Start a W&B run: online if requested and possible, else offline."""
        import wandb

        place = Path(self.state["dir"] or self.folder)
        place.mkdir(parents=True, exist_ok=True)
        for name in OF_ONE_RUN:
            os.environ.pop(name, None)
        # Fail here if the folder is not writable: W&B would silently use a temporary folder.
        (place / ".writable").write_text("?")
        (place / ".writable").unlink()
        # By default W&B stages artifact files in the home folder. Keep them with the run instead.
        os.environ.setdefault("WANDB_DATA_DIR", str(place / "wandb"))
        # Timeout of one call to the server. W&B blocks on several calls while it creates a table.
        os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(max(1, round(self.state["wait"] / 12))))
        self.settings: dict[str, Any] = {
            "silent": True, "console": "off", "disable_git": True, "program": "main.py",
            "x_stats_pid": read_status(self.folder).get("pid", os.getpid()), "init_timeout": self.state["wait"] / 3,
            "finish_timeout": self.state["wait"] / 3, "finish_timeout_raises": True,
        }  # fmt: skip
        if self.state["mode"] != "auto":
            self.settings["mode"] = self.state["mode"]
        try:
            self.begin()
        except Exception as error:
            self.fall_back(error)
        assert self.run is not None and wandb.run is not None

    def begin(self, why_offline: str | None = None) -> None:
        import wandb

        config = read_yaml(self.folder / "config.yaml") if self.has("config.yaml") else {}
        state, sweep = self.state, self.folder.parent
        group = state["group"]
        if group == "auto":
            group = sweep.name if (sweep / SWEEP).exists() else None
        self.run = wandb.init(
            dir=state["dir"] or str(self.folder), id=run_id(self.folder), name=run_name(self.folder),
            config=config | {"options": options(self.folder)}, group=group, resume="allow",
            settings=wandb.Settings(**self.settings),
            **{name: state[name] for name in ("project", "entity", "job_type", "tags")},
        )  # fmt: skip
        for name in ("progress/*", "rate/*"):
            self.run.define_metric(name, summary="none")
        kept = str(Path(self.run.settings.sync_dir).absolute())
        self.note(folder=kept, offline=why_offline, kept=self.run.settings.mode == "offline")

    def fall_back(self, error: Exception) -> None:
        """Start the same W&B run again, offline."""
        import wandb

        run, self.run, self.rows = self.run, None, 0
        if run is not None:
            with suppress(Exception):
                run.finish(exit_code=1)
        wandb.teardown()  # W&B's service process still owns the run id
        self.settings["mode"] = "offline"
        self.begin(first_line(error))

    def send_progress(self) -> None:
        """Send the new rows of progress.csv since the last call. Skips rows of earlier starts of the run."""
        rows = progress_of(self.folder)
        for row in rows[self.rows :]:
            done = float(row["done"]) / max(1.0, float(row["total"]))
            self.run.log({f"progress/{row['stage']}": done, f"rate/{row['stage']}": float(row["per_second"])})
        self.rows = len(rows)

    def finish(self) -> None:
        """Send the results and end the W&B run. W&B marks it as failed unless it was completed."""
        state = read_status(self.folder).get("state", "completed")
        # A run that was stopped while its pages were drawn has results, too.
        known = (self.folder / "metrics.json").exists()
        completed = known and (state == "completed" or self.has("metrics.json"))
        if completed:
            self.send_results()
        run, self.run = self.run, None
        run.summary["state"] = state if state != "running" else "failed"
        run.finish(exit_code=0 if state == "completed" else 1)
        self.note(sent=fingerprint(self.folder) if completed else None)

    def send_results(self) -> None:
        """Send the results. If the server is gone, send them again offline, because W&B then drops tables and files."""
        try:
            send(self.run, self.folder, self.state)
        except Exception as error:
            if self.run.settings.mode == "offline":
                raise
            self.fall_back(error)
            self.send_progress()
            send(self.run, self.folder, self.state)

    def note(self, **what: Any) -> None:
        """Update the state of the upload in wandb.json."""
        self.state |= what
        write_json(self.folder / NAME, self.state, indent=1)


def send(run: Any, folder: Path, state: dict[str, Any]) -> None:
    """Log a completed run. Metrics go first, because pictures and files are more likely to fail."""
    import wandb

    record = RunRecord.read(folder)
    known = ("targets", "classes", "weights", "device", "versions", "commit", "ranks", "protocol")
    about = {name: getattr(record, name) for name in known} | {"weights_note": record.note}
    run.config.update({"run": about}, allow_val_change=True)
    run.tags = (*(run.tags or ()), *labels(record))
    run.notes = record.note or ""
    run.summary.update(numbers(record))
    what = {"shots": record.shots, "seed": record.seed}
    row = what | options(folder) | record.metrics.flat_overall
    columns, rows = per_class(record)
    run.log(
        {
            "results": wandb.Table(columns=list(row), data=[list(row.values())]),
            "per_class": wandb.Table(columns=[*what, *columns], data=[[*what.values(), *values] for values in rows]),
        }
    )
    pictures: dict[str, Any] = {}
    if state["images"] and (targets := list(target_pictures(folder, record, state["images"]))):
        pictures["samples/targets"] = targets
    if state["images"] and (sheet := folder / "overlays" / REFERENCES).exists():
        pictures["samples/references"] = wandb.Image(Image.open(sheet), file_type="jpg", caption=record.note)
    if pictures:
        run.log(pictures)
    for name in state["artifacts"]:
        artifact = wandb.Artifact(f"{name}-{run.id}", type=name)
        files = [file for file in (folder / f"{name}.json", folder / f"{name}.json.gz") if file.exists()]
        if files:  # a run may keep no detections
            artifact.add_file(str(files[0]))
            run.log_artifact(artifact)


def target_pictures(folder: Path, record: RunRecord, limit: int) -> Iterator[Any]:
    """Evenly spaced pictures from the run's page, with masks and boxes as W&B layers.

    Without a page, the overlays as they are.
    """
    import wandb

    listed = read_json(folder / "report" / TARGETS)
    if listed is None:
        overlays = sorted(path for path in (folder / "overlays").rglob("*.jpg") if path.name != REFERENCES)
        for number in spread(range(len(overlays)), limit):
            yield wandb.Image(Image.open(overlays[int(number)]), file_type="jpg", caption=overlays[int(number)].stem)
        return
    chosen = [listed[int(number)] for number in spread(range(len(listed)), limit)]
    ids = class_ids({one["label"] for target in chosen for one in target["instances"]}, len(record.classes))
    names = {number: shown(record.classes[label]) for label, number in ids.items()}
    for target in chosen:
        pictures = []
        with harmless(f"{target['image']} for W&B"):
            pictures.append(target_picture(folder, record, target, ids, names))
        yield from pictures


def target_picture(
    folder: Path, record: RunRecord, target: dict[str, Any], ids: dict[int, int], names: dict[int, str]
) -> Any:
    """A picture of the run's page as a W&B image. target: its entry in targets.json."""
    import wandb

    picture = Image.open(folder / "report" / target["file"])
    masks, boxes = {}, {}
    parts = {"prediction": [one for one in target["instances"] if one["score"] is not None]}
    if record.instances:
        parts["ground truth"] = [one for one in target["instances"] if one["score"] is None]
    for layer, every in parts.items():
        known = [one for one in every if one["label"] in ids]
        masks[layer] = {"mask_data": label_map(known, ids, picture.size), "class_labels": names}
        scales = picture.width / target["size"][1], picture.height / target["size"][0]
        boxes[layer] = {"box_data": [box(one, ids, names, scales) for one in known], "class_labels": names}
    caption = f"{shown(target['image'])}  {record.note or ''}".strip()
    return wandb.Image(picture, file_type="jpg", caption=caption, masks=masks, boxes=boxes)


def label_map(shown: Sequence[dict[str, Any]], ids: dict[int, int], size: tuple[int, int]) -> np.ndarray:
    """Class ids u8 [H, W] of instances sorted by descending score. The highest score is on top; 0 is background."""
    canvas = np.zeros(size[::-1], dtype=np.uint8)
    for one in reversed(shown):
        if one["mask"]:
            mask = Image.fromarray(decode([one["mask"]])[0]).resize(size, Image.Resampling.NEAREST)
            canvas[np.asarray(mask)] = ids[one["label"]]
    return canvas


def box(one: dict[str, Any], ids: dict[int, int], names: dict[int, str], scales: Sequence[float]) -> dict[str, Any]:
    """A box in W&B's format, in pixels of the picture. scales: pixels of the picture per original pixel, in x and y."""
    x, y, w, h = (side * scale for side, scale in zip(one["box"], [*scales, *scales], strict=True))
    number = ids[one["label"]]
    position = {"minX": round(x), "maxX": round(x + w), "minY": round(y), "maxY": round(y + h)}
    sent = {"position": position, "domain": "pixel", "class_id": number, "box_caption": names[number]}
    if one["score"] is None:
        return sent
    return sent | {"box_caption": f"{names[number]} {one['score']:.2f}", "scores": {"score": one["score"]}}


def class_ids(present: set[int], classes: int) -> dict[int, int]:
    """A number from 1 for each class, or only for the present classes if there are too many. Shared by all pictures."""
    labels = range(classes) if classes <= MAX_IDS else sorted(present)[:MAX_IDS]
    return {label: number for number, label in enumerate(labels, start=1)}


def numbers(record: RunRecord) -> dict[str, Any]:
    """The W&B summary: all metrics, counts and seconds. Skips metrics without any instance.

    With more than MAX_IDS classes, their metrics are only in the table of classes: W&B is slow with many thousand keys.
    """
    counts = {name: getattr(record, name) for name in ("images", "instances", "detections")}
    seconds = {f"seconds/{name}": stage["seconds"] for name, stage in record.stages.items()}
    known = record.metrics.flat if len(record.classes) <= MAX_IDS else record.metrics.flat_overall
    metrics = {name: value for name, value in known.items() if value is not None}
    return metrics | counts | seconds | {"targets": record.targets, "weights_note": record.note or ""}


def labels(record: RunRecord) -> list[str]:
    """Tags of results that cannot be compared: synthetic images, a part of the targets, random or other weights."""
    tags = ["synthetic images"] if record.targets.startswith("SYNTHETIC") else []
    tags += [PARTIAL.lower()] if (record.note or "").startswith(PARTIAL) else []
    kinds = {source["kind"] for source in record.weights.values()}
    return tags + [f"{kind} weights" for kind in ("random", "other") if kind in kinds]


def options(folder: Path) -> dict[str, str]:
    """The option of each group, and `variant`: the overrides on the command line that can change results.

    Runs of one variant differ only in shots and seed. {} if Hydra left no record.
    """
    running = read_yaml(folder / ".hydra" / "hydra.yaml").get("hydra")
    if not running:
        return {}
    chosen, given = running["runtime"]["choices"], running["overrides"]["task"]
    names = [key_of(override) for override in given]
    # A recipe is part of the variant, because the settings it makes are not on the command line.
    matter = [name not in REPEATED and (matters(name) or name in RECIPES) for name in names]
    variant = " ".join(compress(given, matter)) or "default"
    return {group: str(chosen[group]) for group in FIRST if group in chosen and group != "shots"} | {"variant": variant}


def run_id(folder: Path) -> str:
    """The W&B run id of this experiment. It stays the same if the run is resumed in its folder or sent again."""
    path = folder / "wandb_id.txt"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def progress_of(folder: Path) -> list[dict[str, str]]:
    """The rows of progress.csv since the last start of the run."""
    started = read_status(folder).get("started", "")
    try:
        with (folder / "progress.csv").open(encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row["per_second"] and row["time"] >= started]
    except OSError:
        return []


def fingerprint(folder: Path) -> str:
    """A hash of a run's results. It differs for another run in the same folder."""
    path = folder / "metrics.json"
    return sha256(path) if path.exists() else "none"


def push(folder: Path) -> str:
    """Send a finished run unless it was sent already. Returns the outcome in one line.

    Sending again updates the same W&B run. Raises RefexpError if the run has not ended, or if W&B refuses it.
    """
    need_wandb()
    folder = folder.absolute()
    if is_running(folder):
        raise RefexpError(f"{folder}: the run has not ended yet. Use logger=wandb to send a run while it is running.")
    state = read_json(folder / NAME) or {}
    if state.get("sent") == fingerprint(folder) and not state["fault"]:
        if not state["kept"]:
            return f"{folder}: already sent, W&B run {run_id(folder)}"
        if os.environ.get("WANDB_MODE") == "offline" or state["mode"] == "offline" or not has_key():
            return f"{folder}: kept offline, W&B run {run_id(folder)}"
        synced = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", state["folder"]], capture_output=True, text=True, check=False
        )
        if synced.returncode:
            raise RefexpError(f"W&B: {(synced.stderr or synced.stdout).strip().splitlines()[-1]}")
        write_json(folder / NAME, state | {"kept": False}, indent=1)
        return f"{folder}: sent, W&B run {run_id(folder)}"
    reader = Reader(folder)
    reader.follow()
    if reader.state["fault"]:
        raise RefexpError(f"W&B: {reader.state['fault']}")
    return f"{folder}: {'kept offline' if reader.state['kept'] else 'sent'}, W&B run {run_id(folder)}"


def has_key() -> bool:
    """Whether W&B has an API key on this machine."""
    import wandb

    return bool(wandb.api.api_key)


def follow(folder: Path) -> int:
    """Follow a running run (`logger=wandb` starts this). Returns the exit code."""
    # A scheduler signals all processes of a job. The run handles the signal, and this process ends after the run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    reader = Reader(folder.absolute())
    reader.follow()
    return 1 if reader.state["fault"] else 0
