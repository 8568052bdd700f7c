"""Variants of one extraction evaluated together: seconds and memory for 1, 10 and 60, on a GENERATED store.

python benchmarks/generated.py FOLDER    # once: 240 scenes repeated to 5,000 images, 1 GB
python benchmarks/ablate.py FOLDER       # a quarter of an hour on two cores
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generated import overrides

MAIN = Path(__file__).resolve().parent.parent / "main.py"
VARIANTS = {
    1: ["shots=5", "seed=0"],
    10: ["shots=5,10", "seed=0,1,2,3,4"],
    60: ["shots=1,2,3,5,10,30", "seed=0,1,2,3,4,5,6,7,8,9"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", type=int, nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--detections", choices=["json", "gz", "none"], default="none")
    options = parser.parse_args()
    print("| variants | images | seconds | search | of each variant: write, evaluate, other | memory GB |")
    print("|---|---|---|---|---|---|")
    for images in options.images:
        for count in options.variants:
            print(row(options.folder.absolute(), count, images, options.detections), flush=True)


def row(folder: Path, count: int, images: int, detections: str) -> str:
    """Time one multirun in a process of its own. Returns a row of the table."""
    with tempfile.TemporaryDirectory() as out:
        words = [*overrides(folder), *VARIANTS[count], f"input.limit={images}", f"detections={detections}"]
        start = time.perf_counter()
        run = subprocess.Popen(
            [sys.executable, str(MAIN), "-m", *words, f"hydra.sweep.dir={out}"], cwd=MAIN.parent,
            stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        memory = 0
        while run.returncode is None:
            try:
                run.wait(5)  # asking every half second took a seventh of a core: the kernel walks all pages
            except subprocess.TimeoutExpired:
                memory = max(memory, proportional(run.pid))
        seconds = time.perf_counter() - start
        if run.returncode:
            sys.exit(f"the multirun ended with {run.returncode}")
        stages = [json.loads(path.read_text())["stages"] for path in sorted(Path(out).glob("*/metrics.json"))]

    def total(*names: str) -> float:
        return sum(one.get(name, {}).get("seconds", 0.0) for one in stages for name in names)

    each = [total(name) / count for name in ("write detections", "evaluate", "other")]
    cells = [count, images, f"{seconds:.0f}", f"{total('detect'):.0f}", ", ".join(f"{one:.2f}" for one in each)]
    return f"| {' | '.join(map(str, cells))} | {memory / 1e6:.1f} |"


def proportional(pid: int) -> int:
    """The memory of a process and its children in kB, with shared pages counted once (Linux's PSS)."""
    total = 0
    for one in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it has just ended
            continue
    return total


if __name__ == "__main__":
    main()
