"""The edge between a person's command line and the code: mistakes become one line, faults keep their traceback."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from refexp.errors import RefexpError

log = logging.getLogger("refexp")


class JobFailed(Exception):
    """A job failed, and its log says why."""


def command_line(main: Callable[[], object]) -> int:
    """Run a Hydra application; the exit code is 0 only if everything went well."""
    # Hydra would shorten tracebacks and leave through sys.exit; errors are told apart here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [quote_numbered_option(argument) for argument in sys.argv[1:]]
    from hydra.errors import HydraException

    try:
        main()
    except JobFailed:
        return 1  # `job` has told why
    except HydraException as error:
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
    """Log a job's failure at once and into its log file: in a multirun Hydra reports only the first, at the end."""
    try:
        yield
    except RefexpError as error:
        log.error("%s", error)
        raise JobFailed from None
    except Exception as error:
        log.exception("this job failed")
        raise JobFailed from error


def explain(error: BaseException) -> str:
    """Hydra's message as one line, with what to type instead."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if error.__cause__ is not None and "Could not override" in lines[0]:
        lines = lines[:1] + [line.strip() for line in str(error.__cause__).splitlines()[:1]]
    message = " ".join(line for line in lines if not line.startswith(("full_key:", "object_type=", "Set the env")))
    if "'shots/" in message:
        message += " Any other number: shots=custom shots.n=7."
    return message
