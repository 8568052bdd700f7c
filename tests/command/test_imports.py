"""What importing refexp does to a program that is not refexp's own, and what its own programs do before torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOK = """
import json, os, sys
before, modules = dict(os.environ), set(sys.modules)
import {module}
print(json.dumps([dict(os.environ) == before, sorted(set(sys.modules) - modules)]))
"""
WATCH = """
import os, runpy, sys

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print("GOMP_SPINCOUNT is", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch)
sys.path.insert(0, {root!r})
sys.argv[0] = {program!r}
runpy.{run}({program!r}, run_name="__main__")
"""


def python(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """What a fresh interpreter prints that inherits nothing: this process has imported refexp already."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env={"PATH": os.environ["PATH"]} | environment, timeout=120,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(module: str) -> tuple[bool, set[str]]:
    """Whether importing a module leaves the environment alone, and the modules that it brings along."""
    same, modules = json.loads(python(LOOK.format(module=module), PYTHONPATH=str(ROOT)))
    return same, set(modules)


def test_importing_refexp_changes_nothing():
    same, modules = imported("refexp")
    assert same
    assert not modules & {"torch", "numpy"}


def test_other_hydra_applications_do_not_wait_for_refexp():
    same, modules = imported("hydra_plugins.refexp")
    assert same
    assert not {name for name in modules if name.startswith("refexp.")}
    assert not modules & {"pydantic", "torch", "submitit", "pandas"}


@pytest.mark.parametrize("given", [None, "7"])
@pytest.mark.parametrize("program", ["main.py", "refexp"])
def test_threads_wait_briefly_in_programs_of_refexp(program, given, tmp_path):
    script = program.endswith(".py")
    code = WATCH.format(
        root=str(ROOT), program=str(ROOT / program) if script else program, run="run_path" if script else "run_module"
    )
    (tmp_path / "boxes.json").write_text("{}")
    arguments = [] if script else ["data", "boxes2masks", "boxes.json", "--images", ".", "--out", "masks.json"]
    printed = python(code, *arguments, cwd=tmp_path, **({"GOMP_SPINCOUNT": given} if given else {}))
    assert printed.splitlines()[-1] == f"GOMP_SPINCOUNT is {given or 5000}"
