"""Check that every component of refexp is correct on this GPU, and measure its speed. Needs no network and no weights.

    python benchmarks/gpu.py                       # correctness first, then speed, tables last
    python benchmarks/gpu.py --quick               # the small networks, two rows of timings
    python benchmarks/gpu.py --device cpu --quick  # the same script without a GPU
    python benchmarks/gpu.py --only sam2-small speed

No check starts after 5 minutes (--quick: 90 seconds). The skipped checks are listed. Each result is printed and written
to OUT/gpu.json immediately, so an interrupted run keeps its results. OUT/gpu.md has the tables.
Networks have RANDOM weights and real architectures: timings are real, detections are not.
The exit code is 1 if a difference exceeds its limit, or if nothing was checked or timed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu_checks import GROUPS, Bench
from gpu_speed import measure

from refexp.config.building import build
from refexp.errors import RefexpError, first_line
from refexp.files import write_json, write_text
from refexp.machine.provenance import commit, device_name, versions
from refexp.machine.runtime import Runtime

MINUTES = {True: 1.5, False: 5.0}
"""With --quick, and without: nothing starts after this many minutes. No limit on a CPU."""

CHECKS_SHARE = 0.65
"""The part of that time for the checks. Timings get the rest."""


def rows(device: torch.device, quick: bool) -> list[tuple[str, str, int, int]]:
    """The rows to time: networks, precision, survivors, points per side. Most important first."""
    if device.type == "cpu":
        some = [("small", "float32", 30, 6), ("small", "bfloat16", 30, 6)]
        return some if quick else [*some, ("small", "float32", 880, 32), ("small", "bfloat16", 880, 32)]
    first = [("small", "float32", 880, 32), ("large", "bfloat16", 880, 32)]
    if quick:
        return first
    every = [(pair, precision, 880, 32) for precision in ("float32", "tf32", "bfloat16") for pair in ("large", "small")]
    other = [(pair, precision, n, 32) for pair, precision, _, _ in every for n in (300, 1024)]
    return list(dict.fromkeys([*first, *every, *other]))


class Results:
    """The results so far. Writes them to disk after every result."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit(), "arguments": sys.argv[1:],
            "device": device_name(device), "machine": platform.machine(), "versions": versions(),
            "cuda": torch.version.cuda, "checks": [], "speed": [], "left out": [],
        }  # fmt: skip
        (folder / "gpu.md").unlink(missing_ok=True)  # of an earlier run
        self.write()

    def add(self, kind: str, result: Any, line: str) -> None:
        self.content[kind].append(result)
        print(line, flush=True)
        self.write()

    def write(self) -> None:
        write_json(self.folder / "gpu.json", self.content, indent=1)


def check_all(bench: Bench, results: Results, wanted: list[str], quick: bool, end: float) -> None:
    """Run the groups of checks. A group that raises counts as a failed check."""
    for name, group in GROUPS.items():
        if wanted and name not in wanted:
            continue
        why = "--quick" if quick and name.endswith("large") and not wanted else ""
        why = why or ("needs a GPU" if name == "out-of-memory" and not bench.gpu else "")
        why = why or ("no time" if time.monotonic() > end else "")
        if why:
            results.add("left out", f"{name} ({why})", f"--  {name}: left out ({why})")
            continue
        start = time.monotonic()
        print(f"{name} ...", flush=True)
        try:
            for check in group(bench):
                sign = "ok " if check.ok else "OFF"
                line = f"{sign} {check.name:<52} {check.off:.1e} of {check.limit:.0e}  {check.measure}"
                off = float(check.off) if math.isfinite(check.off) else None
                results.add("checks", asdict(check) | {"off": off, "ok": bool(check.ok)}, line)
        except Exception as error:
            line = f"OFF {name}: {type(error).__name__}: {first_line(error)}"
            results.add("checks", {"name": name, "ok": False, "error": traceback.format_exc()}, line)
        print(f"    {name}: {time.monotonic() - start:.0f} s", flush=True)


def time_all(device: torch.device, results: Results, quick: bool, end: float, folder: Path) -> None:
    """Time every row. Skips a row if the duration of the previous one would exceed the time limit."""
    last = 0.0
    for number, (pair, precision, survivors, side) in enumerate(rows(device, quick)):
        name = f"{pair}, {precision}, {survivors} of {side**2} points"
        if time.monotonic() + last > end:
            results.add("left out", f"{name} (no time)", f"--  {name}: left out (no time)")
            continue
        start = time.monotonic()
        print(f"{name} ...", flush=True)
        with_plain = number < 2 or (not quick and survivors == 880 and precision == "float32")
        try:
            row = measure(device, pair, precision, survivors, side, folder / str(number), with_plain)
        except Exception as error:
            line = f"OFF {name}: {type(error).__name__}: {first_line(error)}"
            results.add("checks", {"name": name, "ok": False, "error": traceback.format_exc()}, line)
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()
        last = time.monotonic() - start
        results.add("speed", row, " ".join(speed_line(row)))


