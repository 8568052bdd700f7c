"""The edge between a person's command line and the code: mistakes become one line, faults keep their traceback."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refexp.errors import RefexpError, did_you_mean, first_line
from refexp.progress import watched
from refexp.rank import this_rank
from refexp.status import Status

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("refexp")

OUT_OF_MEMORY = (
    "out of memory ({error}). Turn down proposer.points_per_batch or encoder.batch, set precision=bfloat16, "
    "take a smaller network, or ask for more (on a cluster: hydra.launcher.mem_gb)."
)


class JobFailed(Exception):
    """A job failed, and its log says why."""


def wait_briefly() -> None:
    """Shorten the loops in which this process's threads wait for each other. To be called before torch is imported.

    Threads of a small convolution wait for each other by spinning. On a core that another job wants too, they then spin
    for whole time slices: two runs on one machine took 3 to 20 times as long.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def command_line(main: Callable[[], object]) -> int:
    """Run a Hydra application; the exit code is 0 only if everything went well."""
    # Hydra would shorten tracebacks and leave through sys.exit; errors are told apart here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    multirun = bool({"-m", "--multirun"} & set(sys.argv))
    sys.argv[1:] = [quoted(argument, multirun) for argument in sys.argv[1:]]
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

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


PATH_KEYS = re.compile(
    r"(\+{0,2}(?:(?:dataset\.)?(?:images|references|reference_images|targets)|sampler\.path|data_root"
    r"|(?:checkpoints|store)\.dir|hydra\.(?:run|sweep)\.dir))=(.+)"
)
NOT_PLAIN = re.compile(r"""^['"]|\$|\\$|^null$|^\?\?\?$""")
"""What is quoted already, refers to another key, or is no path."""


def quoted(argument: str, multirun: bool = False) -> str:
    """An argument as Hydra has to be given it, which takes a bare 1 for a number, and no bracket or ~ for a path.

    `shots=1,10` -> `shots='1','10'`; `images=my photos (1)` -> `images='my photos (1)'`. multirun: commas separate
    values.
    """
    if shots := re.fullmatch(r"shots=(\d+(?:,\d+)*)", argument):
        return "shots=" + ",".join(f"'{number}'" for number in shots[1].split(","))
    path = PATH_KEYS.fullmatch(argument)
    if path is None or NOT_PLAIN.search(path[2]) or (multirun and "," in path[2]):
        return argument
    value = str(Path(path[2]).expanduser()) if path[2].startswith("~") else path[2]
    return "{}='{}'".format(path[1], value.replace("'", r"\'"))


def run_job(config: DictConfig, output: Path, overrides: Sequence[str]) -> None:
    """One job: compute, then show; beside it the logger reads its folder, and once more when the job has ended."""
    with ExitStack() as afterwards, job(output, overrides):
        # They import torch, which --help need not wait for.
        from refexp.build import build
        from refexp.compose import resolve
        from refexp.experiment import run
        from refexp.show.run import Options, show_run
        from refexp.tracking.base import reading

        settings = resolve(config)
        Options.of(settings)  # names a mistake before anything is computed
        afterwards.enter_context(reading(build(settings.get("logger"), "logger"), output))
        if finished := run(config, output):
            show_run(finished)


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


def explain(error: BaseException) -> str:
    """Hydra's message as one line, with what to type instead."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    option = re.search(r"Could not find '([\w/]+)/(\S+)' Available options in '[\w/]+': (.*?) Config search path", text)
    if option:
        group, wrong, choices = option.groups()
        hint = " Any other number: shots=custom shots.n=7." if group == "shots" else ""
        own = "" if hint else " Options in a folder of your own: --config-dir DIR."
        return f"{group}={wrong}: no such option. {did_you_mean(wrong, choices.split())}{hint}{own}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        settings = [name for name in getattr(error.__cause__, "parent_node", None) or () if name != "_target_"]
        choices = did_you_mean(key[1].rsplit(".", 1)[-1], settings) if settings else ""
        return f"{key[1]}: no such key. {choices} `python main.py --cfg job` shows every key."
    return re.split(" full_key:| Config search path:", text)[0]
