"""Loggers: what W&B's own files hold after an offline run, and that no fault of a logger reaches the run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from refexp.command.group import refexp
from refexp.config.building import build
from refexp.config.composing import resolve
from refexp.data.coco import Data, make_split
from refexp.errors import RefexpError
from refexp.folders.record import Metrics, RunRecord
from refexp.folders.run_folder import RunFolder, references_to_coco
from refexp.folders.status import Status, progress_text, read_status
from refexp.machine.progress import _with_watchers, track, watched
from refexp.masks import encode, to_json
from refexp.rank import Rank
from refexp.show.run import show_run
from refexp.tracking import wandb as wandb_logger
from refexp.tracking.csv import CsvLogger
from refexp.tracking.logger import Logger, reading
from refexp.tracking.wandb import WandbLogger, class_ids, label_map, options, push
from refexp.types import Detections

NOTE = "RANDOM WEIGHTS (encoder): the results of this run mean nothing."
CLASSES = ("ladybird", "leaf")
CONFIG = {"name": "run", "seed": 3, "stage": "all", "shots": {"n": 2}, "vis": {"score_threshold": 0.5}}


@pytest.fixture(scope="module")
def data(drawn) -> Data:
    splits = {}
    for name, (pictures, content) in drawn.items():
        by_id = {record["id"]: picture for record, picture in zip(content["images"], pictures, strict=True)}
        content = json.loads(json.dumps(content))
        splits[name] = make_split(content, name, CLASSES, lambda r, by_id=by_id: by_id[r["id"]], lambda r: "")
    return Data(CLASSES, splits["references"], splits["targets"])


@pytest.fixture(scope="module")
def shown(data, tmp_path_factory) -> Path:
    """A run that found everything, the best first, and one object too many of a score too low to be shown."""
    detections = []
    for image_id in data.targets.images:
        truth = [a for a in data.targets.annotations if a["image_id"] == image_id]
        labels = [data.targets.labels[a["category_id"]] for a in truth]
        scores = torch.linspace(0.9, 0.6, len(truth))
        masks = [data.targets.mask(a) for a in truth]
        extra = torch.tensor([0.1])
        detections.append(
            Detections(image_id, torch.tensor([*labels, 0]), torch.cat([scores, extra]), [*masks, masks[0]])
        )
    split = data.references
    of_label = [[a for a in split.annotations if split.labels[a["category_id"]] == k][:2] for k in (0, 1)]
    references = [[split.reference(a) for a in per_class] for per_class in of_label]
    metrics = {"bbox/nAP": 0.5, "bbox/nAP50": 0.75, "bbox/nAP_large": None, "segm/nAP": 0.25}
    metrics |= {
        f"{kind}/{number}/{name}": value
        for kind, number in (("bbox", "nAP"), ("bbox", "nAP50"), ("segm", "nAP"), ("segm", "nAP50"))
        for name, value in (("ladybird", 0.4), ("leaf", None))
    }
    record = RunRecord(
        config=CONFIG, targets="SYNTHETIC targets", seed=3, shots=2, classes=CLASSES, images=4, instances=9,
        detections=13, metrics=Metrics.from_flat(metrics), note=NOTE, device="cpu", commit="abc",
        references=dict.fromkeys(CLASSES, 2), peak_memory_mib={"process": 100.0},
        weights={"encoder": {"origin": "RANDOM weights", "kind": "random", "file": None, "sha256": None}},
        stages={"detect": {"seconds": 1.5, "items": 4, "per_second": 2.7}},
    )  # fmt: skip
    output = tmp_path_factory.mktemp("run") / "name" / "now"
    run = RunFolder(output)
    run.begin(CONFIG, references_to_coco(references, data), NOTE)
    run.write_detections(detections, data)
    run.write_record(record)
    show_run(run)
    return output


@pytest.fixture
def folder_of(shown, tmp_path):
    """`folder_of(name)` -> a copy of the run's folder that a test may spoil."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(shown, tmp_path / name / "now"))

    return copy


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """No key and no address of a real server, whatever this machine has."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    patch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(wandb_logger, "_offline_until", 0.0)


def records(folder: Path) -> list:
    """What W&B's own file of a run holds: LevelDB's log format around protocol buffers."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # W&B's service writes the end of a file of this process only when it stops
    (path,) = folder.glob("*.wandb")
    data, block, found, whole = path.read_bytes(), 32768, [], b""
    assert data[:4] == b":W&B"
    at = 7
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or the last piece of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


