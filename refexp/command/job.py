"""Run a job from the command line. User errors become one line; bugs keep their traceback."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refexp.command.saying import any_terminal, bug
from refexp.errors import JobFailed, RefexpError, first_line, reason
from refexp.folders.status import Status, run_log
from refexp.machine.progress import watched
from refexp.rank import this_rank

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("refexp")

IMPORTED = (
    "PIL", "click", "jinja2", "matplotlib", "numba", "numpy", "pandas", "pycocotools", "pydantic", "rich", "sam2",
    "scipy", "skimage", "submitit", "tifffile", "timm", "torch", "torchvision", "wandb", "xxhash",
)  # fmt: skip
"""Packages that refexp imports after Hydra."""
NO_PICTURES = {"limit": 0, "report": False}
"""Values of `vis` for the jobs of a multirun."""


def command_line(main: Callable[[], object]) -> int:
    """Run a Hydra application. Returns the exit code: 0 only if everything succeeded."""
    # Without this, Hydra shortens tracebacks and calls sys.exit, so the errors below would never arrive here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    any_terminal()
    if hidden := hidden_package():
        print(f"error: {hidden} hides the installed package {hidden.stem}: rename it.", file=sys.stderr)
        return 1
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    from refexp.config.composing import MISTAKES, explain, quoted

    try:
        sys.argv[1:] = [quoted(argument, multirun) for argument in sys.argv[1:]]
        with silent_rank() if this_rank().rank else nullcontext():
            main()
    except JobFailed:
        return 1  # `job` has logged the reason
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MISTAKES as error:
        print(f"error: {RefexpError(explain(error))}", file=sys.stderr)
        return 1
    except OSError as error:  # in a job it would be JobFailed: this is Hydra's folder
        kind = "sweep" if multirun else "run"
        print(f"error: cannot write {reason(error)}. Set another hydra.{kind}.dir.", file=sys.stderr)
        return 1
    except Exception as error:
        traceback.print_exc()
        print(f"error: {bug(error, 'these lines')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted. Run the same command again to resume.", file=sys.stderr)
        return 130
    return 0


def hidden_package() -> Path | None:
    """A folder or file beside main.py that Python would import instead of a package that refexp needs."""
    beside = Path(sys.path[0])
    for name in IMPORTED:
        for path in (beside / name / "__init__.py", beside / f"{name}.py"):
            if path.exists() and not (beside / "pip").exists():  # else it is the folder of the packages
                return path.parent if path.name == "__init__.py" else path
    return None


@contextmanager
def silent_rank() -> Iterator[None]:
    """Send this rank's Hydra folders to a temporary directory and turn its logging off, because rank 0 does both."""
    with tempfile.TemporaryDirectory(prefix="refexp-rank-") as folder:
        no_logging = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
        sys.argv += [*no_logging, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        yield


def run_job(config: DictConfig, output: Path, overrides: Sequence[str]) -> float | None:
    """Run one job: compute, then show. The logger reads the folder during the job and once after its end.

    A job of a multirun gets no page and no overlays: `refexp show` makes them. Returns the run's objective.
    """
    with ExitStack() as afterwards, job(output, overrides):
        # These import torch, which would slow down --help.
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from refexp.config.building import build
        from refexp.config.composing import resolve
        from refexp.experiment.run import run
        from refexp.machine.provenance import versions
        from refexp.show.run import Options, show_run
        from refexp.tracking.logger import reading

        run_log.info("command: %s", shlex.join(sys.orig_argv))
        run_log.info("overrides: %s", " ".join(overrides))
        run_log.info("versions: %s", ", ".join(f"{name} {version}" for name, version in versions().items()))
        settings = resolve(config)
        Options.of(settings)  # raises on a wrong option before anything is computed
        afterwards.enter_context(reading(build(settings.get("logger"), "logger"), output))
        with advising(settings):
            finished = run(config, output)
        if finished:
            try:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    show_run(finished, NO_PICTURES, "one line")
                else:
                    show_run(finished)
            except Exception as error:  # what was computed is complete, and a sweep must not compute it again
                why, again = reason(error).rstrip("."), f"Again: refexp show {output}"
                log.error("the run is complete, but showing it failed: %s. %s", why, again, exc_info=True)
        return finished.record.objective if finished else None


@contextmanager
def job(output: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Maintain `output`/status.json, and log a failure immediately. Other jobs of a multirun continue."""
    status: Status | None = None
    if this_rank().rank:
        # Rank 0 reports the errors of all ranks. PyTorch would print a C++ trace if rank 0 exits first.
        logging.getLogger().handlers = [logging.NullHandler()]
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with failing(), terminable():
            status = None if this_rank().rank else Status(output, overrides)
            with watched(status.progress) if status else nullcontext():
                yield
    except JobFailed as error:
        if status:
            status.end("failed", str(error), error.__cause__)
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        # For a single run, Hydra would print a second message. In a multirun, it handles JobFailed after the last job.
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(1)
        raise
    except (SystemExit, KeyboardInterrupt):
        if status:
            status.end("stopped", "interrupted, preempted or out of time. Run the same command again to resume.")
        raise
    if status:
        status.end("completed")


@contextmanager
def failing() -> Iterator[None]:
    """Log an exception and convert it to JobFailed. run.log also gets the traceback, unless it is a RefexpError."""
    try:
        yield
    except RefexpError as error:
        log.error("%s", error)
        raise JobFailed(str(error)) from error
    except OSError as error:  # a full disk, say
        log.error("%s", reason(error), exc_info=True)
        raise JobFailed(reason(error)) from error
    except Exception as error:
        log.error("%s", bug(error, "run.log"), exc_info=True)
        raise JobFailed(f"{type(error).__name__}: {first_line(error)}") from error


@contextmanager
def advising(settings: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, turn an error for lack of memory into a RefexpError that names what lowers the need."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        ways = ", ".join(thriftier(settings))
        more = "or request more memory (on a cluster: hydra.launcher.mem_gb)"
        raise RefexpError(f"out of memory ({first_line(error)}); {ways}, {more}.") from error


def thriftier(settings: Mapping[str, Any]) -> list[str]:
    """Return what lowers the need for memory, of what the components of this job offer."""
    import torch

    from refexp.machine.networks import has_half

    proposer, encoder = (settings.get(part) or {} for part in ("proposer", "encoder"))
    halves = torch.cuda.is_available() or has_half(torch.device("cpu"))
    ways = {
        "reduce proposer.points_per_batch": "points_per_batch" in proposer,
        "reduce encoder.batch": encoder.get("batch", 1) > 1,
        "set precision=bfloat16": "float32" in (proposer.get("precision"), encoder.get("precision")) and halves,
        "use a smaller network": "model" in proposer or "arch" in encoder,
        "use smaller images": True,
    }
    return [way for way, possible in ways.items() if possible]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU or the CPU ran out of memory. PyTorch raises several types of errors for this."""
    known = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in known)


@contextmanager
def terminable() -> Iterator[None]:
    """Exit cleanly on SIGTERM (from scancel, or from torchrun when another rank died), unless it has a handler."""
    free = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return

    asked: list[int] = []

    def leave(number: int, frame: Any) -> None:
        asked.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except Exception:
        if asked:  # code in C that calls Python may turn the exit into an error of its own, as NumPy does
            sys.exit(128 + asked[0])
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
