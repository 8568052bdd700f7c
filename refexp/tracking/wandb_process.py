"""The process that talks to Weights & Biases for a run: `python -m refexp.tracking.wandb_process`.

A process of its own, so that whatever happens to W&B, to its service or to the network can end it and not the run.
It takes one JSON message a line, `{"do": "start" | "progress" | "results" | "finish", ...}`, and answers likewise:
`folder`, `offline` (why online failed, or None) and `kept` (whether it is offline) once it has started, and `fault` for
what went wrong. It ends with its input, too.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from PIL import Image

from refexp.errors import first_line

Reply = Callable[..., None]


class Reporter:
    """One W&B run, from its start to its end; where the network fails, it is started again offline."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.run: wandb.Run | None = None

    def start(self, settings: dict[str, Any], run: dict[str, Any]) -> None:
        """Start a run online if asked for and possible, or else offline. settings: of W&B; run: arguments of init."""
        folder = Path(run["dir"])
        folder.mkdir(parents=True, exist_ok=True)
        # W&B takes a folder for temporary files where it cannot write, and nobody would find the run there.
        (folder / ".writable").write_text("?")
        (folder / ".writable").unlink()
        # Files on their way into artifacts belong to the run as well, not into the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))
        self.settings, self.arguments = settings, run
        try:
            self._begin()
        except Exception as error:
            self._fall_back(error)

    def progress(self, values: dict[str, float]) -> None:
        if self.run is not None:
            self.run.log(values)

    def results(self, **content: Any) -> None:
        """Log what came of the run. W&B asks its server about tables and artifacts, and keeps neither if it is gone."""
        if self.run is None:
            return
        try:
            report(self.run, **content)
        except Exception as error:
            if self.run.settings.mode == "offline":
                raise
            self._fall_back(error)
            report(self.run, **content)

    def _begin(self, why_offline: str | None = None) -> None:
        self.run = wandb.init(**self.arguments, settings=wandb.Settings(**self.settings))
        for name in ("progress/*", "rate/*"):
            self.run.define_metric(name, summary="none")
        folder = str(Path(self.run.settings.sync_dir).absolute())
        self.reply(folder=folder, offline=why_offline, kept=self.run.settings.mode == "offline")

    def _fall_back(self, error: Exception) -> None:
        """The same run once more, offline."""
        run, self.run = self.run, None
        if run is not None:
            with suppress(Exception):
                run.finish(exit_code=1)
        wandb.teardown()  # its service holds on to the run's id
        self.settings["mode"] = "offline"
        self._begin(first_line(error))

    def finish(self, state: str) -> None:
        """End the run; W&B counts it as failed unless it was completed."""
        run, self.run = self.run, None
        if run is not None:
            run.summary["state"] = state
            run.finish(exit_code=0 if state == "completed" else 1)


def report(
    run: wandb.Run,
    summary: dict[str, Any],
    config: dict[str, Any],
    notes: str | None,
    tags: list[str],
    tables: dict[str, dict[str, Any]],
    targets: list[dict[str, Any]],
    references: str | None,
    artifacts: dict[str, str],
) -> None:
    """Log a run's results: numbers first, for pictures and files may fail for reasons of their own."""
    run.config.update(config, allow_val_change=True)
    run.tags = (*(run.tags or ()), *tags)
    run.notes = notes or ""
    run.summary.update(summary)
    run.log({name: wandb.Table(columns=table["columns"], data=table["rows"]) for name, table in tables.items()})
    pictures: dict[str, Any] = {}
    if targets:
        pictures["samples/targets"] = [picture(target) for target in targets]
    if references:
        pictures["samples/references"] = wandb.Image(decode(references), file_type="jpg", caption=notes)
    if pictures:
        run.log(pictures)
    for name, path in artifacts.items():
        artifact = wandb.Artifact(f"{name}-{run.id}", type=name)
        artifact.add_file(path)
        run.log_artifact(artifact)


def picture(target: dict[str, Any]) -> wandb.Image:
    """A target with a mask and boxes for each layer (ground truth, prediction), to be shown and hidden by class."""
    masks, boxes = {}, {}
    for layer, shown in target["layers"].items():
        names = {int(number): name for number, name in shown["names"].items()}
        masks[layer] = {"mask_data": np.asarray(decode(shown["mask"])), "class_labels": names}
        boxes[layer] = {"box_data": shown["boxes"], "class_labels": names}
    return wandb.Image(
        decode(target["image"]), file_type="jpg", caption=target["caption"], masks=masks or None, boxes=boxes or None
    )


def decode(encoded: str) -> Image.Image:
    """A picture out of a message."""
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def main() -> None:
    """Take messages until the input ends."""
    # The standard output carries the answers alone; what W&B prints goes where the errors go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # A signal to all processes of a job is the run's to answer; this one ends with its input.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def reply(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    reporter = Reporter(reply)
    what = ""
    while what != "finish":
        # Without a last word the run was killed.
        line = sys.stdin.buffer.readline() or b'{"do": "finish", "state": "failed"}'
        message = json.loads(line)
        what = message.pop("do")
        try:
            getattr(reporter, what)(**message)
        except Exception as error:
            reply(fault=f"{what}: {first_line(error)}")


if __name__ == "__main__":
    main()