def tell(logger: Logger, folder: Path, state: str = "completed") -> None:
    """A run in this folder, whose files are there already, from its start to its end."""
    with reading(logger, folder):
        status = Status(folder, [])
        os.utime(folder / "config.yaml")
        with watched(status.progress):
            for _ in track(range(4), 4, "targets"):
                pass
        status.end(state, None if state == "completed" else "why")


def gathered(folder: Path) -> dict:
    """Config, summary, history, tags and notes of a run, put together from the records of W&B's own file."""
    run = {"config": {}, "summary": {}, "history": [], "tags": set(), "notes": "", "artifacts": {}, "exit": None}
    for record in records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["tags"], run["notes"] = set(record.run.tags), record.run.notes
            run["group"], run["job_type"] = record.run.run_group, record.run.job_type
            updates = record.run.config.update
            run["config"] |= {item.key: json.loads(item.value_json) for item in updates}
        elif kind == "config":
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        elif kind == "summary":
            run["summary"] |= {named(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "history":
            run["history"].append({named(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "artifact":
            run["artifacts"][record.artifact.type] = [entry.path for entry in record.artifact.manifest.contents]
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
    return run


def named(item) -> str:
    return item.key or "|".join(item.nested_key)


@pytest.fixture(scope="module")
def offline(shown, tmp_path_factory) -> Path:
    """The folder of a W&B run that was kept offline."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("wandb"))
        tell(WandbLogger(mode="offline", artifacts=["detections", "references"], tags=["mine"], group="mine"), shown)
    (folder,) = (shown / "wandb").glob("offline-run-*")
    return folder


def test_offline_run_holds_configuration_numbers_and_progress(offline):
    run = gathered(offline)
    assert {name: run["config"][name] for name in CONFIG} == CONFIG
    assert run["config"]["run"]["targets"] == run["summary"]["targets"] == "SYNTHETIC targets"
    numbers = {name: value for name, value in run["summary"].items() if name.startswith(("bbox", "segm"))}
    of_class = {f"{kind}/{name}/ladybird": 0.4 for kind in ("bbox", "segm") for name in ("nAP", "nAP50")}
    assert numbers == {"bbox/nAP": 0.5, "bbox/nAP50": 0.75, "segm/nAP": 0.25} | of_class
    assert (run["exit"], run["summary"]["state"], run["group"]) == (0, "completed", "mine")
    assert any(row.get("progress/targets") == 1 and row["rate/targets"] > 0 for row in run["history"])


def test_offline_run_says_that_weights_are_random_and_images_synthetic(offline):
    run = gathered(offline)
    assert run["tags"] == {"mine", "random weights", "synthetic images"}
    assert run["notes"] == run["summary"]["weights_note"] == run["config"]["run"]["weights_note"] == NOTE


def test_offline_run_holds_the_table_of_classes(offline):
    (path,) = offline.glob("files/media/table/per_class*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == [
        "shots",
        "seed",
        "class",
        "references",
        "bbox/nAP",
        "bbox/nAP50",
        "segm/nAP",
        "segm/nAP50",
    ]
    assert table["data"] == [[2, 3, "ladybird", 2, *[0.4] * 4], [2, 3, "leaf", 2, *[None] * 4]]


def test_offline_run_holds_pictures_with_masks_and_boxes(offline, data):
    media = offline / "files" / "media"
    pictures = sorted((media / "images" / "samples").glob("targets_*.jpg"))
    assert len(pictures) == 4
    assert len(list((media / "images" / "samples").glob("references_*.jpg"))) == 1
    (row,) = [row for row in gathered(offline)["history"] if "samples/targets|filenames" in row]
    first = row["samples/targets|all_masks"][0]
    size = data.targets.read(data.targets.images[1]).shape[:2]
    painted = {layer: np.asarray(Image.open(offline / "files" / mask["path"])) for layer, mask in first.items()}
    annotations = [a for a in data.targets.annotations if a["image_id"] == 1]
    numbers = {data.targets.labels[a["category_id"]] + 1 for a in annotations}
    for layer, mask in painted.items():
        assert mask.shape == size, layer
        assert set(np.unique(mask)) == {0, *numbers}, layer
    boxes = {
        layer: json.loads((offline / "files" / entry["path"]).read_text())["box_data"]
        for layer, entry in row["samples/targets|all_boxes"][0].items()
    }
    assert [len(boxes[layer]) for layer in ("ground truth", "prediction")] == [len(annotations)] * 2
    x, y, w, h = annotations[0]["bbox"]
    assert boxes["ground truth"][0]["position"] == {
        "minX": round(x), "maxX": round(x + w), "minY": round(y), "maxY": round(y + h),
    }  # fmt: skip
    assert boxes["prediction"][0]["scores"]["score"] == pytest.approx(0.9)
    # W&B names classes once for all pictures of a layer: each picture must bring all names.
    named_once = gathered(offline)["config"]["_wandb"]["mask/class_labels"]
    assert all(layer["value"] == {"1": "ladybird", "2": "leaf"} for layer in named_once.values())


def test_the_best_is_painted_on_top():
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, :, :4] = masks[1, :, 2:] = True
    shown = [{"label": label, "mask": to_json(mask)} for label, mask in zip((7, 9), encode(masks), strict=True)]
    assert label_map(shown, {7: 1, 9: 2}, (6, 4))[0].tolist() == [1, 1, 1, 1, 2, 2]


def test_many_classes_share_the_numbers_that_a_mask_has():
    assert class_ids({500, 3}, 1203) == {3: 1, 500: 2}
    assert class_ids({1}, 3) == {0: 1, 1: 2, 2: 3}


def test_offline_run_holds_the_files_that_were_asked_for(offline):
    artifacts = gathered(offline)["artifacts"]
    assert (artifacts["detections"], artifacts["references"]) == (["detections.json"], ["references.json"])


def warnings_of(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def test_without_a_key_the_same_experiment_goes_on_offline(offline, shown, folder_of, caplog):
    folder = folder_of("again")
    (before,) = (folder / "wandb").glob("offline-run-*")
    tell(WandbLogger(), folder)  # a second time in the same folder
    (again,) = set((folder / "wandb").glob("offline-run-*")) - {before}
    assert again.name.split("-")[-1] == offline.name.split("-")[-1]
    assert gathered(again)["summary"]["bbox/nAP"] == 0.5
    assert warnings_of(caplog) == [
        f"W&B: offline, No API key configured. Use `wandb login` to log in; wandb sync {again} sends it"
    ]


def test_push_sends_a_finished_run_once(folder_of, offline, monkeypatch):
    """A run of logger=none: pushed, it holds what logger=wandb leaves; pushed again, it is the same W&B run."""
    folder = folder_of("push")
    shutil.rmtree(folder / "wandb")
    for name in ("wandb.json", "wandb_id.txt"):
        (folder / name).unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")  # of an outer program
    first, second = (CliRunner().invoke(refexp, ["push", str(folder)]) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    (kept,) = (folder / "wandb").glob("offline-run-*")
    id_ = (folder / "wandb_id.txt").read_text().strip()
    assert kept.name.endswith(f"-{id_}")
    assert f"kept offline, W&B run {id_}wandb sync {kept} sends it" in first.output.replace("\n", "")
    assert f"kept offline, W&B run {id_}" in second.output.replace("\n", "")
    followed, pushed = gathered(offline), gathered(kept)
    assert (pushed["notes"], pushed["exit"]) == (followed["notes"], followed["exit"])
    numbers = [
        {k: v for k, v in run["summary"].items() if k.startswith(("bbox", "segm"))} for run in (followed, pushed)
    ]
    assert numbers[0] == numbers[1]
    assert pushed["tags"] == followed["tags"] - {"mine"}
    rows = [[row for row in run["history"] if "progress/targets" in row] for run in (followed, pushed)]
    assert [row["progress/targets"] for row in rows[0]] == [row["progress/targets"] for row in rows[1]] == [1]
    media = [sorted(path.name.rsplit("_", 1)[0] for path in run.glob("files/media/**/*.*")) for run in (offline, kept)]
    assert media[0] == media[1]


def test_a_run_that_goes_on_is_not_pushed(folder_of):
    folder = folder_of("running")
    Status(folder, [])
    with pytest.raises(RefexpError, match="has not ended yet"):
        push(folder)


class Server(ThreadingHTTPServer):
    """Answers W&B's first calls and dies with the first report of progress."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.begun: list[str] = []
        self.died = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def die(self) -> None:
        """Stop listening; from a handler only another thread may wait for that."""

        def close() -> None:
            self.shutdown()
            self.server_close()
            self.died.set()

        threading.Thread(target=close, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}", "WANDB_API_KEY": "0" * 40}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length", 0)))
        if "file_stream" in self.path:
            self.server.die()
            self.close_connection = True
            return
        self.server.begun.append(self.path)
        name = json.loads(asked)["variables"].get("name", "?")
        project = {"id": "1", "name": "refexp", "entity": {"id": "1", "name": "someone"}}
        bucket = {"id": "1", "name": name, "displayName": name, "project": project, "historyLineCount": 0}
        answer = json.dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()


def test_the_network_dies_and_the_experiment_does_not(server, command, folder, tmp_path, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "run"
    done = command(*folder.overrides(output), f"store.dir={tmp_path / 'store'}", "logger=wandb", "logger.wait=48")
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.begun, done.stdout
    assert server.died.wait(10)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "W&B" in line]
    (kept,) = (output / "wandb").glob("offline-run-*")
    assert len(lines) == 1, lines
    assert "W&B: offline, " in lines[0]
    assert f"wandb sync {kept}" in lines[0]
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    assert (output / "detections.json").exists()
    assert json.loads((output / "status.json").read_text())["state"] == "completed"
    assert gathered(kept)["summary"]["segm/nAP"] == metrics["segm/nAP"]
    chosen = gathered(kept)["config"]["options"]
    assert (chosen["matcher"], chosen["proposer"], "proposer=oracle" in chosen["variant"]) == (
        "prototype",
        "oracle",
        True,
    )
    (path,) = kept.glob("files/media/table/per_class*.json")
    table = json.loads(path.read_text())
    assert {row[table["columns"].index("shots")] for row in table["data"]} == {1}


def variant(folder: Path, *given: str) -> str:
    """What a run is, of this command line."""
    running = {"hydra": {"runtime": {"choices": {}}, "overrides": {"task": list(given)}}}
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump(running))
    return options(folder)["variant"]


def test_one_line_sends_the_whole_sweep(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "sweep.json").write_text("{}")
    for job in ("0", "1"):
        kept = {"kept": True, "offline": None, "dir": None, "folder": str(tmp_path / job / "wandb" / "offline-run-1-x")}
        (tmp_path / job).mkdir()
        (tmp_path / job / "wandb.json").write_text(json.dumps(kept))
        wandb_logger.report_upload(tmp_path / job)
    (line,) = caplog.messages
    assert f"wandb sync {tmp_path}/*/wandb/offline-run-* sends all runs" in line


def test_a_variant_is_all_that_tells_methods_apart(tmp_path):
    given = ["shots='5'", "shots.n=5", "seed=1", "vis.limit=0", "hydra/launcher=slurm", "logger=wandb", "store.dir=x"]
    given += ["evaluation.diagnostics=true", "shots.valid=any", "matcher=prototype", "storeroom=1"]
    assert variant(tmp_path, *given) == "shots.valid=any matcher=prototype storeroom=1"


def test_a_variant_is_what_a_table_of_runs_would_not_average(tmp_path):
    assert variant(tmp_path, "store.dtype=float16", "seed=1") == "store.dtype=float16"
    idle = ["evaluation.engine=pycocotools", "evaluation.confusion_threshold=0.3", "summary=json", "masks=true"]
    assert variant(tmp_path, *idle) == "default"
    # What these set, the command line does not say.
    assert variant(tmp_path, "experiment=lvis", "task=evaluate") == "experiment=lvis task=evaluate"


def test_a_network_that_was_never_there(folder_of, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    tell(WandbLogger(mode="online", wait=30, dir=str(tmp_path)), folder_of("first"))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert gathered(folder)["summary"]["bbox/nAP"] == 0.5
    (line,) = warnings_of(caplog)
    assert line.startswith("W&B: offline, ")
    assert f"wandb sync {folder}" in line
    caplog.clear()
    caplog.set_level("INFO")
    tell(WandbLogger(mode="online", wait=30, dir=str(tmp_path / "next")), folder_of("second"))  # which does not try
    (folder,) = (tmp_path / "next/wandb").glob("offline-run-*")
    assert f"W&B: kept offline; wandb sync {folder} sends it" in caplog.messages
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("code", "wait", "says"),
    [("import time; time.sleep(600)", 3, "not finished after 3 s"), ("raise SystemExit(3)", 30, "ended with code 3")],
    ids=["hangs", "dies"],
)
def test_the_process_of_wandb_fails(folder_of, monkeypatch, caplog, code, wait, says):
    monkeypatch.setattr(wandb_logger, "COMMAND", (sys.executable, "-c", code))
    tell(WandbLogger(wait=wait), folder_of("run"))
    (line,) = warnings_of(caplog)
    assert says in line


def test_the_disk_is_full_for_wandb(folder_of, monkeypatch, caplog, tmp_path):
    # No file may grow beyond 4 KiB: the error is another than on a full disk, its way is the same.
    command = f'ulimit -f 4; exec {sys.executable} -m refexp push --follow "$0"'
    monkeypatch.setattr(wandb_logger, "COMMAND", ("bash", "-c", command))
    tell(WandbLogger(mode="offline", wait=30, dir=str(tmp_path)), folder_of("run"))
    (line,) = warnings_of(caplog)
    assert line.startswith("W&B: ")


def test_wandb_is_not_installed(monkeypatch, configure):
    def version(name: str) -> str:
        raise wandb_logger.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(wandb_logger.importlib.metadata, "version", version)
    with pytest.raises(RefexpError, match="pip install 'wandb"):
        build(resolve(configure("logger=wandb"))["logger"], "logger")


def test_configuration_of_the_loggers(configure):
    kinds = {name: build(resolve(configure(f"logger={name}"))["logger"], "logger") for name in ("none", "csv", "wandb")}
    assert [type(kind) for kind in kinds.values()] == [Logger, CsvLogger, WandbLogger]
    settings = kinds["wandb"].settings
    assert (settings["mode"], settings["project"], settings["job_type"]) == ("auto", "refexp", "all")
    with pytest.raises(RefexpError, match=r"logger\.mode='sometimes'"):
        build(resolve(configure("logger=wandb", "logger.mode=sometimes"))["logger"], "logger")


def test_csv(folder_of):
    folder = folder_of("run")
    (folder / "progress.csv").unlink()
    for _ in range(2):
        tell(CsvLogger(), folder)
    tables = {path.stem: list(csv.DictReader(path.open())) for path in folder.glob("*.csv")}
    assert [(row["stage"], row["done"], row["total"]) for row in tables["progress"]] == [("targets", "4", "4")] * 2
    (row,) = tables["metrics"]
    assert (row["shots"], row["seed"], row["bbox/nAP50"], row["bbox/nAP_large"]) == ("2", "3", "0.75", "")
    assert row["weights_note"] == NOTE
    assert [(row["class"], row["segm/nAP"]) for row in tables["per_class"]] == [("ladybird", "0.4"), ("leaf", "")]


def test_the_disk_is_full_for_csv(folder_of, caplog):
    folder = folder_of("run")
    (folder / "progress.csv").unlink()
    (folder / "progress.csv").symlink_to("/dev/full")
    tell(CsvLogger(), folder)
    (line,) = warnings_of(caplog)
    assert "No space left" in line
    assert (folder / "metrics.csv").exists()


class Noted(Logger):
    """Remembers what it saw, and fails where it is to."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, []

    def start(self, folder):
        self._note("start")

    def finish(self, folder):
        self._note(read_status(folder)["state"])

    def _note(self, what: str) -> None:
        self.calls.append(what)
        if what == self.fails:
            raise OSError(f"no {what}")


@pytest.mark.parametrize("fails", ["start", "completed"])
def test_a_logger_that_fails_is_left_alone(folder_of, caplog, fails):
    logger = Noted(fails)
    tell(logger, folder_of("run"))
    expected = ["start", "completed"]
    assert logger.calls == expected[: expected.index(fails) + 1]
    (line,) = warnings_of(caplog)
    assert f"no {fails}" in line


@pytest.mark.parametrize(("error", "state"), [(SystemExit, "stopped"), (OSError, "failed")])
def test_a_run_that_ends_early(error, state, tmp_path, monkeypatch):
    """The logger sees how, once the job has said so."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from refexp.command.job import job
    from refexp.errors import JobFailed

    monkeypatch.setattr(HydraConfig, "get", lambda: type("Running", (), {"mode": RunMode.MULTIRUN}))
    logger = Noted()
    with pytest.raises((error, JobFailed)), reading(logger, tmp_path), job(tmp_path, []):
        raise error
    assert logger.calls == ["start", state]


def test_only_the_first_rank_has_a_logger(monkeypatch, tmp_path):
    monkeypatch.setattr("refexp.tracking.logger.this_rank", lambda: Rank(rank=1, world_size=2))
    logger = Noted()
    with reading(logger, tmp_path):
        pass
    assert logger.calls == []


def test_status_says_how_far_a_job_is(tmp_path):
    status = Status(tmp_path, [])
    assert progress_text(read_status(tmp_path)) == ""
    status.progress("targets", 120, 5000, 2.0)
    assert progress_text(read_status(tmp_path)) == "targets 120/5000, 2.00/s, 41 min left"


def test_progress_is_told_every_few_seconds_only(monkeypatch, tmp_path):
    clock = iter(range(100))  # a second an item
    monkeypatch.setattr("refexp.machine.progress.time.monotonic", lambda: next(clock))
    seen = []
    with watched(lambda *told: seen.append(told)):
        list(_with_watchers(range(8), 8, "targets"))
    assert [(what, done, total, rate) for what, done, total, rate in seen] == [
        ("targets", 3, 8, 1.0), ("targets", 6, 8, 1.0), ("targets", 8, 8, 1.0),
    ]  # fmt: skip


def test_a_run_that_was_stopped_after_its_results_is_pushed_with_them(folder_of, monkeypatch):
    folder = folder_of("stopped")
    for name in ("wandb.json", "wandb_id.txt"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "wandb", ignore_errors=True)
    Status(folder, []).end("stopped", "interrupted")
    os.utime(folder / "config.yaml")
    os.utime(folder / "metrics.json")
    monkeypatch.setenv("WANDB_MODE", "offline")
    push(folder)
    (kept,) = (folder / "wandb").glob("offline-run-*")
    run = gathered(kept)
    assert (run["summary"]["bbox/nAP"], run["summary"]["state"], run["exit"]) == (0.5, "stopped", 1)


def test_push_goes_on_after_a_folder_without_a_run(folder_of, tmp_path, monkeypatch):
    folder = folder_of("good")
    (tmp_path / "bad").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = CliRunner().invoke(refexp, ["push", str(tmp_path / "bad"), str(folder)])
    assert done.exit_code == 1 and "has no finished run" in done.output
    assert "W&B run" in done.output


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "of"), ("WANDB_SILENT", "maybe")])
def test_a_variable_that_wandb_refuses_is_named_before_the_run(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(RefexpError, match=f"{name}='{value}': Input should be .*: unset {name}, or correct it"):
        build({"_target_": "refexp.tracking.wandb.WandbLogger"}, "logger")


def test_variables_that_would_join_runs_are_ignored(monkeypatch, caplog):
    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    WandbLogger()
    assert "WANDB_RUN_ID, WANDB_SWEEP_ID ignored: each run of refexp is a W&B run of its own" in caplog.text
