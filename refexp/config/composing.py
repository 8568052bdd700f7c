"""Compose a configuration from overrides: quote them for Hydra, resolve the result, and explain Hydra's errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from refexp.config.building import replacement
from refexp.errors import RefexpError, did_you_mean

MISTAKES = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
"""What Hydra raises for a mistake in the overrides or in the folder; see `explain`."""
PATH_KEYS = re.compile(
    r"(\+{0,2}(?:(?:dataset\.)?(?:images|references|reference_images|targets)|sampler\.path|data_root"
    r"|boxes|proposer\.(?:[\w.]+\.)?file"
    r"|(?:checkpoints|store)\.dir|hydra\.(?:run|sweep)\.dir))=(.+)"
)
NOT_PLAIN = re.compile(r"""^['"]|\$|\\$|^null$|^\?\?\?$""")
"""Matches a value that is already quoted, refers to another key, or is not a path."""
MANY = 20
"""Number of keys that a message does not list any more."""
OPTION_GROUPS = ("dataset", "encoder", "proposer", "shots", "sampler", "matcher", "postprocess", "evaluation", "logger")
"""The groups of conf/ that an experiment chooses from."""
NOT_A_NAME = re.compile(r"[-+]?[\d.]+|true|false", re.IGNORECASE)
"""Matches what Hydra reads as a number or a truth value, where the name of an option stands."""


def quoted(argument: str, multirun: bool = False) -> str:
    """Quote a command-line argument for Hydra.

    Without quotes, Hydra reads 1 as a number, rejects brackets in a path, and does not expand ~. Examples: `shots=1,10`
    -> `shots='1','10'`; `images=my photos (1)` -> `images='my photos (1)'`. multirun: commas separate values.
    """
    group, _, names = argument.partition("=")
    if group in OPTION_GROUPS and (several := re.fullmatch(r"\[([^\[\]]+)\]", names)):
        if "," not in several[1]:
            return quoted(f"{group}={several[1]}", multirun)
        if group != "postprocess":  # whose options are steps. Of other groups, Hydra would merge the settings
            raise RefexpError(f"{argument}: give one option. A sweep over several: -m {group}={several[1]}")
    if group in OPTION_GROUPS and re.fullmatch(r" *[\w.+-]+ *(, *[\w.+-]+ *)*", names):
        options = (f"'{name}'" if NOT_A_NAME.fullmatch(name) else name for name in names.replace(" ", "").split(","))
        return f"{group}={','.join(options)}"
    path = PATH_KEYS.fullmatch(argument)
    if path is None or NOT_PLAIN.search(path[2]) or (multirun and "," in path[2]):
        return argument
    value = str(Path(path[2]).expanduser()) if path[2].startswith("~") else path[2]
    return "{}='{}'".format(path[1], value.replace("'", r"\'"))


def conf_folder() -> Path:
    """The conf folder of the installed package, or else of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise RefexpError(f"no configuration in {package / 'conf'} or {package.parent / 'conf'}: install from a checkout.")


def compose_config(overrides: Sequence[str], conf: Path | None = None) -> DictConfig:
    """Compose overrides like the command line does. Interpolations stay unresolved.

    conf: the folder that contains config.yaml; None takes `conf_folder()`. Raises RefexpError for an error in the
    overrides or in the folder.
    """
    # Hydra's state is global. The caller may be a Hydra application, and importing SAM2 also leaves a state behind.
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str((conf or conf_folder()).resolve()), version_base="1.3"):
            return compose("config", [quoted(override) for override in overrides])
    except MISTAKES as error:
        raise RefexpError(explain(error)) from None
    finally:
        GlobalHydra.instance().hydra = before


def missing_keys(node: Any, prefix: str = "") -> list[str]:
    """The keys below a node whose value the user must set (`???`)."""
    if not isinstance(node, dict):
        return [prefix] if node == "???" else []
    return [key for name, value in node.items() for key in missing_keys(value, f"{prefix}.{name}" if prefix else name)]


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values. Raises RefexpError that names the wrong configuration key."""
    if missing := missing_keys(OmegaConf.to_container(config)):
        raise RefexpError(f"{', '.join(missing)} must be given: {' '.join(f'{key}=...' for key in missing)}")
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise RefexpError(f"{error.full_key}: {str(error.msg).splitlines()[0]}") from None
    return cast(dict[str, Any], plain)


def explain(error: BaseException) -> str:
    """Hydra's error message as one line, with a suggestion of what to type."""
    if isinstance(error, OverrideParseException):
        why = " ".join(str(error).partition(" See https")[0].split("\n")[0].split())
        hint = """A value with spaces, commas, brackets or = needs quotes within quotes: "key='a, b'"."""
        wrong = f"{error.override}: not understood"
        return f"{wrong}: {why}. {hint}" if "=" in error.override else f"{wrong}; write key=value."
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {error.problem}."
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    option = re.search(r"Could not find '([\w/]+)/(\S*)' Available options in '[\w/]+': (.*?) Config search path", text)
    if option:
        group, wrong, choices = option.groups()
        hint = " For another number: shots=custom shots.n=7." if group == "shots" else ""
        own = "" if hint else " For options in your own folder: --config-dir DIR."
        known = [choice for choice in choices.split() if not choice.startswith("_")]  # _*.yaml are bases, not options
        choice = replacement(group, wrong) or did_you_mean(wrong, known)
        return f"{group}={wrong}: no such option. {choice}{hint}{own}"
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        settings = [name for name in getattr(error.__cause__, "parent_node", None) or () if name != "_target_"]
        choices = replacement(key[1], None) or (did_you_mean(key[1].rsplit(".", 1)[-1], settings) if settings else "")
        choices = choices if len(settings) <= MANY else choices.partition("Choices:")[0]
        parts = f"{key[1]}: no such key.", choices.strip(), "`python main.py --cfg job` lists all keys."
        return " ".join(filter(None, parts))
    several = re.search(r"Ambiguous value for argument '(.*?)=(.*)' 1\.", text)
    if several:
        name, value = several[1], several[2].replace("'", "")
        quotes = "" if name in (*OPTION_GROUPS, "experiment", "task") else f" Or quote one value: \"{name}='{value}'\"."
        return f"{name}={value}: several values make a sweep: add -m.{quotes}"
    return re.split(" full_key:| Config search path:", text)[0]
