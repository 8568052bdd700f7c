"""How a job ends: what the user is told, and what run.log keeps."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import refexp

from refexp.command.job import advising, failing, hidden_package, terminable
from refexp.command.saying import OneLine, any_terminal
from refexp.config.composing import resolve
from refexp.errors import JobFailed, RefexpError
from refexp.folders.status import Status, unfinished
from refexp.machine import networks
from refexp.machine.processes import identity

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize("error", [GPU, CPU, MemoryError()])
@pytest.mark.parametrize(
    ("overrides", "told", "not_told"),
    [
        (["proposer=sam2_hiera_l", "encoder=dinov2_vitl14"], "proposer.points_per_batch, set precision", "batch, e"),
        (["proposer=sam2_hiera_l", "precision=bfloat16"], "use a smaller network", "bfloat16"),
        (["encoder=dinov2_vitl14", "encoder.batch=4"], "reduce encoder.batch", "points_per_batch"),
        (["proposer=oracle"], "use smaller images, or request more memory", "points_per_batch"),
        ([], "use smaller images, or request more memory", "network"),
    ],
)
def test_out_of_memory_names_what_this_job_can_turn_down(error, overrides, told, not_told, configure, monkeypatch):
    monkeypatch.setattr(networks, "has_half", lambda device: True)
    settings = resolve(configure(*overrides))
    with pytest.raises(RefexpError) as failed, advising(settings):
        raise error
    said = str(failed.value)
    assert said.startswith("out of memory (") and told in said and not_told not in said


def test_other_errors_get_no_advice():
    with pytest.raises(RuntimeError, match="shapes"), advising({}):
        raise RuntimeError("shapes do not match")


@pytest.fixture
def terminal():
    """What the console and run.log get."""
    screen, file = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(screen), logging.StreamHandler(file)]
    handlers[0].setFormatter(OneLine("%(levelname)s: %(message)s"))
    for handler in handlers:
        logging.getLogger("refexp").addHandler(handler)
    yield lambda: (screen.getvalue(), file.getvalue())
    for handler in handlers:
        logging.getLogger("refexp").removeHandler(handler)


def test_a_bug_is_one_line_and_its_traceback_is_kept(terminal):
    with pytest.raises(JobFailed, match="ValueError: Input cfg"), failing():
        resolve(7)
    screen, file = terminal()
    assert screen.count("\n") == 1 and "Traceback (most recent call last)" in file
    assert "a bug of refexp: report it with run.log to the maintainers of refexp (refexp 0" in screen
    assert f"torch {torch.__version__.split('+')[0]}" in screen and "(composing.py, line " in screen


def test_code_of_others_is_no_bug_of_refexp(terminal):
    with pytest.raises(JobFailed), failing():
        raise RuntimeError("my encoder")
    assert "(test_job.py, line " in terminal()[0] and "not part of refexp: look at run.log" in terminal()[0]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "out/detections.json"), "out/detections.json: No space left on device"),
        (RefexpError("a\nb: c"), "a\\nb: c"),
    ],
)
def test_what_is_no_bug_is_not_called_one(error, line, terminal):
    with pytest.raises(JobFailed), failing():
        raise error
    assert terminal()[0] == f"ERROR: {line}\n"


def test_a_terminal_without_utf_8_gets_every_line(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.raises(UnicodeEncodeError):
        print("猫")
    any_terminal()
    print("猫 \ud83d Käfer")
    screen.flush()
    assert screen.buffer.getvalue().decode("latin-1").endswith("\\u732b \\ud83d Käfer\n")


def test_a_bug_in_a_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr("refexp.command.listing.own_conf", lambda: 1 / 0)
    assert refexp("ls") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback") and said[-1].startswith("error: ZeroDivisionError: ")


def test_an_exit_that_code_in_c_turns_into_an_error_is_still_an_exit():
    def swallowing() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except SystemExit:
            raise TypeError("__array__() got an unexpected keyword argument") from None

    with pytest.raises(SystemExit) as exit_, terminable():
        swallowing()
    assert exit_.value.code == 128 + signal.SIGTERM
    with pytest.raises(TypeError), terminable():
        raise TypeError


@pytest.mark.parametrize("made", ["sam2/__init__.py", "numpy.py"])
def test_a_folder_beside_main_that_hides_a_package_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "wandb").mkdir()  # of W&B itself: without __init__.py it hides nothing
    assert hidden_package() is None
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).touch()
    assert hidden_package() == tmp_path / made.removesuffix("/__init__.py")


def test_a_second_run_in_a_folder_is_refused(tmp_path, command):
    """The results of both would mix. Once the first is gone, the second may go on."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        Status(tmp_path / "run", ["seed=7"])
        status = json.loads((tmp_path / "run/status.json").read_text())
        status |= {"pid": other.pid, "process": identity(other.pid)}
        (tmp_path / "run/status.json").write_text(json.dumps(status))
        done = command(f"hydra.run.dir={tmp_path / 'run'}")
        other.communicate(b"\n")
    said = f"ERROR: {tmp_path / 'run'}: process {other.pid} still runs here; set another hydra.run.dir."
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (1, [said], "")
    assert json.loads((tmp_path / "run/status.json").read_text()) == status
    assert Status(tmp_path / "run", []).content["state"] == "running"
    (tmp_path / "run/status.json").write_text(
        json.dumps(status | {"pid": os.getppid()})
    )  # the number of another program
    Status(tmp_path / "run", []).end("completed")
    assert unfinished(tmp_path / "run") == ""


def test_a_run_that_is_not_finished_is_not_shown(tmp_path, capsys):
    status = Status(tmp_path, [])
    assert unfinished(tmp_path / "elsewhere") == "" and unfinished(tmp_path) == "this run still runs."
    status.end("failed", "no such class.")
    assert refexp("show", tmp_path) == 1
    said = (
        f"error: {tmp_path}: this run is not finished: no such class. Its command, given again, starts or resumes it."
    )
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
