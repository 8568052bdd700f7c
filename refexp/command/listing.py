"""`refexp ls`: list the options of an experiment, with the comment at the top of each option's file."""

from __future__ import annotations

from pathlib import Path

import click

GROUPS = (
    "dataset", "encoder", "proposer", "shots", "sampler", "matcher", "postprocess", "evaluation", "logger",
    "hydra/launcher", "experiment",
)  # fmt: skip


@click.command("ls")
@click.argument("group", required=False)
def ls(group: str | None) -> None:
    """List the options of a group, or of all groups, with those of installed packages and of conf/ in this folder.

    \b
    refexp ls
    refexp ls encoder
    """
    from refexp.config.composing import conf_folder
    from refexp.config.plugins import option_folders
    from refexp.errors import RefexpError, did_you_mean

    folders = [folder for folder in (conf_folder(), *option_folders().values(), own_conf()) if folder]
    if group is not None and group not in GROUPS:
        raise RefexpError(f"ls {group}: no such group. {did_you_mean(group, GROUPS)}")
    for name in (group,) if group else GROUPS:
        # Of two options with one name, Hydra takes that of the first folder.
        files = {path.stem: path for folder in reversed(folders) for path in sorted((folder / name).glob("[!_]*.yaml"))}
        # Shots sort by number: 1, 2, 3, 5, 10.
        order = sorted(files, key=lambda option: (not option.isdigit(), int(option) if option.isdigit() else 0, option))
        if group:
            for option in order:
                click.echo(f"{name}={option:<20} {described(files[option])}".rstrip())
        else:
            click.echo(f"{name:<15} {', '.join(order)}")


def own_conf() -> Path | None:
    """conf/ in the current folder, if it holds options of your own.

    One with a config.yaml belongs to a checkout or another program.
    """
    own = Path.cwd() / "conf"
    return own if own.is_dir() and not (own / "config.yaml").exists() else None


def described(path: Path) -> str:
    """The comment at the top of an option's file."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return " ".join(lines)