def speed_line(row: dict[str, Any]) -> Iterator[str]:
    """One row of timings as text."""
    yield f"    {row['networks']} {row['precision']} {row['survivors']} of {row['points']}:"
    yield f"image {row['image']:.3f} s ({', '.join(f'{k} {v:.3f}' for k, v in row['stages'].items())});"
    yield f"into the store {row['into the store']:.3f} s an image of {row['proposals']:.0f} proposals"
    if row["busy"] is not None:
        yield f"; peak {row['peak MiB']:.0f} MiB; a kernel runs {100 * row['busy']:.0f} % of the time"
    if "plain" in row:
        yield f"; plain {row['plain']:.3f} s, ratio {row['ratio']:.2f}"


def tables(content: dict[str, Any]) -> Iterator[str]:
    """All results as Markdown."""
    torch_version, cuda = content["versions"]["torch"], content["cuda"] or "none"
    yield f"**{content['device']}**, torch {torch_version}, CUDA {cuda}. RANDOM weights."
    yield f"{content['date']}, commit {content['commit'] or 'unknown'}, arguments: {' '.join(content['arguments'])}."
    wrong = [check["name"] for check in content["checks"] if not check["ok"]]
    yield ""
    yield f"{len(content['checks'])} checks, {len(wrong)} off{': ' + '; '.join(wrong) if wrong else ''}."
    if content["left out"]:
        yield f"Left out: {'; '.join(content['left out'])}."
    if content["speed"]:
        yield ""
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|---" * len(COLUMNS) + "|"
    for row in content["speed"]:
        plain = f"{row['plain']:.3f} | **{row['ratio']:.1f}**" if "plain" in row else "- | -"
        peak = f"{row['peak MiB']:.0f}" if content["device"].startswith("cuda") else "-"
        gpu = f"{peak} | " + ("-" if row["busy"] is None else f"{100 * row['busy']:.0f} %")
        stages = ", ".join(f"{name} {1000 * value:.1f}" for name, value in row["stages"].items())
        yield (
            f"| {row['networks']} | {row['precision']} | {row['survivors']} of {row['points']} | {row['image']:.3f} | "
            f"{plain} | {row['into the store']:.3f} ({row['proposals']:.0f}) | {gpu} | {stages} |"
        )
    if content["speed"]:
        yield ""
        yield LEGEND


COLUMNS = (
    "networks", "precision", "survivors", "image, s", "reference, s", "ratio", "into the store, s (proposals)",
    "peak MiB", "kernel running", "by stage, ms",
)  # fmt: skip
LEGEND = """SAM2's image features are blurred, so that masks have some 300 runs each, as those of trained weights have.
survivors: points of the grid whose predicted IoU passes the threshold.
image: one photo of 640 x 427, from its file to its store entry; the device is synchronised after every stage.
reference: the same with plain.py, including matching and merging, on the same device and in the same precision.
into the store: seconds per image in an extraction of other photos, and the mean number of proposals per image.
peak MiB: GPU memory during that extraction. kernel running: fraction of the time in which a GPU kernel runs."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="auto, cpu, cuda (the default), or cuda:N")
    parser.add_argument("--quick", action="store_true", help="90 seconds instead of five minutes")
    groups = [*GROUPS, "speed"]
    only = f"run these groups only: {', '.join(groups)}"
    parser.add_argument("--only", nargs="+", choices=groups, metavar="GROUP", default=[], help=only)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder for gpu.json and gpu.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR)
    try:
        device = build({"device": options.device}, "runtime", Runtime).prepare()
    except RefexpError as error:
        said = str(error).replace("runtime.device", "--device")
        print(f"error: {said} Without a GPU: --device cpu --quick.", file=sys.stderr)
        return 2
    whole = 60 * MINUTES[options.quick] if device.type == "cuda" else math.inf
    end, checks_end = time.monotonic() + whole, time.monotonic() + CHECKS_SHARE * whole
    results = Results(options.out, device)
    print(f"{device_name(device)}, torch {torch.__version__}; results go to {options.out}", flush=True)
    with tempfile.TemporaryDirectory(prefix="refexp-gpu-") as temporary:
        wanted = options.only
        if wanted != ["speed"]:
            check_all(Bench(device, Path(temporary)), results, wanted, options.quick, checks_end)
        if not wanted or "speed" in wanted:
            time_all(device, results, options.quick, end, Path(temporary) / "speed")
    text = "\n".join(tables(json.loads((options.out / "gpu.json").read_text())))
    write_text(options.out / "gpu.md", text + "\n")
    print(f"\n{text}")
    checks, speed = results.content["checks"], results.content["speed"]
    return int(not all(check["ok"] for check in checks) or not (checks or speed))


if __name__ == "__main__":
    sys.exit(main())
