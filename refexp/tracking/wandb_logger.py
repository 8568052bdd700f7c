"""Weights & Biases (`logger=wandb`): what is sent of a run. The sending itself is done by wandb_process.py.

Tried with wandb 0.31 offline, and against a local server that answers its first calls; never against wandb.ai.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from itertools import compress
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pydantic import Field

import refexp
from refexp.errors import RefexpError
from refexp.files import write_text
from refexp.outcome import Outcome
from refexp.show.tables.settings import FIRST, RECIPES, matters
from refexp.tracking.base import State, overall, per_class
from refexp.tracking.wandb_pictures import references, targets

log = logging.getLogger(__name__)

RETRY_SECONDS = 600.0
"""How long after a failure the further runs of this process are kept offline without another try."""
STOPPED_SECONDS = 10.0
"""How long the end of a run may wait that was told to stop, and will be killed before long."""
REPEATED = ("seed", "shots", "shots.n")
"""What the runs of one variant differ in."""
COMMAND = (sys.executable, "-m", "refexp.tracking.wandb_process")


class WandbLogger:
    """One W&B run an experiment, started, fed and finished by a process of its own.

    mode: "auto" is online with a key, unless WANDB_MODE says otherwise. Where online is not possible the run is kept
    offline, and one line says how to send it; the next jobs of a multirun do not try for ten minutes. group: "auto" is
    the sweep's folder in a multirun. images: how many targets are sent. wait: seconds that the end of a run may take;
    what is not sent by then stays on disk. dir: where W&B's own files go; None is the run's folder.
    Raises RefexpError if wandb is not installed.
    """

    def __init__(
        self,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        project: str = "refexp",
        entity: str | None = None,
        group: str | None = "auto",
        job_type: str | None = None,
        tags: list[str] | None = None,
        artifacts: list[Literal["detections", "references"]] | None = None,
        images: Annotated[int, Field(ge=0)] = 8,
        wait: Annotated[float, Field(ge=3, allow_inf_nan=False)] = 60.0,
        dir: str | None = None,
    ) -> None:
        try:
            importlib.metadata.version("wandb")
        except importlib.metadata.PackageNotFoundError:
            raise RefexpError("logger=wandb needs a package that is not installed: pip install 'wandb>=0.31'") from None
        self.mode, self.project, self.entity, self.group, self.job_type = mode, project, entity, group, job_type
        self.tags, self.artifacts, self.images, self.wait, self.dir = tags or [], artifacts or [], images, wait, dir
        self.courier: Courier | None = None

    def start(self, config: dict[str, Any], output: Path) -> None:
        if self.mode == "disabled":
            return
        output = output.absolute()
        settings: dict[str, Any] = {
            "silent": True, "console": "off", "disable_git": True, "program": "main.py", "x_stats_pid": os.getpid(),
            "init_timeout": self.wait / 3, "finish_timeout": self.wait / 3, "finish_timeout_raises": True,
        }  # fmt: skip
        if time.monotonic() < _offline_until:
            settings["mode"] = "offline"
        elif self.mode != "auto":
            settings["mode"] = self.mode
        run = {
            "dir": str(Path(self.dir).absolute() if self.dir else output), "id": run_id(output), "resume": "allow",
            "name": "/".join(output.parts[-2:]), "project": self.project, "entity": self.entity,
            "group": sweep_name() if self.group == "auto" else self.group, "job_type": self.job_type,
            "tags": self.tags, "config": config | {"options": options()},
        }  # fmt: skip
        # Of single calls to the server: W&B makes some while it creates a table, and waits for them.
        self.courier = Courier({"WANDB_HTTP_TIMEOUT": str(max(1, round(self.wait / 12)))})
        self.courier.send("start", settings=settings, run=run)

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        if self.courier:
            self.courier.send("progress", values={f"progress/{stage}": done / total, f"rate/{stage}": rate})

    def results(self, outcome: Outcome) -> None:
        if not self.courier:
            return
        files = {name: str((outcome.output / f"{name}.json").absolute()) for name in self.artifacts}
        self.courier.send(
            "results",
            summary=numbers(outcome),
            config=provenance(outcome),
            notes=outcome.note,
            tags=labels(outcome),
            tables={"results": results_table(outcome), "per_class": class_table(outcome)},
            targets=targets(outcome, self.images) if self.images else [],
            references=references(outcome) if self.images else None,
            artifacts=files,
        )

    def finish(self, state: State) -> None:
        if self.courier:
            self.courier.finish(state, min(self.wait, STOPPED_SECONDS) if state == "stopped" else self.wait)


class Courier:
    """Hands messages to the process that talks to W&B, and its answers to the log. Sending never waits."""

    def __init__(self, environment: dict[str, str]) -> None:
        packages = str(Path(refexp.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
        # In a session of its own, for an interrupt at the terminal is not for it.
        self.process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | environment | {"PYTHONPATH": path},
        )  # fmt: skip
        self.messages: SimpleQueue[bytes | None] = SimpleQueue()
        self.folder: str | None = None
        self.faulty = False
        self.reader = threading.Thread(target=self._read, name="wandb answers", daemon=True)
        self.reader.start()
        threading.Thread(target=self._write, name="wandb messages", daemon=True).start()

    def send(self, do: str, **content: Any) -> None:
        self.messages.put(json.dumps({"do": do} | content).encode() + b"\n")

    def finish(self, state: State, seconds: float) -> None:
        """Wait until all is sent, or give up after this many seconds."""
        self.send("finish", state=state)
        self.messages.put(None)
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self._fault(f"not done after {seconds:g} s (logger.wait)")
            return
        self.reader.join(timeout=5)
        if code or not self.folder:
            self._fault(f"its process ended with code {code}")

    def _write(self) -> None:
        assert self.process.stdin
        try:
            while (message := self.messages.get()) is not None:
                self.process.stdin.write(message)
                self.process.stdin.flush()
            self.process.stdin.close()
        except OSError:  # it is gone, which `finish` tells
            pass

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            answer = json.loads(line)
            if "fault" in answer:
                self._fault(answer["fault"])
                continue
            self.folder = answer["folder"]
            if answer["offline"]:
                out_of_reach()
                self._tell(f"offline, {answer['offline']}", "it")
            elif answer["kept"]:
                log.info("W&B: kept offline; wandb sync %s sends it", self.folder)

    def _fault(self, what: str) -> None:
        """Only the first is told: others follow from it."""
        if not self.faulty:
            self.faulty = True
            self._tell(what, "what is there")

    def _tell(self, what: str, rest: str) -> None:
        """One line, with what a person can do."""
        remedy = f"wandb sync {self.folder} sends {rest}" if self.folder else "nothing of this run will be there"
        log.warning("W&B: %s; %s", what.strip().rstrip("."), remedy)


_offline_until = 0.0


def out_of_reach() -> None:
    """W&B could not be reached: of a multirun the next jobs need not wait for it, too."""
    global _offline_until
    _offline_until = time.monotonic() + RETRY_SECONDS


def run_id(output: Path) -> str:
    """W&B's name of this experiment: the same when it is taken up again in its folder."""
    path = output / "wandb_id.txt"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def sweep_name() -> str | None:
    """The folder of the multirun that this run is part of, without its path."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(str(HydraConfig.get().sweep.dir)).name


def options() -> dict[str, str]:
    """The option of each group, as on the command line, and what else was given there: the variant that is compared.

    Empty where there was no command line. Runs of one variant differ in shots and seed alone.
    """
    if not HydraConfig.initialized():
        return {}
    chosen, given = HydraConfig.get().runtime.choices, HydraConfig.get().overrides.task
    names = [override.split("=")[0].lstrip("+~") for override in given]
    # A recipe does make one: what it sets is not on the command line.
    matter = [name not in REPEATED and (matters(name) or name in RECIPES) for name in names]
    variant = " ".join(compress(given, matter)) or "default"
    return {group: str(chosen[group]) for group in FIRST if group in chosen and group != "shots"} | {"variant": variant}


def results_table(outcome: Outcome) -> dict[str, Any]:
    """One row: what was run, and its numbers. The dashboard's charts put the rows of many runs together."""
    row = {"shots": outcome.summary["shots"], "seed": outcome.summary["seed"]} | options() | overall(outcome.metrics)
    return {"columns": list(row), "rows": [list(row.values())]}


