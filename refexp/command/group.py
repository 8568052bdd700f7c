"""The command `refexp`: a group that imports each command only when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from typing import Any, NoReturn

import click

from refexp.command.saying import any_terminal, bug
from refexp.errors import RefexpError, reason

COMMANDS = {
    "run": ("refexp.command.running:run", "Run an experiment; with -m a sweep of them."),
    "predict": ("refexp.command.running:predict", "Segment the objects of your references in your own photos."),
    "validate": ("refexp.command.running:validate", "Check a configuration, or test a component, without a run."),
    "ls": ("refexp.command.listing:ls", "List the available options: data sets, encoders, matchers, ..."),
    "show": ("refexp.command.looking:show", "Print the tables and rebuild the pages of a run or a sweep."),
    "summary": ("refexp.command.looking:summary", "Summarise many runs in tables and plots."),
    "compare": ("refexp.command.looking:compare", "Compare two runs: what was won and lost, by image and by class."),
    "export": ("refexp.command.looking:export", "Make the detections of a run again, from the store."),
    "push": ("refexp.command.looking:push", "Send finished runs to Weights & Biases."),
    "dashboard": ("refexp.command.looking:dashboard", "Build a W&B report that compares the runs of a sweep."),
    "sweep": ("refexp.command.keeping:sweep", "Plan a sweep, or manage its jobs: status, collect, cancel, retry."),
    "store": ("refexp.command.keeping:store", "Manage the store: ls, verify, prune, migrate, export, import."),
    "weights": ("refexp.command.keeping:weights", "Download official weights and check their SHA-256."),
    "data": ("refexp.datatools.cli:data", "Check, download and convert data sets."),
}
"""Each command's module and name, and its line in `refexp --help`. The help therefore imports no command."""

EXAMPLES = """
  refexp run                                        the embedded default: offline, on a CPU
  refexp run -m shots=1,5,10 seed=0,1,2             an ablation
  refexp predict references=refs/ images=photos/    your own photos
  refexp ls encoder                                 all encoder options
"""


class LazyGroup(click.Group):
    """A click group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would say "Aborted!"
            click.echo("interrupted. Run the same command again to resume.", err=True)
            ctx.exit(130)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write(EXAMPLES.lstrip("\n"))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="refexp")
def refexp() -> None:
    """Run experiments in reference-based instance segmentation."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command. An error becomes one line and exit code 1. arguments: None takes sys.argv."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    any_terminal()
    try:
        refexp.main(arguments, prog_name="refexp")
    except (RefexpError, OSError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
    except Exception as error:
        traceback.print_exc()
        print(f"error: {bug(error, 'these lines')}", file=sys.stderr)
    sys.exit(1)
