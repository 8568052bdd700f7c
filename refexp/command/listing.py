"""`refexp ls`: list the options of an experiment, with the comment at the top of each option's file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("ls")
@click.argument("group", required=False)
def ls(group: str | None) -> None:
    """List the options of a group, or of all groups, with those of installed packages and of conf/ in this folder.

    \b
    refexp ls
    refexp ls encoder
    """
    from refexp.config.composing import OPTION_GROUPS, conf_folder
    from refexp.config.options import options_of
    from refexp.config.plugins import option_folders
    from refexp.errors import RefexpError, did_you_mean

    folders = [folder for folder in (conf_folder(), *option_folders().values(), own_conf()) if folder]
    groups = (*OPTION_GROUPS, "hydra/launcher", "experiment")
    if group is not None and group not in groups:
        raise RefexpError(f"ls {group}: no such group. {did_you_mean(group, groups)}")
    if group is None:
        for name in groups:
            click.echo(f"{name:<15} {', '.join(option.name for option in options_of(name, folders))}")
        return
    for option in options_of(group, folders):
        click.echo(f"{group}={option.name:<20} {option.text}".rstrip())
        for label in ("source", "cost"):
            if said := getattr(option, label):
                click.echo(f"{' ' * len(group)} {' ' * 20} {label}: {said}")


def own_conf() -> Path | None:
    """conf/ in the current folder, if it holds options of your own.

    One with a config.yaml belongs to a checkout or another program.
    """
    own = Path.cwd() / "conf"
    return own if own.is_dir() and not (own / "config.yaml").exists() else None
