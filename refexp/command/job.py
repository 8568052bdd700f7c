"""The edge between a person's command line and the code: mistakes become one line, faults keep their traceback."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refexp.errors import JobFailed, RefexpError, first_line
from refexp.folders.status import Status
from refexp.machine.progress import watched
from refexp.rank import this_rank

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("refexp")

OUT_OF_MEMORY = (
    "out of memory ({error}). Turn down proposer.points_per_batch or encoder.batch, set precision=bfloat16, "
    "take a smaller network, or ask for more (on a cluster: hydra.launcher.mem_gb)."
)


def command_line(main: Callable[[], object]) -> int:
    """Run a Hydra application; the exit code is 0 only if everything went well."""
    # Hydra would shorten tracebacks and leave through sys.exit; errors are told apart here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from refexp.config.composing import explain, quoted

    sys.argv[1:] = [quoted(argument, multirun) for argument in sys.argv[1:]]
    try:
        with silent_rank() if this_rank().rank else nullcontext():
            main()
    except JobFailed:
        return 1  # `job` has told why
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command starts again", file=sys.stderr)
        return 130
    return 0


@contextmanager
def silent_rank() -> Iterator[None]:
    """Let Hydra write this rank's folders where they vanish, and nothing to the terminal: rank 0 does both."""
    with tempfile.TemporaryDirectory(prefix="refexp-rank-") as folder:
        quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
        sys.argv += [*quiet, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        yield


def run_job(config: DictConfig, output: Path, overrides: Sequence[str]) -> None:
    """One job: compute, then show; beside it the logger reads its folder, and once more when the job has ended."""
    with ExitStack() as afterwards, job(output, overrides):
        # They import torch, which --help need not wait for.
        from refexp.config.building import build
        from refexp.config.composing import resolve
        from refexp.experiment import run
        from refexp.show.run import Options, show_run
        from refexp.tracking.logger import reading

        settings = resolve(config)
        Options.of(settings)  # names a mistake before anything is computed
        afterwards.enter_context(reading(build(settings.get("logger"), "logger"), output))
        if finished := run(config, output):
            try:
                show_run(finished)
            except Exception as error:  # what was computed is complete, and a sweep must not compute it again
                log.error("the run is complete, but showing it failed: %s. Again: refexp show %s", error, output)
                log.debug("", exc_info=True)


@contextmanager
def job(output: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Keep `output`/status.json and log a failure at once; the other jobs of a multirun go on."""
    status = Status(output, overrides) if this_rank().rank == 0 else None
    if status is None:
        # What this rank has to say, rank 0 tells; PyTorch would add a trace where rank 0 leaves first.
        logging.getLogger().handlers = [logging.NullHandler()]
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with failing(), terminable(), watched(status.progress) if status else nullcontext():
            yield
    except JobFailed as error:
        if status:
            status.end("failed", str(error), error.__cause__)
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        # Hydra reports a failed job of a multirun only when all are done, and a single one with a line of its own.
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(1)
        raise
    except (SystemExit, KeyboardInterrupt):
        if status:
            status.end("stopped", "interrupted, preempted or out of time; started again it goes on from the store")
        raise
    if status:
        status.end("completed")


@contextmanager
def failing() -> Iterator[None]:
    """Log an exception as a person needs it and turn it into JobFailed."""
    try:
        yield
    except RefexpError as error:
        log.error("%s", error)
        raise JobFailed(str(error)) from error
    except Exception as error:
        message = first_line(error)
        if is_out_of_memory(error):
            message = OUT_OF_MEMORY.format(error=message)
            log.error("%s", message)
        else:
            log.exception("this job failed")
        raise JobFailed(f"{type(error).__name__}: {message}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or beside it (PyTorch says so with several kinds of error)."""
    known = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in known)


@contextmanager
def terminable() -> Iterator[None]:
    """Leave in good order on SIGTERM (scancel, torchrun when another rank died), unless someone else handles it."""
    free = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
