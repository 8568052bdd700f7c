"""The edge between a person's command line and the code: mistakes become one line, faults keep their traceback."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from refexp.errors import RefexpError, did_you_mean

log = logging.getLogger("refexp")


class JobFailed(Exception):
    """A job failed, and its log says why."""


def command_line(main: Callable[[], object]) -> int:
    """Run a Hydra application; the exit code is 0 only if everything went well."""
    # Hydra would shorten tracebacks and leave through sys.exit; errors are told apart here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [quote_numbered_option(argument) for argument in sys.argv[1:]]
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        main()
    except JobFailed:
        return 1  # `job` has told why
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command starts again", file=sys.stderr)
        return 130
    return 0


def quote_numbered_option(argument: str) -> str:
    """`shots=1,10` -> `shots='1','10'`: Hydra takes a bare 1 for a number, and a number for no option of a group."""
    found = re.fullmatch(r"shots=(\d+(?:,\d+)*)", argument)
    return "shots=" + ",".join(f"'{number}'" for number in found[1].split(",")) if found else argument


@contextmanager
def job() -> Iterator[None]:
    """Log a job's failure at once and into its log file; the other jobs of a multirun go on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RefexpError):
            log.error("%s", error)
        else:
            log.exception("this job failed")
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        # Hydra reports a failed job of a multirun only when all are done, and a single one with a line of its own.
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise JobFailed from error
        sys.exit(1)


def explain(error: BaseException) -> str:
    """Hydra's message as one line, with what to type instead."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    option = re.search(r"Could not find '(\w+)/(\S+)' Available options in '\w+': (.*?) Config search path", text)
    if option:
        group, wrong, choices = option.groups()
        hint = " Any other number: shots=custom shots.n=7." if group == "shots" else ""
        return f"{group}={wrong}: no such option. {did_you_mean(wrong, choices.split())}{hint}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        settings = [name for name in getattr(error.__cause__, "parent_node", None) or () if name != "_target_"]
        choices = did_you_mean(key[1].rsplit(".", 1)[-1], settings) if settings else ""
        return f"{key[1]}: no such key. {choices} `python main.py --cfg job` shows every key."
    return text.split(" full_key:")[0]
