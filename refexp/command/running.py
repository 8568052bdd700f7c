"""`refexp run`, `predict` and `validate`: run experiments from any folder, with or without a checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from refexp.command.listing import own_conf

RAW = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
"""Hydra parses everything after the command, including --help."""
HELPED = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}
"""Hydra parses everything but --help."""


@click.command(context_settings=RAW)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def run(overrides: tuple[str, ...]) -> None:
    """Run an experiment, like `python main.py` in a checkout. -m runs a sweep."""
    run_hydra("run", overrides)


@click.command(context_settings=HELPED)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def predict(overrides: tuple[str, ...]) -> None:
    """Segment the objects of your references in your own photos.

    \b
    refexp predict references=refs/ images=photos/
    refexp predict references=refs.json reference_images=DIR images=photos/ masks=true

    \b
    images=DIR               the photos: a folder, with its subfolders, or one file
    references=REFS          folder refs/<class>/ of images with masks, or a COCO file
    reference_images=DIR     the images of the COCO file; default: searched beside it
    vis.score_threshold=0.6  the lowest score that is listed, drawn and written as a mask
    masks=true               write each mask as a PNG
    summary=json             the list of detections as JSON, not CSV
    experiment=paper         SAM2 and DINOv2, not the embedded default

    All keys: refexp predict references=R images=I --cfg job
    """
    run_hydra("predict", [*overrides, "task=predict"])


def run_hydra(command: str, overrides: Sequence[str]) -> None:
    """Pass the command line to Hydra. Does not return."""
    from refexp.machine.processes import wait_briefly

    wait_briefly()  # before PyTorch is imported
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from refexp.command.job import command_line, run_job
    from refexp.config.composing import conf_folder

    def experiment(config: object) -> float | None:
        running = HydraConfig.get()
        return run_job(config, Path(running.runtime.output_dir), list(running.overrides.task))  # type: ignore[arg-type]

    own = own_folder(overrides)
    sys.argv = [f"refexp {command}", *(["--config-dir", str(own)] if own else []), *overrides]
    main = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(experiment)
    sys.exit(command_line(main))


def own_folder(overrides: Sequence[str]) -> Path | None:
    """Make your own components available: modules in the current folder, and options in the conf/ that this returns."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    # Jobs of a sweep are separate processes and need the path, too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    given = any(override.split("=")[0] in ("--config-dir", "-cd") for override in overrides)
    return None if given else own_conf()


@click.command()
@click.argument("overrides", nargs=-1)
@click.option("--config-dir", "-cd", "own", type=click.Path(path_type=Path), help="A folder with your own options.")
@click.option("--try", "attempt", is_flag=True, help="Also run the components on two synthetic images.")
def validate(overrides: tuple[str, ...], own: Path | None, attempt: bool) -> None:
    """Check a configuration without running it.

    \b
    refexp validate experiment=coco_fsod shots=30       check for errors, missing weights and data
    refexp validate encoder=mine --try                  check that a component keeps its contract

    """
    from refexp.config.composing import compose_config
    from refexp.config.validating import check_config, try_component

    own = own.absolute() if own else own_folder(overrides)
    place = str(own).replace("'", r"\'")
    words = [*([f"hydra.searchpath=['file://{place}']"] if own else []), *overrides]
    lines = check_config(words)
    if attempt and all(line.ok for line in lines if line.component not in ("dataset", "store")):
        lines += try_component(compose_config(words))
    for line in lines:
        click.echo(f"{'ok    ' if line.ok else 'WRONG '} {line.component}: {line.message}")
    sys.exit(0 if all(line.ok for line in lines) else 1)