def class_table(outcome: Outcome) -> dict[str, Any]:
    """A row a class; shots and seed in each, for the same reason."""
    columns, rows = per_class(outcome)
    run = [outcome.summary["shots"], outcome.summary["seed"]]
    return {"columns": ["shots", "seed", *columns], "rows": [[*run, *row] for row in rows]}


def numbers(outcome: Outcome) -> dict[str, Any]:
    """The summary: every number of the run that is not of a single class; those without any instance are left out."""
    counts = {name: outcome.summary[name] for name in ("images", "instances", "detections")}
    seconds = {f"seconds/{name}": stage["seconds"] for name, stage in outcome.summary["stages"].items()}
    metrics = {name: value for name, value in overall(outcome.metrics).items() if value is not None}
    return metrics | counts | seconds | {"targets": outcome.summary["targets"], "weights_note": outcome.note or ""}


def provenance(outcome: Outcome) -> dict[str, Any]:
    """What the configuration does not say of the run, for W&B's copy of it."""
    known = ("targets", "classes", "weights", "device", "versions", "commit", "ranks")
    return {"run": {name: outcome.summary[name] for name in known} | {"weights_note": outcome.note}}


def labels(outcome: Outcome) -> list[str]:
    """Tags that tell numbers which mean nothing, or something else, from the others."""
    tags = ["synthetic images"] if outcome.summary["targets"].startswith("SYNTHETIC") else []
    kinds = {source["kind"] for source in outcome.summary["weights"].values()}
    return tags + [f"{kind} weights" for kind in ("random", "other") if kind in kinds]
